// Viseme values of HeadAudio's own modules at each frame, as JSON, for benchmarks.bench_headaudio:
// node headaudio.mjs FOLDER RATE FPS < mono float32 samples
// Only the classes of the browser's audio are replaced; a message arrives at once. "with_aa" are the
// values with viseme 0 handled as the others: HeadAudio 0.1.0 overlooks it ("if ( viseme )").
import fs from "node:fs";
import { pathToFileURL } from "node:url";

const [folder, rate, fps] = process.argv.slice(2);
const BLOCK = 128; // samples that a browser gives to a worklet at a time
const PARAMETERS = { vadGateActiveDb: -40, vadGateInactiveDb: -60 }; // of the package's README

let Worklet;
class Port {
  postMessage(data) {
    this.other.onmessage?.({ data });
  }
}
let port;
globalThis.sampleRate = Number(rate);
globalThis.AudioWorkletProcessor = class { port = port.other; };
globalThis.AudioWorkletNode = class { port = port; };
globalThis.registerProcessor = (_, processor) => { Worklet = processor; };
const load = (file) => import(pathToFileURL(`${folder}/${file}`).href);
const { HeadAudio } = await load("modules/headaudio.mjs");
await load("modules/headworklet.mjs");

async function visemes(sound, withAa) {
  port = new Port();
  port.other = Object.assign(new Port(), { other: port });
  const options = { processorOptions: { visemeEventsEnabled: true }, parameterData: PARAMETERS };
  const worklet = new Worklet(options);
  const node = new HeadAudio(null, options);
  const model = fs.readFileSync(`${folder}/dist/model-en-mixed.bin`).toString("base64");
  await node.loadModel(`data:application/octet-stream;base64,${model}`);
  if (withAa) node.onviseme = ({ viseme }) => { if (viseme === 0) node.visemeActive = 0; };
  const values = Object.fromEntries(node.visemeNames.map((name) => [name.replace("viseme_", ""), 0]));
  node.onvalue = (name, value) => { values[name.replace("viseme_", "")] = value; };
  const parameters = Object.fromEntries(Worklet.parameterDescriptors.map(
    ({ name, defaultValue }) => [name, new Float32Array([PARAMETERS[name] ?? defaultValue])]));
  const frames = [];
  for (let start = 0; start < sound.length; start += BLOCK) {
    for (; frames.length / fps <= start / rate; frames.push({ ...values })) node.update(1000 / fps);
    worklet.process([[sound.subarray(start, start + BLOCK)]], [], parameters);
  }
  return frames;
}

const bytes = fs.readFileSync(0);
const sound = new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
const { version } = JSON.parse(fs.readFileSync(`${folder}/package.json`));
console.log(JSON.stringify({
  version, unchanged: await visemes(sound, false), with_aa: await visemes(sound, true),
}));
