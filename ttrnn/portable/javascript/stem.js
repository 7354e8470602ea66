// Convolutions in front of the first layer, in models with a stem only.

// Maps have a border of zeros, which the kernels of the next convolution reach into.
const stem = config.stem.convs.map(([rows, columns, ins, outs, kernel, stride, depthwise]) => ({
  rows, columns, ins, outs, kernel, stride, depthwise,
  filter: depthwise ? weights(kernel * kernel * ins) : matrix(outs, kernel * kernel * ins),
  bias: depthwise ? new Float64Array(outs) : vector(outs),
  patch: new Float64Array(kernel * kernel * ins),
}));
const padded = (rows, columns, channels, border) => ({
  line: (columns + 2 * border) * channels,
  start: (columns + 2 * border + 1) * border * channels,
  values: new Float64Array((rows + 2 * border) * (columns + 2 * border) * channels),
});
stem.forEach((conv, i) => conv.output = padded(conv.rows, conv.columns, conv.outs, stem[i + 1]?.kernel >> 1));
const picture = padded(height, width, stem[0].ins, stem[0].kernel >> 1);

function convolve({ rows, columns, ins, outs, kernel, stride, depthwise, filter, bias, patch, output }, input) {
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) {
      for (let row = 0, i = 0; row < kernel; row++) {
        const from = (y * stride + row) * input.line + x * stride * ins;
        for (let j = from; j < from + kernel * ins; j++) patch[i++] = input.values[j];
      }
      const to = output.start + y * output.line + x * outs;
      if (depthwise) {
        for (let c = 0; c < outs; c++) {
          let sum = 0;
          for (let i = c; i < patch.length; i += ins) sum += filter[i] * patch[i];
          output.values[to + c] = sum;
        }
        continue;
      }
      multiply(filter, patch, 0, output.values, to);
      for (let c = 0; c < outs; c++) output.values[to + c] = Math.max(0, output.values[to + c] + bias[c]);
    }
  }
  return output;
}

function features(frame, before) {
  const { mean, scale, gain } = config.stem, { values, line, start } = picture;
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0, to = start + y * line; x < width; x++, i += channels) {
      for (let c = i; c < i + channels && mean; c++) values[to++] = (frame[c] - mean[c - i]) * scale;
      for (let c = i; c < i + channels && gain; c++) values[to++] = (frame[c] - before[c]) * gain;
    }
  }
  return stem.reduce((map, conv) => convolve(conv, map), picture).values;
}
