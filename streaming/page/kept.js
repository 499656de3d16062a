// The sound that was spoken last, for files.
export class Kept {
  // rate: Hz; longest: samples that are kept at most, the last ones
  constructor(rate, longest) {
    Object.assign(this, { rate, longest, blocks: [], length: 0 });
  }

  add(samples) {
    this.blocks.push(samples.slice());
    this.length += samples.length;
    while (this.length > this.longest) this.length -= this.blocks.shift().length;
  }

  file() {
    return wavFile(this.blocks, this.rate);
  }
}

// 16-bit mono .wav of blocks of samples.
function wavFile(blocks, rate) {
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
