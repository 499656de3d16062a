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

  // send gets blocks of samples; lost is called when the microphone is taken away.
  async start(send, lost) {
    this.stream.getAudioTracks()[0].addEventListener("ended", lost);
    await this.context.audioWorklet.addModule("/static/capture.js");
    if (!this.stream.active) return; // stopped meanwhile
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
    this.isOver = false;
  }

  static async open(context, data) {
    try {
      return new Recording(context, await context.decodeAudioData(data));
    } catch {
      throw new Error("The browser finds no sound in this file; expected .wav, .mp3, .m4a or a video with sound.");
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

  // over is called once all has sounded.
  play(over) {
    this.player = this.context.createBufferSource();
    this.player.buffer = this.buffer;
    this.player.connect(this.context.destination);
    this.begin = this.context.currentTime;
    this.player.addEventListener("ended", () => {
      this.isOver = true;
      over();
    });
    this.player.start();
  }

  get instant() {
    return this.begin === null ? 0 : this.context.currentTime - this.begin - (this.context.outputLatency || 0);
  }

  stop() {
    clearInterval(this.timer);
    if (this.begin !== null) this.player.stop();
  }
}
