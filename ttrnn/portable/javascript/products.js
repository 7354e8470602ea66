// Read weights and multiply with them: matrices, and tensor trains core by core.
//
// ttrnn/portable/js.py puts these files into one, in front `config` (sizes) and `text` (weights), without comments,
// indentation and spaces beside operators. Legend: M / N input / output mode of a core, R / S its left / right rank.
export const { classes, width, height, channels, task, sampling } = config;

// Base 85, as Python's base64.b85encode writes it, but "." in place of "<".
const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;.=>?@^_`{|}~";
const bytes = new DataView(new ArrayBuffer(text.length / 5 * 4));
for (let i = 0, value = 0; i < text.length; i++) {
  value = value * 85 + digits.indexOf(text[i]);
  if (i % 5 == 4) {
    bytes.setUint32((i - 4) / 5 * 4, value);
    value = 0;
  }
}
// Whole numbers of 3 bytes, or as config.dtype says, with one factor for each matrix or vector.
let position = 0;
const int24 = () => bytes.getInt16((position += 3) - 2, true) * 256 + bytes.getUint8(position - 3);
const word = new DataView(new ArrayBuffer(4));
const number = {
  int24,
  bfloat16: () => (word.setUint16(0, bytes.getUint16((position += 2) - 2, true)), word.getFloat32(0)),
  int8: () => bytes.getInt8(position++),
}[config.dtype];
const numbers = (length, next) => {
  const factor = bytes.getFloat32((position += 4) - 4, true);
  return Float64Array.from({ length }, () => factor * next());
};
const vector = length => numbers(length, int24);
const weights = length => numbers(length, number);

// A matrix in blocks of four rows, column by column, so that the innermost loop reads it in order. Row r of a product
// is written to place(r).
function matrix(rows, columns, place = row => row, values = weights(rows * columns)) {
  const blocks = new Float64Array(Math.ceil(rows / 4) * 4 * columns);
  values.forEach((weight, i) => {
    const row = Math.floor(i / columns);
    blocks[((row >> 2) * columns + i % columns) * 4 + row % 4] = weight;
  });
  return { rows, columns, blocks, places: Int32Array.from({ length: rows }, (_, row) => place(row)) };
}

// The product with x, which begins at `from`, is written to `out`, which begins at `to`.
function multiply({ rows, columns, blocks, places }, x, from, out, to) {
  const end = from + columns;
  for (let row = 0, i = 0; row < rows; row += 4) {
    let a = 0, b = 0, c = 0, d = 0;
    for (let j = from; j < end; j++, i += 4) {
      const value = x[j];
      a += value * blocks[i];
      b += value * blocks[i + 1];
      c += value * blocks[i + 2];
      d += value * blocks[i + 3];
    }
    out[to + places[row]] = a;
    if (row + 1 < rows) out[to + places[row + 1]] = b;
    if (row + 2 < rows) out[to + places[row + 2]] = c;
    if (row + 3 < rows) out[to + places[row + 3]] = d;
  }
}

// A tensor train as levels, one for each core, the first on top. A level sums over (m, s), and writes its result in
// the order in which the level above it reads. Cores of other formats are made by formats.js.
function train({ cores, sites, ...format }) {
  const made = sites ? makeCores(cores, sites, format) : [];
  let level, rest = 1, span = 1;
  for (let k = cores.length - 1; k >= 0; k--) {
    const [R, M, N, S] = cores[k], stride = k ? cores[k - 1][1] * R : 1, inner = rest;
    const core = matrix(N * R, M * S, row => Math.floor(row / R) * inner * stride + row % R, made[k]);
    level = { ...core, below: level, M, S, rest, span, stride, input: new Float64Array(M * S * rest) };
    rest *= N;
    span *= M;
  }
  return { ...level, result: new Float64Array(rest) };
}

function run(level, x, from, out, to) {
  if (level.below) {
    for (let m = 0; m < level.M; m++) run(level.below, x, from + m * level.span, level.input, m * level.S);
    x = level.input;
    from = 0;
  }
  for (let c = 0; c < level.rest; c++) multiply(level, x, from + c * level.columns, out, to + c * level.stride);
}

function product(train, x) {
  run(train, x, 0, train.result, 0);
  return train.result;
}
