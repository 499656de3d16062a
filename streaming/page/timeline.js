// Frames by their instants, and the pose at an instant between them.
const KEPT = 900;

export class Timeline {
  constructor(fps) {
    this.fps = fps;
    this.clear();
  }

  clear() {
    this.frames = new Map();
    this.count = 0; // frames that arrived
  }

  add(first, frames) {
    frames.forEach((frame, i) => this.frames.set(first + i, frame));
    this.count = first + frames.length;
    for (const index of this.frames.keys()) { // in the order in which they came
      if (index >= this.count - KEPT) break;
      this.frames.delete(index);
    }
  }

  get newest() {
    return (this.count - 1) / this.fps;
  }

  // Coefficients at an instant, interpolated; null where there are none.
  at(instant) {
    const position = Math.min(Math.max(instant * this.fps, 0), this.count - 1);
    const low = this.frames.get(Math.floor(position));
    const high = this.frames.get(Math.ceil(position));
    if (!low || !high) return null;
    const share = position - Math.floor(position);
    return low.map((value, k) => value + share * (high[k] - value));
  }
}
