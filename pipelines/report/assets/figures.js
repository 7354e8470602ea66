// Draw parameters against the metric, and the learning curves. Their data are in `view`, their state is here:
const charts = [];
// Roles that are hidden by the legend.
const hidden = new Set();
// Index of the horizontal axis in view.x_axes.
let xAxis = 0;
// The ends of both scales while zoomed in: {x: [low, high], y: [low, high]}.
let zoom = null;
// Index in view.formats of the matrix whose format has a colour, if the formats of trials differ.
let matrix = 0;
// trial -> slot (its colour and dash pattern), in the order of selection.
const selected = new Map();

const formatOf = (trial) => view.formats[matrix]?.of[trial];
// The legend hides formats by these keys.
const formatKey = (format) => `${matrix}:${format}`;
const formatClass = (trial) => (view.formats.length ? ` format-${formatOf(trial) ?? "none"}` : "");
const slotClass = (trial) => (selected.has(trial) ? ` is-selected s${selected.get(trial)}` : "") + formatClass(trial);
const selectedLast = (names) => [...names.filter((name) => !selected.has(name)), ...names.filter((name) => selected.has(name))];
// Trials that were not replicated may be many, and have a mark of their own.
const isNamed = (trial) => selected.has(trial) || !["", "not replicated"].includes(view.trials[trial].label);
const labelOf = (trial) => [isNamed(trial) && `${trial} ${view.trials[trial].label}`.trim(), formatOf(trial)].filter(Boolean).join(" · ");

function mark(parent, role, shape, x, y, r = 4) {
  const group = make("g", {class: role, transform: `translate(${x.toFixed(1)},${y.toFixed(1)})`}, parent);
  make("path", {class: "shape", "stroke-width": /test|stopped/.test(role) ? 2 : 0, d: SHAPES[shape](r)}, group);
  return group;
}

function drawFrontier(chart, width, height) {
  const {svg} = chart, names = Object.keys(view.x_axes);
  const place = {left: 44, right: width - 14, top: 28, bottom: height - 46};
  const drawn = view.marks.map((point) => ({...point, x: view.trials[point.trial].x[xAxis]}))
    .filter((point) => point.x && !hidden.has(point.role));
  const claims = hidden.has("published") ? [] : view.published;
  const isComparable = names[xAxis] === "input_params";
  const xs = [...drawn.map((p) => p.x), ...(isComparable ? claims.flatMap((claim) => claim.x || []) : [])];
  const ys = [...drawn.flatMap((p) => [p.y, ...(hasInterval(p) && p.interval || [])]), ...claims.map((c) => c.y), view.chance];
  const [xLow, xHigh] = zoom?.x ?? range(xs.length ? xs : [1, 10], true);
  const [yLow, yHigh] = zoom?.y ?? range(ys, false, 0.05);
  const x = scale({low: xLow, high: xHigh, from: place.left, to: place.right, isLog: true, count: width / 70});
  const y = scale({low: yLow, high: yHigh, from: place.bottom, to: place.top, count: height / 55});
  Object.assign(chart, {x, y});
  frame(svg, {...place, x, y, xTitle: Object.values(view.x_axes)[xAxis], yTitle: `${view.metric}, %`});

  const clip = make("clipPath", {id: "inside"}, make("defs", {}, svg));
  make("rect", {x: place.left - 12, y: place.top - 12, width: width - place.left + 12, height: place.bottom - place.top + 12}, clip);
  const inside = make("g", {"clip-path": "url(#inside)"}, svg);
  chanceLine(inside, {...place, y});
  claims.sort((a, b) => b.y - a.y).forEach((claim, k) => {
    if (isComparable && claim.x) {
      mark(inside, "published", "star", x.at(claim.x), y.at(claim.y));
      make("text", {x: x.at(claim.x) + 10, y: y.at(claim.y) + (k ? 15 : -5), class: "label"}, inside, `paper: ${claim.model}`);
    } else {
      make("line", {class: "claim", x1: place.left, x2: place.right, y1: y.at(claim.y), y2: y.at(claim.y)}, inside);
      make("text", {x: place.left + 6, y: y.at(claim.y) + (k ? 14 : -5), class: "tick"}, inside, `paper: ${claim.model} ${claim.y.toFixed(1)}%`);
    }
  });
  const byTrial = new Map(drawn.filter((p) => p.role !== "test").map((p) => [p.trial, p]));
  if (!hidden.has("refinements")) {
    for (const [parent, name] of view.refinements) {
      const ends = [byTrial.get(parent), byTrial.get(name)];
      if (ends.every(Boolean)) make("path", {class: "link", d: lineOf(ends.map((p) => [x.at(p.x), y.at(p.y)]))}, inside);
    }
  }
  for (const [role, names] of [["baseline", view.baselines], ["frontier", view.frontier]]) {
    const points = names.map((name) => byTrial.get(name)).filter(Boolean);
    const line = hidden.has(role) ? [] : xAxis === 0 ? points : skyline(points);
    if (!line.length) continue;
    const corners = line.map((p, k) => (k ? `H${x.at(p.x)}V${y.at(p.y)}` : `M${x.at(p.x)},${y.at(p.y)}`)).join("");
    make("path", {class: `steps of-${role}`, d: `${corners}H${place.right}`}, inside);
  }
  drawPoints(chart, inside, drawn, x, y, place);
}

// The points that no other one beats on the chosen axis, from left to right.
function skyline(points) {
  const byPlace = [...points].sort((a, b) => a.x - b.x || b.y - a.y);
  return byPlace.filter((p, k) => byPlace.slice(0, k).every((other) => other.y < p.y));
}

// Intervals are drawn for these roles and for selected trials; the table lists all of them.
function hasInterval(point) {
  return ["frontier", "test", "not_replicated", "dense"].includes(point.role) || selected.has(point.trial);
}

function drawPoints(chart, inside, drawn, x, y, place) {
  const shapes = Object.fromEntries(view.roles.map(({role, shape}) => [role, shape]));
  const [whiskers, marks, above] = ["true", "false", "true"].map((isHidden) => make("g", {"aria-hidden": isHidden}, inside));
  const taken = [];
  const isInside = (px, py) => px >= place.left - 12 && px <= place.right + 12 && py >= place.top - 12 && py <= place.bottom + 12;
  for (const p of [...drawn].sort((a, b) => a.x - b.x || a.y - b.y)) {
    // Marks of the test metric are shifted to the right, so that both intervals are visible.
    const px = x.at(p.x) + (p.role === "test" ? 5 : 0), py = y.at(p.y);
    if (!isInside(px, py)) continue;
    const node = mark(marks, p.role + slotClass(p.trial) + fade(p.trial), shapes[p.role], px, py);
    chart.addTarget(p.trial, node, [[px, py]], p.role !== "test");
    taken.push([px - 6, py - 6, 12, 12]);
    if (hasInterval(p) && p.interval) {
      const [low, high] = p.interval.map(y.at);
      make("path", {class: `whisker ${p.role}${slotClass(p.trial)}${fade(p.trial)}`, d: `M${px},${low}V${high}M${px - 4},${low}h8M${px - 4},${high}h8`}, whiskers);
    }
    if (selected.has(p.trial) && p.role !== "test") {
      make("circle", {class: `ring${slotClass(p.trial)}`, cx: px, cy: py, r: 11}, above);
    }
  }
  const isLabelled = ({role, trial}) => role !== "test" && (isNamed(trial) || (role === "frontier" && formatOf(trial) && !fade(trial)));
  for (const p of drawn.filter(isLabelled).sort((a, b) => isNamed(b.trial) - isNamed(a.trial))) {
    const px = x.at(p.x), py = y.at(p.y), text = labelOf(p.trial), width = 7.4 * text.length;
    if (!isInside(px, py)) continue;
    const beside = [-14 - width, 14], around = [-width / 2, ...beside];
    const candidates = [...beside.flatMap((dx) => [-12, 18].map((dy) => [dx, dy])),
      ...[-20, 30, -36, 46, -52, 62].flatMap((dy) => around.map((dx) => [dx, dy]))]
      .map(([dx, dy]) => [px + dx, py + dy - 11, width, 14])
      .filter(([left, top]) => left > place.left - 10 && left + width < place.right + 12 && top > 0 && top + 14 < place.bottom);
    const overlaps = (box) => taken.filter((other) => box[0] < other[0] + other[2] && other[0] < box[0] + box[2]
      && box[1] < other[1] + other[3] && other[1] < box[1] + box[3]).length;
    const box = candidates.sort((a, b) => overlaps(a) - overlaps(b))[0];
    if (!box || (overlaps(box) && !selected.has(p.trial))) continue;
    taken.push(box);
    make("text", {class: "label", x: box[0], y: box[1] + 11}, above, text);
  }
}

// Lines are more transparent the more there are.
const opacity = (count) => Math.max(0.25, Math.min(0.75, 25 / count));

function drawCurves(chart, width, height) {
  const curves = selectedLast(Object.keys(view.trials)).map((name) => [name, view.trials[name].curve]).filter(([, c]) => c.length);
  const longest = Math.max(6, ...[...selected.keys()].map((name) => name.length));
  const place = {left: 44, right: width - 18 - 7.8 * longest, top: 28, bottom: height - 46};
  const epochs = curves.flatMap(([, curve]) => curve.map(([epoch]) => epoch));
  const values = curves.flatMap(([, curve]) => curve.map(([, value]) => value));
  const last = Math.max(...epochs, 2);
  const [low, high] = range([...values, view.chance], false);
  const x = scale({low: Math.min(...epochs, 1), high: last, from: place.left + 6, to: place.right, count: Math.min(last, width / 60)});
  const y = scale({low, high, from: place.bottom, to: place.top, count: height / 55});
  x.ticks = x.ticks.filter(([, text]) => Number.isInteger(Number(text)) || text.includes("K"));
  frame(chart.svg, {...place, x, y, xTitle: "epoch", yTitle: `validation ${view.metric}, %`});
  chanceLine(chart.svg, {...place, y});
  const labels = [];
  for (const [name, curve] of curves) {
    const places = curve.map(([epoch, value]) => [x.at(epoch), y.at(value)]), [ex, ey] = places.at(-1);
    const group = make("g", {}, chart.svg);
    const own = make("path", {class: `line${slotClass(name)}${fade(name)}`, d: lineOf(places)}, group);
    own.style.setProperty("--opacity", opacity(curves.length));
    if (view.trials[name].stopped) make("path", {class: `end${slotClass(name)}${fade(name)}`, d: SHAPES.cross(4), transform: `translate(${ex},${ey})`}, group);
    else if (curve.length === 1) make("path", {class: `end${slotClass(name)}${fade(name)}`, d: SHAPES.dot(3), transform: `translate(${ex},${ey})`}, group);
    chart.addTarget(name, own, places);
    if (selected.has(name)) labels.push({x: ex, y: ey, text: name});
  }
  endLabels(chart.svg, labels);
}
