// Draw parallel coordinates: a line for each trial through its options, with ranges that can be selected on the axes.

// Index in view.dimensions -> [low, high], from 0 to 1 along the axis.
const ranges = new Map();

// at(value) is the place along the axis, from 0 to 1.
const axisScales = view.dimensions.map(({kind, values, names}) => {
  if (kind === "names") {
    const at = (name) => (names.indexOf(name) + 0.5) / names.length;
    return {at, ticks: names.map((name) => [at(name), name])};
  }
  const [low, high] = range(Object.values(values), kind === "log", 0.03);
  return scale({low, high, from: 0, to: 1, isLog: kind === "log", count: 6});
});

// Whether a trial lies in all ranges; baselines have no options and lie in none.
function isInRanges(trial) {
  return [...ranges].every(([k, [low, high]]) => {
    const value = view.dimensions[k].values[trial], at = value === undefined ? NaN : axisScales[k].at(value);
    return at >= low && at <= high;
  });
}

const fade = (trial) => (isInRanges(trial) && !hidden.has(formatKey(formatOf(trial))) ? "" : " faded");

function setRange(k, ends) {
  if (ends) ranges.set(k, ends);
  else ranges.delete(k);
  update();
  filterTrials();
}

// Shows the rows of the table of all trials that lie in all ranges and contain all words of the filter.
function filterTrials() {
  const words = document.getElementById("filter").value.toLowerCase().split(/\s+/).filter(Boolean), rows = [...document.querySelectorAll("#trials tbody tr")];
  for (const row of rows) {
    const own = row.textContent.toLowerCase();
    row.hidden = !isInRanges(row.dataset.trial) || !words.every((word) => own.includes(word));
  }
  const number = rows.filter((row) => !row.hidden).length;
  document.getElementById("num-shown").textContent = words.length || ranges.size ? `${number} of ${rows.length}` : "";
}

// Axes are upright if there is room for their labels, else they lie one below the other.
const isUpright = (width) => width / view.dimensions.length >= 88;
const coordinatesHeight = (width) => (isUpright(width) ? 380 : 24 + 66 * view.dimensions.length);

function drawCoordinates(chart, width, height) {
  const count = view.dimensions.length, upright = isUpright(width), room = (width - 122) / Math.max(count - 1, 1);
  const place = upright
    ? (k, share) => [78 + k * room, height - 14 - share * (height - 78)]
    : (k, share) => [16 + share * (width - 32), 38 + 66 * k];
  const metric = view.dimensions.at(-1).values, all = Object.values(metric), best = Math.max(...all), worst = Math.min(...all);
  const lines = make("g", {}, chart.svg), axes = make("g", {"aria-hidden": "true"}, chart.svg);
  const byMetric = Object.keys(metric).sort((a, b) => metric[a] - metric[b]);
  for (const name of selectedLast(byMetric)) {
    const places = axisScales.flatMap((own, k) => {
      const value = view.dimensions[k].values[name];
      return value === undefined ? [] : [place(k, own.at(value))];
    });
    const path = make("path", {class: `line shared${slotClass(name)}${fade(name)}`, d: lineOf(places)}, lines);
    const share = (metric[name] - worst) / (best - worst || 1);
    path.style.setProperty("--share", `${100 * share ** 2}%`);
    path.style.setProperty("--opacity", opacity(all.length) * (0.4 + share ** 2));
    chart.addTarget(name, path, places);
  }
  axisScales.forEach((own, k) => {
    const [[x1, y1], [x2, y2]] = [place(k, 0), place(k, 1)];
    make("line", {class: "axis", x1, x2, y1, y2}, axes);
    (upright ? drawUprightLabels : drawFlatLabels)(axes, k, own.ticks.map(([share, text]) => [...place(k, share), text]), room, width);
    addHandle(chart, k, {upright, from: [x1, y1], to: [x2, y2]});
  });
}

function cut(text, width) {
  const most = Math.max(4, Math.floor(width / 6.6));
  return text.length > most ? `${text.slice(0, most - 1)}…` : text;
}

function drawUprightLabels(parent, k, ticks, room) {
  let last = Infinity;
  for (const [x, y, text] of ticks.sort((a, b) => b[1] - a[1])) {
    // Only as many labels as fit.
    if (last - y < 13) continue;
    make("text", {class: "tick", x: x - 6, y: y + 4, "text-anchor": "end"}, parent, cut(text, room - 10));
    last = y;
  }
  const title = make("text", {class: "title", y: 0, "text-anchor": "middle"}, parent);
  view.dimensions[k].title.split(" ").slice(0, 4).forEach((word, n) => {
    make("tspan", {x: 78 + k * room, dy: 14}, title, cut(word, room + 8));
  });
}

function drawFlatLabels(parent, k, ticks, room, width) {
  let last = -Infinity;
  for (const [x, y, text] of ticks.sort((a, b) => a[0] - b[0])) {
    const half = 3.8 * text.length, middle = Math.max(half + 2, Math.min(x, width - half - 2));
    if (middle - half < last + 6) continue;
    make("text", {class: "tick", x: middle, y: y + 16, "text-anchor": "middle"}, parent, text);
    last = middle + half;
  }
  make("text", {class: "title tick", x: 16, y: 38 + 66 * k - 10}, parent, view.dimensions[k].title);
}

// An area along an axis on which a range is selected: by dragging, or by keys while it has the focus.
function addHandle(chart, k, {upright, from, to}) {
  const along = upright ? 1 : 0, ends = ranges.get(k);
  const rect = (parent, name, [low, high], wide) => {
    const [a, b] = [low, high].map((share) => from[along] + share * (to[along] - from[along])), size = Math.abs(b - a);
    const across = from[1 - along] - wide;
    return make("rect", upright
      ? {class: name, x: across, y: Math.min(a, b), width: 2 * wide, height: size}
      : {class: name, x: Math.min(a, b), y: across, width: size, height: 2 * wide}, parent);
  };
  let band = ends && rect(chart.svg, "range", ends, 8), start = null, dragged = null;
  const handle = rect(chart.svg, `handle ${upright ? "upright" : "flat"}`, [0, 1], 16);
  const percents = (ends ?? [0, 1]).map((share) => `${Math.round(100 * share)}%`).join(" to ");
  Object.entries({tabindex: 0, "data-axis": k, role: "group", "aria-label": `${view.dimensions[k].title}: ${percents} of the axis`})
    .forEach(([name, value]) => handle.setAttribute(name, value));
  const shareAt = (event) => {
    const box = chart.svg.getBoundingClientRect(), at = upright ? event.clientY - box.top : event.clientX - box.left;
    return Math.max(0, Math.min(1, (at - from[along]) / (to[along] - from[along])));
  };
  handle.addEventListener("pointerdown", (event) => {
    handle.setPointerCapture(event.pointerId);
    [start, dragged] = [shareAt(event), null];
  });
  handle.addEventListener("pointermove", (event) => {
    if (start === null) return;
    const both = [start, shareAt(event)].sort((a, b) => a - b);
    if (!dragged && (both[1] - both[0]) * Math.abs(to[along] - from[along]) < 6) return;
    dragged = both;
    band?.remove();
    band = rect(chart.svg, "range", dragged, 8);
  });
  handle.addEventListener("pointerup", () => {
    start = null;
    // Drawing again replaces the handle, so it waits for the click that ends the drag.
    if (dragged) setTimeout(() => setRange(k, dragged));
  });
  handle.addEventListener("pointercancel", () => { start = null; });
  // The click that ends a drag must not select a trial.
  handle.addEventListener("click", (event) => dragged && event.stopPropagation());
  handle.addEventListener("dblclick", () => setRange(k, null));
  handle.addEventListener("keydown", (event) => {
    const [low, high] = ends ?? [0, 1];
    const changed = {ArrowUp: [low + 0.1, high], ArrowDown: [low, high - 0.1], Delete: null, Escape: null}[event.key];
    if (changed === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    if (changed && changed[1] - changed[0] < 0.05) return;
    setRange(k, changed);
    document.querySelector(`[data-axis="${k}"]`).focus();
  });
}
