// The page: buttons, the session, what is drawn.
import { Head, readFace } from "./head.js";
import { Kept } from "./kept.js";
import { Motion } from "./motion.js";
import { Session, withToken } from "./session.js";
import { Microphone, Recording } from "./sound.js";
import { Timeline } from "./timeline.js";

const RETRY_MS = 1500;
const TAIL_MS = 300; // between the end of a recording and that of its motion
const BUTTONS = ["microphone", "recording", "file", "subject"];

const byId = (id) => document.getElementById(id);
const state = { info: null, context: null, source: null, session: null, timeline: null, kept: null, task: 0,
  ended: false, saving: new Set() };
let head;
let motion;

// `name` says what the page does: loading, ready, opening, listening, speaking, saving, lost or error.
function say(text, name = document.body.dataset.state) {
  byId("status").textContent = text;
  document.body.dataset.state = name;
}

class Unreachable extends Error {}
class Stale extends Error {} // the user asked for something else meanwhile

// What a promise gives; throws `Stale` when another task began before, and discards the result.
async function current(promise, discard = () => {}) {
  const { task } = state;
  const result = await promise.catch((error) => {
    if (task !== state.task) throw new Stale();
    throw error;
  });
  if (task === state.task) return result;
  discard(result);
  throw new Stale();
}

// Runs what a button asks for, and shows why it failed.
function act(work) {
  return async (event) => {
    try {
      await work(event);
    } catch (error) {
      if (error instanceof Stale) return;
      finish();
      say(error.message, "error");
    }
  };
}

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

const wait = (milliseconds) => new Promise((done) => { setTimeout(done, milliseconds); });

// Shows the program's faces, as soon as it answers.
async function connect() {
  for (;;) {
    try {
      state.info = await (await current(ask("/api/info"))).json();
      if (!state.info.components) throw new Error("The model's head has no components; use the bundled model.");
      fillSubjects();
      await current(showSubject());
      state.timeline = new Timeline(state.info.fps);
      return;
    } catch (error) {
      if (!(error instanceof Unreachable)) throw error;
      say("The program does not answer. Trying again…", "lost");
      await current(wait(RETRY_MS));
    }
  }
}

async function load() {
  await connect();
  BUTTONS.forEach((id) => { byId(id).disabled = false; });
  say("", "ready");
}

function fillSubjects() {
  const chosen = byId("subject").value || state.info.subject;
  byId("subject").replaceChildren(...state.info.subjects.map((name) => new Option(name, name, false, name === chosen)));
}

async function showSubject() {
  const subject = byId("subject").value;
  const buffer = await (await ask(`/api/face?subject=${encodeURIComponent(subject)}`)).arrayBuffer();
  if (subject !== byId("subject").value) return; // another was chosen meanwhile
  head.show(readFace(buffer));
  motion.reset();
}

// A running audio context. Browsers start one only after a click or a key.
async function audioContext() {
  state.context ??= new AudioContext();
  const { task } = state;
  const timer = setTimeout(() => {
    if (task === state.task) say("Click here: the browser plays sound only after a click.");
  }, 500);
  await current(state.context.resume());
  clearTimeout(timer);
  return state.context;
}

function openSession(start) {
  state.timeline.clear();
  state.ended = false;
  const session = new Session({ rate: state.context.sampleRate, subject: byId("subject").value }, {
    hello: start,
    frames: (first, frames) => {
      state.timeline.add(first, frames);
      document.body.dataset.frames = state.timeline.count;
      if (state.timeline.newest > 0.25) playRecording();
    },
    stats: (stats) => {
      byId("p50").textContent = stats.p50_ms === undefined ? "–" : `${Math.round(stats.p50_ms)} ms`;
      byId("p95").textContent = stats.p95_ms === undefined ? "–" : `${Math.round(stats.p95_ms)} ms`;
      byId("dropped").textContent = `${(stats.dropped_ms / 1000).toFixed(1)} s`;
    },
    ended: () => {
      state.ended = true;
      playRecording(); // one that is too short for the frames that playing waits for
      finishRecording();
    },
    error: ({ message }) => {
      finish();
      say(message, "error");
    },
    closed: () => { if (session === state.session) act(reconnect)(); },
  });
  state.session = session;
}

function playRecording() {
  const { source } = state;
  if (source instanceof Recording && source.begin === null) source.play(finishRecording);
}

// Ends a recording that has been played and whose frames have all come.
function finishRecording() {
  const { source } = state;
  if (!(source instanceof Recording) || !source.isOver || !state.ended) return;
  setTimeout(() => { if (source === state.source) finish(); }, TAIL_MS);
}

// The connection was lost: wait for the program, then go on where that is possible.
async function reconnect() {
  const { source } = state;
  state.session = null;
  say("The connection was lost. Trying again…", "lost");
  await current(wait(RETRY_MS));
  await connect();
  if (source instanceof Microphone) {
    openSession(() => listen(source));
  } else {
    finish();
    say("Connected again.");
  }
}

// Ends what goes on and begins a task, which the user can stop.
function open(text) {
  finish();
  say(text, "opening");
  byId("stop").disabled = false;
}

function begin(source) {
  const { limits } = state.info;
  const rate = state.context.sampleRate;
  const longest = Math.min(limits.upload_s * rate, limits.upload_bytes / 2 - rate);
  Object.assign(state, { source, kept: new Kept(rate, longest) });
  byId("subject").disabled = true;
  showSaveButtons();
}

function finish() {
  state.task += 1;
  state.source?.stop();
  const { session } = state;
  Object.assign(state, { source: null, session: null });
  session?.close();
  byId("microphone").setAttribute("aria-pressed", "false");
  byId("subject").disabled = !state.timeline;
  if (document.activeElement === byId("stop")) byId("microphone").focus(); // a disabled button loses it
  byId("stop").disabled = true;
  showSaveButtons();
  say("", "ready");
}

function showSaveButtons() {
  const canSave = !state.source && state.kept?.length > 0;
  document.querySelectorAll(".save").forEach((button) => {
    button.disabled = !canSave;
    button.setAttribute("aria-busy", state.saving.has(button));
  });
}

function send(samples) {
  state.kept.add(samples);
  state.session?.send(samples);
}

async function useMicrophone() {
  if (state.source instanceof Microphone) {
    finish();
    return;
  }
  open("Waiting for the microphone…");
  const context = await audioContext();
  const microphone = await current(Microphone.open(context), (late) => late.stop());
  begin(microphone);
  byId("microphone").setAttribute("aria-pressed", "true");
  openSession(() => listen(microphone));
}

function listen(microphone) {
  say("Listening", "listening");
  const lost = act(() => { throw new Error("The microphone was disconnected."); });
  if (!microphone.node) act(() => microphone.start(send, lost))();
}

// read: a function that gives the bytes of a file
async function useRecording(read) {
  open("Reading the recording…");
  const context = await audioContext();
  const recording = await current(read().then((bytes) => Recording.open(context, bytes)));
  begin(recording);
  openSession(() => {
    say("Speaking", "speaking");
    recording.start(send, () => state.session?.end());
  });
}

async function save(button) {
  const { format } = button.dataset;
  if (state.saving.has(button)) return;
  const { task } = state;
  const tell = (text, name) => { if (task === state.task) say(text, name); };
  state.saving.add(button);
  showSaveButtons();
  try {
    tell(`Making the ${button.textContent.replace("Save ", "")}…`, "saving");
    const wishes = new URLSearchParams({ subject: byId("subject").value });
    const background = byId("background").value;
    if (background !== "page") wishes.set("background", background);
    const body = state.kept.file();
    const blob = await (await ask(`/api/files/${format}?${wishes}`, { method: "POST", body })).blob();
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `speech.${format}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    tell(`Saved ${link.download}.`, "ready");
  } catch (error) {
    say(error.message, task === state.task ? "error" : undefined); // what goes on meanwhile goes on
  } finally {
    state.saving.delete(button);
    showSaveButtons();
  }
}

function showValue(slider, text) {
  byId(`${slider.id}-value`).textContent = text;
  slider.setAttribute("aria-valuetext", text);
}

function connectButtons() {
  byId("microphone").addEventListener("click", act(useMicrophone));
  byId("recording").addEventListener("click", act(() => useRecording(async () => (await ask("/api/recording")).arrayBuffer())));
  byId("stop").addEventListener("click", act(finish));
  byId("subject").addEventListener("change", act(showSubject));
  byId("file").addEventListener("change", act(({ target }) => {
    const [file] = target.files;
    target.value = ""; // the same file can be chosen again
    return file && useRecording(() => file.arrayBuffer());
  }));
  document.querySelectorAll(".save").forEach((button) => button.addEventListener("click", () => save(button)));
  byId("gain").addEventListener("input", ({ target }) => showValue(target, `${target.value} %`));
  byId("smooth").addEventListener("input", ({ target }) => showValue(target, target.value === "0" ? "off" : `${target.value} ms`));
  byId("background").addEventListener("change", ({ target }) => {
    byId("stage").style.background = target.value === "page" ? "" : target.value;
  });
  for (const name of ["pointerdown", "keydown"]) {
    addEventListener(name, () => state.context?.resume());
  }
}

function connectDrop() {
  addEventListener("dragover", (event) => {
    event.preventDefault();
    byId("drop").hidden = !state.timeline || !event.dataTransfer.types.includes("Files");
  });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) byId("drop").hidden = true; });
  addEventListener("drop", act((event) => {
    event.preventDefault();
    if (byId("drop").hidden) return null; // no file, or no head yet
    byId("drop").hidden = true;
    const [file] = event.dataTransfer.files;
    return file && useRecording(() => file.arrayBuffer());
  }));
}

function start() {
  try {
    head = new Head(byId("head"));
  } catch {
    say("This browser shows no 3D pictures (WebGL 2). Allow them in its settings, or use another one.", "error");
    return;
  }
  globalThis.liveHead = { head, state }; // for tests and for the console
  connectButtons();
  connectDrop();
  motion = new Motion(head, state);
  motion.run();
  act(load)();
}

start();
