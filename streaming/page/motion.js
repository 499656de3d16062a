// What the head shows at each moment.
import { Recording } from "./sound.js";

const DELAY_S = 0.07; // behind the newest frame of a microphone, so that steps do not show
const REST_S = 0.12; // a face without sound returns to rest in this time
const STILL = 1e-3; // share of the motion that is not seen

const byId = (id) => document.getElementById(id);

export class Motion {
  // state: `source` and `timeline` of the page
  constructor(head, state) {
    Object.assign(this, { head, state, instant: 0, last: performance.now(), drawn: 0, counted: performance.now() });
    this.reset();
  }

  // Forget what was shown, of a head that is replaced.
  reset() {
    this.shown = null;
  }

  run() {
    requestAnimationFrame((now) => {
      this.frame(now);
      this.run();
    });
  }

  frame(now) {
    const elapsed = Math.min((now - this.last) / 1000, 0.2);
    this.last = now;
    if (this.head.mesh) {
      this.move(elapsed);
      if (this.head.draw()) this.drawn += 1;
      document.body.dataset.gap = this.head.gap().toFixed(2);
    }
    if (now - this.counted > 1000) {
      byId("rate").textContent = this.drawn ? Math.round((1000 * this.drawn) / (now - this.counted)) : "–";
      Object.assign(this, { drawn: 0, counted: now });
    }
  }

  move(elapsed) {
    const wanted = this.wanted(elapsed);
    const pause = wanted ? byId("smooth").value / 1000 : REST_S;
    const share = pause > 0 ? 1 - Math.exp(-elapsed / pause) : 1;
    this.shown ??= { pose: new Float32Array(this.head.face.rank), gain: 0 };
    const { shown } = this;
    if (wanted) {
      shown.pose = shown.pose.map((value, k) => value + share * (wanted[k] - value));
      shown.gain = byId("gain").value / 100;
    } else {
      shown.gain = shown.gain > STILL ? shown.gain * (1 - share) : 0;
    }
    this.head.pose(shown.pose, shown.gain);
  }

  // The coefficients to show now, or null for the neutral face.
  wanted(elapsed) {
    const { source, timeline } = this.state;
    if (!source || !timeline?.count) return null;
    if (source instanceof Recording) return source.begin === null ? null : timeline.at(source.instant);
    const target = timeline.newest - DELAY_S;
    this.instant += elapsed;
    if (Math.abs(target - this.instant) > 0.3) this.instant = target;
    this.instant += 0.1 * (target - this.instant);
    return timeline.at(this.instant);
  }
}
