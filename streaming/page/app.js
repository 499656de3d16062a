// The page: buttons, the session, what is drawn.
import { Head, readFace } from "./head.js";
import { Session, withToken } from "./session.js";
import { Microphone, Recording, wavFile } from "./sound.js";
import { Timeline } from "./timeline.js";

const DELAY_S = 0.07; // behind the newest frame of a microphone, so that steps do not show
const RETRY_MS = 1500;
const LATEST_S = 10; // that frames may still come after the end of a recording
const LONGEST_S = 600; // of sound that is kept for "Save"
const BUTTONS = ["microphone", "recording", "file", "subject"];

const byId = (id) => document.getElementById(id);
const head = new Head(byId("head"));
const state = { info: null, context: null, source: null, session: null, timeline: null, kept: [], keptRate: 0,
  keptSamples: 0, shown: null, instant: 0, last: performance.now(), drawn: 0, counted: performance.now(), wanted: false };
globalThis.liveHead = { head, state }; // for tests and for the console

function say(text, name = document.body.dataset.state) {
  byId("status").textContent = text;
  document.body.dataset.state = name;
}

class Unreachable extends Error {}

async function ask(path, options) {
  const response = await fetch(withToken(path), options).catch(() => {
    throw new Unreachable("The program does not answer. Start it again, or reload this page.");
  });
  if (response.ok) return response;
  let reason = `${response.status}`;
  try {
    reason = (await response.json()).error;
  } catch { /* no reason was given */ }
  throw new Error(reason);
}

async function load() {
  for (;;) {
    try {
      state.info = await (await ask("/api/info")).json();
      if (!state.info.components) throw new Error("The model's head has no components; use the bundled model.");
      fillSubjects();
      await showSubject();
      BUTTONS.forEach((id) => { byId(id).disabled = false; });
      say("", "ready");
      return;
    } catch (error) {
      const lost = error instanceof Unreachable;
      say(lost ? "The program does not answer. Trying again…" : error.message, "lost");
      if (!lost) return;
      await new Promise((done) => { setTimeout(done, RETRY_MS); });
    }
  }
}

function fillSubjects() {
  const chosen = byId("subject").value || state.info.subject;
  byId("subject").replaceChildren(...state.info.subjects.map((name) => new Option(name, name, false, name === chosen)));
}

async function showSubject() {
  const subject = encodeURIComponent(byId("subject").value);
  const buffer = await (await ask(`/api/face?subject=${subject}`)).arrayBuffer();
  head.show(readFace(buffer));
  state.timeline = new Timeline(state.info.fps);
  state.shown = null;
}

function audioContext() {
  state.context ??= new AudioContext();
  return state.context.resume().then(() => state.context);
}

function keep(samples) {
  if (state.keptSamples > LONGEST_S * state.keptRate) return;
  state.kept.push(samples.slice());
  state.keptSamples += samples.length;
}

function openSession(context, start) {
  state.timeline.clear();
  state.instant = 0;
  state.ended = false;
  state.session = new Session({ rate: context.sampleRate, subject: byId("subject").value }, {
    hello: start,
    frames: (first, frames) => {
      state.timeline.add(first, frames);
      document.body.dataset.frames = state.timeline.count;
      const { source } = state;
      if (source instanceof Recording && source.begin === null && state.timeline.newest > 0.25) source.play();
    },
    stats: (stats) => {
      byId("p50").textContent = stats.p50_ms === undefined ? "–" : `${Math.round(stats.p50_ms)} ms`;
      byId("p95").textContent = stats.p95_ms === undefined ? "–" : `${Math.round(stats.p95_ms)} ms`;
      byId("dropped").textContent = `${(stats.dropped_ms / 1000).toFixed(1)} s`;
    },
    ended: () => { // of a recording that is too short for the frames that playing waits for
      const { source } = state;
      state.ended = true;
      if (source instanceof Recording && source.begin === null) source.play();
    },
    error: ({ message }) => say(message, "error"),
    closed: (expected) => { if (!expected) reconnect(); else if (document.body.dataset.state === "error") finish(); },
  });
}

// The connection was lost: wait for the program, then go on where that is possible.
async function reconnect() {
  const { source } = state;
  state.session = null;
  say("The connection was lost. Trying again…", "lost");
  for (;;) {
    await new Promise((done) => { setTimeout(done, RETRY_MS); });
    if (state.source !== source) return;
    try {
      await ask("/healthz");
      break;
    } catch { /* it is still away */ }
  }
  if (source instanceof Microphone) {
    openSession(state.context, () => say("Listening", "listening"));
  } else {
    finish();
    say("Connected again.", "ready");
  }
}

function begin(source) {
  finish();
  Object.assign(state, { source, kept: [], keptSamples: 0, keptRate: state.context.sampleRate });
  byId("stop").disabled = false;
  byId("subject").disabled = true;
  document.querySelectorAll(".save").forEach((button) => { button.disabled = true; });
}

function finish() {
  state.source?.stop();
  state.session?.close();
  Object.assign(state, { source: null, session: null });
  byId("microphone").setAttribute("aria-pressed", "false");
  byId("stop").disabled = true;
  byId("subject").disabled = false;
  document.querySelectorAll(".save").forEach((button) => { button.disabled = !state.keptSamples; });
  if (document.body.dataset.state !== "error") say("", "ready");
}

async function useMicrophone() {
  if (state.source instanceof Microphone) {
    finish();
    return;
  }
  const context = await audioContext();
  const microphone = await Microphone.open(context);
  begin(microphone);
  byId("microphone").setAttribute("aria-pressed", "true");
  openSession(context, () => {
    say("Listening", "listening");
    microphone.start((samples) => {
      keep(samples);
      state.session?.send(samples);
    });
  });
}

async function useRecording(data) {
  const context = await audioContext();
  const recording = await Recording.open(context, data);
  begin(recording);
  openSession(context, () => {
    say("Speaking", "speaking");
    recording.start((samples) => {
      keep(samples);
      state.session?.send(samples);
    }, () => state.session?.end());
  });
}

async function save(button) {
  const { format } = button.dataset;
  button.disabled = true;
  say(`Making the ${button.textContent.replace("Save ", "")}…`, "saving");
  try {
    const subject = encodeURIComponent(byId("subject").value);
    const body = wavFile(state.kept, state.keptRate);
    const blob = await (await ask(`/api/files/${format}?subject=${subject}`, { method: "POST", body })).blob();
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `speech.${format}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    document.body.dataset.saved = format;
    say("", "ready");
  } finally {
    button.disabled = false;
  }
}

// The coefficients to show now, or null for the neutral face.
function wantedPose(elapsed) {
  const { source, timeline } = state;
  if (!source || !timeline?.count) return null;
  if (source instanceof Recording) {
    if (source.isOver && (state.ended || source.instant > source.buffer.duration + LATEST_S)) finish();
    return source.begin === null ? null : timeline.at(source.instant);
  }
  const target = timeline.newest - DELAY_S;
  state.instant += elapsed;
  if (Math.abs(target - state.instant) > 0.3) state.instant = target;
  state.instant += 0.1 * (target - state.instant);
  return timeline.at(state.instant);
}

function frame(now) {
  const elapsed = Math.min((now - state.last) / 1000, 0.2);
  state.last = now;
  if (head.mesh) {
    const { rank } = head.face;
    const wanted = wantedPose(elapsed);
    const pause = wanted ? byId("smooth").value / 1000 : 0.12; // a face at rest returns slowly
    const share = pause > 0 ? 1 - Math.exp(-elapsed / pause) : 1;
    state.shown ??= { pose: new Float32Array(rank), gain: 0 };
    const { shown } = state;
    const gain = wanted ? byId("gain").value / 100 : 0;
    if (wanted) shown.pose = shown.pose.map((value, k) => value + share * (wanted[k] - value));
    shown.gain += (wanted ? 1 : share) * (gain - shown.gain);
    head.pose(shown.pose, shown.gain);
    head.draw();
    document.body.dataset.gap = head.gap().toFixed(2);
  }
  state.drawn += 1;
  if (now - state.counted > 1000) {
    byId("rate").textContent = Math.round((1000 * state.drawn) / (now - state.counted));
    Object.assign(state, { drawn: 0, counted: now });
  }
  requestAnimationFrame(frame);
}

// Runs what a button asks for, and shows why it failed.
function act(work) {
  return (event) => Promise.resolve(work(event)).catch((error) => {
    finish();
    say(error.message, "error");
  });
}

byId("microphone").addEventListener("click", act(useMicrophone));
byId("recording").addEventListener("click", act(async () => useRecording(await (await ask("/api/recording")).arrayBuffer())));
byId("stop").addEventListener("click", act(finish));
byId("subject").addEventListener("change", act(showSubject));
byId("file").addEventListener("change", act(async ({ target }) => {
  const [file] = target.files;
  if (file) await useRecording(await file.arrayBuffer());
  target.value = "";
}));
document.querySelectorAll(".save").forEach((button) => button.addEventListener("click", act(() => save(button))));
byId("gain").addEventListener("input", ({ target }) => { byId("gain-value").textContent = `${target.value} %`; });
byId("smooth").addEventListener("input", ({ target }) => {
  byId("smooth-value").textContent = target.value === "0" ? "off" : `${target.value} ms`;
});
byId("background").addEventListener("change", ({ target }) => {
  byId("stage").style.background = target.value === "page" ? "" : target.value;
});
addEventListener("dragover", (event) => {
  event.preventDefault();
  byId("drop").hidden = false;
});
addEventListener("dragleave", (event) => { if (!event.relatedTarget) byId("drop").hidden = true; });
addEventListener("drop", act(async (event) => {
  event.preventDefault();
  byId("drop").hidden = true;
  const [file] = event.dataTransfer.files;
  if (file) await useRecording(await file.arrayBuffer());
}));

requestAnimationFrame(frame);
load();
