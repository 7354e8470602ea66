// Streams: what users of the module see.

// The product of the first layer with a frame, or with its features.
function firstProduct(frame, before) {
  if (config.stem) return product(layers[0].input, features(frame, before)).slice();
  pixels.set(frame);
  return product(layers[0].input, pixels).slice();
}

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
    return this.take(asFrame(image), {});
  }

  // Streams that take the same frame compute its product once, and once more if one of them has no frame before it.
  take(frame, shared) {
    const g = (shared[this.frame ? "later" : "first"] ??= firstProduct(frame, this.frame ?? frame)).slice();
    if (config.stem?.gain) this.frame = shared.frame ??= frame.slice();
    let x;
    layers.forEach((layer, i) => {
      x = advance(layer, gates(layer, i ? product(layer.input, x) : g, this.layers[i]), this.layers[i]);
    });
    const scores = probabilities(pool(this.pooling, x));
    return Object.fromEntries(classes.map((name, i) => [name, scores[i]]));
  }
}

// Any number of streams may run at once; `push` and `reset` belong to one that is always there.
export const stream = () => new Stream();
const only = stream();
export const push = image => only.push(image);
export const reset = () => only.reset();
