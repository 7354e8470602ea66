// Recurrent layers, pooling and classifier. Legend: H hidden size, g what a frame adds to the gates, u the state.
const size = config.hidden;
const layers = config.layers.map(({ ih, hh, differences }) => {
  const input = train(ih), offset = vector(input.result.length), recurrent = train(hh);
  const bias = differences && vector(recurrent.result.length);
  return { input, offset, recurrent, bias, newBias: config.cell == "gru" && vector(size) };
});
const query = config.pooling == "attention" ? vector(size) : new Float64Array(size);
const head = matrix(classes.length, size), headBias = vector(classes.length);
const pixels = new Float64Array(width * height * channels);
const sigmoid = x => 1 / (1 + Math.exp(-x));

// From a product, the gates of a layer without the part of its state; g is changed. By linearity, the product of a
// difference is that of products.
function gates({ offset, bias }, g, state) {
  if (!bias) {
    for (let j = 0; j < g.length; j++) g[j] += offset[j];
    return g;
  }
  const extra = g.length - bias.length, moved = g.slice(extra), before = state.before ?? moved;
  for (let j = 0; j < bias.length; j++) g[j] = moved[j] - before[j] + bias[j] + (extra ? g[j] + offset[j] : 0);
  state.before = moved;
  return g;
}

function advance({ recurrent, newBias }, g, { h, c }) {
  const u = product(recurrent, h), H = size;
  for (let j = 0; j < H; j++) {
    if (config.cell == "rnn") h[j] = Math.tanh(g[j] + u[j]);
    else if (config.cell == "gru") {
      const r = sigmoid(g[j] + u[j]), z = sigmoid(g[H + j] + u[H + j]);
      const n = Math.tanh(g[2 * H + j] + r * (u[2 * H + j] + newBias[j]));
      h[j] = n + z * (h[j] - n);
    } else {
      const i = sigmoid(g[j] + u[j]), f = sigmoid(g[H + j] + u[H + j]), o = sigmoid(g[3 * H + j] + u[3 * H + j]);
      c[j] = f * c[j] + i * Math.tanh(g[2 * H + j] + u[2 * H + j]);
      h[j] = o * Math.tanh(c[j]);
    }
  }
  return h;
}

// The states so far as one vector; the mean is attention that gives all of them the same weight.
function pool(state, h) {
  if (config.pooling == "last") return h;
  const { sum } = state;
  if (config.pooling == "max") return sum.forEach((value, j) => sum[j] = Math.max(value, h[j])), sum;
  const score = h.reduce((total, value, j) => total + value * query[j], 0), peak = Math.max(state.peak, score);
  const old = Math.exp(state.peak - peak), weight = Math.exp(score - peak);
  state.peak = peak;
  state.weight = state.weight * old + weight;
  return sum.map((value, j) => (sum[j] = value * old + weight * h[j]) / state.weight);
}

function probabilities(pooled) {
  const logits = new Float64Array(classes.length);
  multiply(head, pooled, 0, logits, 0);
  for (let j = 0; j < logits.length; j++) logits[j] += headBias[j];
  if (task == "multi_label") return logits.map(sigmoid);
  const peak = Math.max(...logits), powers = logits.map(logit => Math.exp(logit - peak));
  const total = powers.reduce((a, b) => a + b);
  return powers.map(power => power / total);
}
