// Streams: what users of the module see.
class Stream {
  constructor() {
    this.reset();
  }

  // Starts again, as before the first frame.
  reset() {
    this.layers = layers.map(() => ({ h: new Float64Array(size), c: new Float64Array(size) }));
    const lowest = config.pooling == "max" ? -Infinity : 0;
    this.pooling = { sum: new Float64Array(size).fill(lowest), peak: -Infinity, weight: 0 };
    this.frame = undefined;
  }

  // Takes one more frame and returns the probabilities so far by class: an ImageData of any size, or bytes, height x
  // width x channels.
  push(image) {
    const frame = asFrame(image);
    let x = pixels;
    if (config.stem) {
      x = features(frame, this.frame ?? frame);
      if (config.stem.gain) this.frame = frame.slice();
    } else pixels.set(frame);
    layers.forEach((layer, i) => x = advance(layer, gates(layer, x, this.layers[i]), this.layers[i]));
    const scores = probabilities(pool(this.pooling, x));
    return Object.fromEntries(classes.map((name, i) => [name, scores[i]]));
  }
}

// Any number of streams may run at once; `push` and `reset` belong to one that is always there.
export const stream = () => new Stream();
const only = stream();
export const push = image => only.push(image);
export const reset = () => only.reset();
