// Where sound comes from: a microphone, or a recording that is played while the head speaks it.
const LEAD_S = 0.7; // of a recording that is sent before it is played
const TICK_MS = 50;

export class Microphone {
  constructor(context, stream) {
    this.context = context;
    this.stream = stream;
  }

  static async open(context) {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new Error("The browser gives no microphone to this address; open it as http://localhost.");
    }
    const wanted = { channelCount: 1, echoCancellation: true, noiseSuppression: false, autoGainControl: true };
    try {
      return new Microphone(context, await navigator.mediaDevices.getUserMedia({ audio: wanted }));
    } catch (error) {
      const reasons = {
        NotAllowedError: "The microphone was refused. Allow it for this page in the browser's address bar.",
        NotFoundError: "No microphone was found. Connect one, or choose a file.",
        NotReadableError: "The microphone is used by another program.",
      };
      throw new Error(reasons[error.name] ?? `The microphone cannot be used (${error.name}).`);
    }
  }

  async start(send) {
    await this.context.audioWorklet.addModule("/static/capture.js");
    this.source = this.context.createMediaStreamSource(this.stream);
    this.node = new AudioWorkletNode(this.context, "capture", { numberOfOutputs: 0 });
    this.node.port.onmessage = ({ data }) => send(data);
    this.source.connect(this.node);
  }

  stop() {
    this.source?.disconnect();
    this.stream.getTracks().forEach((track) => track.stop());
  }
}

export class Recording {
  constructor(context, buffer) {
    this.context = context;
    this.buffer = buffer;
    this.samples = new Float32Array(buffer.length);
    for (let c = 0; c < buffer.numberOfChannels; c += 1) {
      const channel = buffer.getChannelData(c);
      for (let i = 0; i < channel.length; i += 1) this.samples[i] += channel[i] / buffer.numberOfChannels;
    }
    this.sent = 0;
    this.begin = null; // time of the context at which it began to sound
  }

  static async open(context, data) {
    try {
      return new Recording(context, await context.decodeAudioData(data));
    } catch {
      throw new Error("The browser cannot read this file; expected sound such as .wav, .mp3 or .m4a.");
    }
  }

  start(send, end) {
    const feed = () => {
      const wanted = Math.min(Math.round((this.instant + LEAD_S) * this.buffer.sampleRate), this.samples.length);
      if (wanted > this.sent) send(this.samples.slice(this.sent, wanted));
      this.sent = Math.max(wanted, this.sent);
      if (this.sent === this.samples.length) {
        clearInterval(this.timer);
        end();
      }
    };
    this.timer = setInterval(feed, TICK_MS);
    feed();
  }

  play() {
    this.player = this.context.createBufferSource();
    this.player.buffer = this.buffer;
    this.player.connect(this.context.destination);
    this.begin = this.context.currentTime;
    this.player.start();
  }

  get instant() {
    return this.begin === null ? 0 : this.context.currentTime - this.begin - (this.context.outputLatency || 0);
  }

  get isOver() {
    return this.begin !== null && this.instant > this.buffer.duration + 0.3;
  }

  stop() {
    clearInterval(this.timer);
    if (this.begin !== null) this.player.stop();
  }
}

// 16-bit mono .wav of blocks of samples.
export function wavFile(blocks, rate) {
  const length = blocks.reduce((sum, block) => sum + block.length, 0);
  const view = new DataView(new ArrayBuffer(44 + 2 * length));
  const text = (offset, value) => [...value].forEach((c, i) => view.setUint8(offset + i, c.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + 2 * length, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, 1, true);
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, 2 * length, true);
  let offset = 44;
  for (const block of blocks) {
    for (const value of block) {
      view.setInt16(offset, Math.max(-1, Math.min(1, value)) * 32767, true);
      offset += 2;
    }
  }
  return new Blob([view], { type: "audio/wav" });
}
