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
  const partW = Math.max(1, Math.min(w, rint(h * aspect))), partH = Math.max(1, Math.min(h, rint(w / aspect)));
  return [w - partW >> 1, h - partH >> 1, partW, partH];
};

// RGBA of any size, averaged over areas: bytes as push takes them.
function resized({ data, width: w, height: h }) {
  const fit = sampling.fit, whole = [0, 0, width, height];
  const [left, top, cutW, cutH] = fit == "crop" ? centre(w, h, width / height) : [0, 0, w, h];
  const [toX, toY, newW, newH] = fit == "letterbox" ? centre(width, height, w / h) : whole;
  const [firstX, indexX, shareX] = shares(cutW, newW, cutW > newW && cutH < newH);
  const [firstY, indexY, shareY] = shares(cutH, newH, cutH > newH && cutW < newW);
  // OpenCV rounds halves up for blocks of 2x2, and to even otherwise, as Uint8ClampedArray does.
  const nudge = cutW == 2 * newW && cutH == 2 * newH ? 0.1 : 0;
  const frame = new Uint8ClampedArray(pixels.length), rgb = new Uint8ClampedArray(3), sums = new Float64Array(newW * 3);
  for (let y = 0; y < newH; y++) {
    sums.fill(nudge);
    for (let k = firstY[y]; k < firstY[y + 1]; k++) {
      const line = ((top + indexY[k]) * w + left) * 4;
      for (let x = 0, i = firstX[0]; x < newW; x++) {
        let r = 0, g = 0, b = 0;
        for (; i < firstX[x + 1]; i++) {
          const from = line + indexX[i] * 4, share = shareX[i];
          r += share * data[from];
          g += share * data[from + 1];
          b += share * data[from + 2];
        }
        sums[3 * x] += shareY[k] * r;
        sums[3 * x + 1] += shareY[k] * g;
        sums[3 * x + 2] += shareY[k] * b;
      }
    }
    for (let x = 0; x < newW; x++) {
      const to = ((toY + y) * width + toX + x) * channels;
      for (let c = 0; c < 3; c++) rgb[c] = sums[3 * x + c];
      if (channels == 3) frame.set(rgb, to);
      else frame[to] = rgb[0] * 9798 + rgb[1] * 19235 + rgb[2] * 3735 + 16384 >> 15;
    }
  }
  return frame;
}

const isBytes = array => /^Uint8/.test(array?.[Symbol.toStringTag]);

function asFrame(image) {
  if (isBytes(image) && image.length == pixels.length) return image;
  const { data, width: w, height: h } = image ?? {};
  if (channels < 4 && isBytes(data) && data.length && data.length == w * h * 4) return resized(image);
  throw new Error(`push takes ${height} x ${width} x ${channels} = ${pixels.length} bytes or an ImageData, got ` +
    (isBytes(image) ? `${image.length} bytes` : isBytes(data) ? `${w} x ${h} with ${data.length} bytes` : image));
}
