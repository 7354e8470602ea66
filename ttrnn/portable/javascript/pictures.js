// Fit pictures to the size of the model, as `preprocess` and `predict` do it.

// The shares that pixels of a line have in the pixels of a resized line: pixel i of it takes those from first[i] to
// first[i + 1]. As OpenCV's INTER_AREA, which takes two pixels at most where the other axis grows.
function shares(from, to, two) {
  const first = [0], index = [], share = [];
  for (let i = 0; i < to; i++) {
    const begin = i * from / to, end = (i + 1) * from / to, start = Math.floor(begin);
    for (let j = start; j < end && !(two && j > start + 1); j++) {
      index.push(j);
      share.push((two && j > start ? end - j : Math.min(j + 1, end) - Math.max(j, begin)) * to / from);
    }
    first.push(index.length);
  }
  return [first, index, share];
}

const rint = x => Math.round(x) - (Math.abs(x % 2) == 0.5);
const centre = (w, h, aspect) => {
  const part_w = Math.max(1, Math.min(w, rint(h * aspect))), part_h = Math.max(1, Math.min(h, rint(w / aspect)));
  return [w - part_w >> 1, h - part_h >> 1, part_w, part_h];
};

// RGBA of any size, averaged over areas: bytes as push takes them.
function resized({ data, width: w, height: h }) {
  const fit = sampling.fit, whole = [0, 0, width, height];
  const [left, top, cut_w, cut_h] = fit == "crop" ? centre(w, h, width / height) : [0, 0, w, h];
  const [to_x, to_y, new_w, new_h] = fit == "letterbox" ? centre(width, height, w / h) : whole;
  const [first_x, index_x, share_x] = shares(cut_w, new_w, cut_w > new_w && cut_h < new_h);
  const [first_y, index_y, share_y] = shares(cut_h, new_h, cut_h > new_h && cut_w < new_w);
  // OpenCV rounds halves up for blocks of 2x2, and to even otherwise, as Uint8ClampedArray does.
  const nudge = cut_w == 2 * new_w && cut_h == 2 * new_h ? 0.1 : 0;
  const frame = new Uint8ClampedArray(pixels.length), rgb = new Uint8ClampedArray(3), sums = new Float64Array(new_w * 3);
  for (let y = 0; y < new_h; y++) {
    sums.fill(nudge);
    for (let k = first_y[y]; k < first_y[y + 1]; k++) {
      const line = ((top + index_y[k]) * w + left) * 4;
      for (let x = 0, i = first_x[0]; x < new_w; x++) {
        let r = 0, g = 0, b = 0;
        for (; i < first_x[x + 1]; i++) {
          const from = line + index_x[i] * 4, share = share_x[i];
          r += share * data[from];
          g += share * data[from + 1];
          b += share * data[from + 2];
        }
        sums[3 * x] += share_y[k] * r;
        sums[3 * x + 1] += share_y[k] * g;
        sums[3 * x + 2] += share_y[k] * b;
      }
    }
    for (let x = 0; x < new_w; x++) {
      const to = ((to_y + y) * width + to_x + x) * channels;
      for (let c = 0; c < 3; c++) rgb[c] = sums[3 * x + c];
      if (channels == 3) frame.set(rgb, to);
      else frame[to] = rgb[0] * 9798 + rgb[1] * 19235 + rgb[2] * 3735 + 16384 >> 15;
    }
  }
  return frame;
}

const is_bytes = array => /^Uint8/.test(array?.[Symbol.toStringTag]);

function as_frame(image) {
  if (is_bytes(image) && image.length == pixels.length) return image;
  const { data, width: w, height: h } = image ?? {};
  if (channels < 4 && is_bytes(data) && data.length && data.length == w * h * 4) return resized(image);
  throw new Error(`push takes ${height} x ${width} x ${channels} = ${pixels.length} bytes or an ImageData, got ` +
    (is_bytes(image) ? `${image.length} bytes` : is_bytes(data) ? `${w} x ${h} with ${data.length} bytes` : image));
}
