// A live session: sound out, frames in (docs/streaming.md, "Protocol").
const HEADER_BYTES = 24;

export function withToken(path) {
  const token = new URLSearchParams(location.search).get("token");
  const address = new URL(path, location.href);
  if (token) address.searchParams.set("token", token);
  return address;
}

export class Session {
  // on: {hello, frames, stats, ended, error, closed}, functions
  constructor({ rate, subject }, on) {
    const address = withToken("/ws");
    address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    const settings = { rate, subject, format: "f32", output: "coefficients" };
    for (const [name, value] of Object.entries(settings)) address.searchParams.set(name, value);
    this.on = on;
    this.socket = new WebSocket(address);
    this.socket.binaryType = "arraybuffer";
    this.socket.addEventListener("message", ({ data }) => this.take(data));
    this.socket.addEventListener("close", () => on.closed());
  }

  take(data) {
    if (typeof data !== "string") {
      const view = new DataView(data);
      const count = view.getUint16(6, true);
      const size = view.getUint32(8, true);
      const first = view.getUint32(12, true);
      const frames = [];
      for (let i = 0; i < count; i += 1) {
        frames.push(new Float32Array(data, HEADER_BYTES + 4 * i * size, size));
      }
      this.on.frames(first, frames);
      return;
    }
    const message = JSON.parse(data);
    this.on[message.type]?.(message);
  }

  get isOpen() {
    return this.socket.readyState === WebSocket.OPEN;
  }

  send(samples) {
    if (this.isOpen) this.socket.send(samples);
  }

  end() {
    if (this.isOpen) this.socket.send(JSON.stringify({ type: "end" }));
  }

  close() {
    this.socket.close();
  }
}
