// The three pictures: size against the metric, learning curves, parallel coordinates. What they show is in `view`, and
// in this:
const charts = [];
// Roles that the legend has switched off.
const hidden = new Set();
// Which of view.across lies across.
let across = 0;
// Ends of both scales while zoomed: {x: [low, high], y: [low, high]}.
let zoom = null;
// trial -> slot, which is its colour and dash, in the order they were chosen.
const chosen = new Map();

const slotClass = (trial) => (chosen.has(trial) ? ` is-chosen s${chosen.get(trial)}` : "");
const chosenLast = (names) => [...names.filter((name) => !chosen.has(name)), ...names.filter((name) => chosen.has(name))];
const labelOf = (trial) => (view.trials[trial].mark ? `${trial} ${view.trials[trial].mark}` : trial);

function mark(parent, role, shape, x, y, r = 4) {
  const group = make("g", {class: role, transform: `translate(${x.toFixed(1)},${y.toFixed(1)})`}, parent);
  make("path", {class: "shape", "stroke-width": /test|stopped/.test(role) ? 2 : 0, d: SHAPES[shape](r)}, group);
  return group;
}

function drawFrontier(chart, width, height) {
  const {svg} = chart, names = Object.keys(view.across);
  const place = {left: 44, right: width - 14, top: 28, bottom: height - 46};
  const shown = view.points.map((point) => ({...point, x: view.trials[point.trial].x[across]}))
    .filter((point) => point.x && !hidden.has(point.role));
  const claims = hidden.has("published") ? [] : view.published;
  const isPlaced = names[across] === "input_params";
  const xs = [...shown.map((p) => p.x), ...(isPlaced ? claims.flatMap((claim) => claim.x || []) : [])];
  const ys = [...shown.flatMap((p) => [p.y, ...(isExplained(p) && p.interval || [])]), ...claims.map((c) => c.y), view.chance];
  const [xLow, xHigh] = zoom?.x ?? range(xs.length ? xs : [1, 10], true);
  const [yLow, yHigh] = zoom?.y ?? range(ys, false, 0.05);
  const x = scale({low: xLow, high: xHigh, from: place.left, to: place.right, isLog: true, count: width / 70});
  const y = scale({low: yLow, high: yHigh, from: place.bottom, to: place.top, count: height / 55});
  Object.assign(chart, {x, y});
  frame(svg, {...place, x, y, xTitle: Object.values(view.across)[across], yTitle: `${view.metric}, %`});

  const clip = make("clipPath", {id: "inside"}, make("defs", {}, svg));
  make("rect", {x: place.left - 12, y: place.top - 12, width: width - place.left + 12, height: place.bottom - place.top + 12}, clip);
  const inside = make("g", {"clip-path": "url(#inside)"}, svg);
  chanceLine(inside, {...place, y});
  claims.sort((a, b) => b.y - a.y).forEach((claim, k) => {
    if (isPlaced && claim.x) {
      mark(inside, "published", "star", x.at(claim.x), y.at(claim.y));
      make("text", {x: x.at(claim.x) + 10, y: y.at(claim.y) + (k ? 15 : -5), class: "label"}, inside, `paper: ${claim.model}`);
    } else {
      make("line", {class: "claim", x1: place.left, x2: place.right, y1: y.at(claim.y), y2: y.at(claim.y)}, inside);
      make("text", {x: place.left + 6, y: y.at(claim.y) + (k ? 14 : -5), class: "tick"}, inside, `paper: ${claim.model} ${claim.y.toFixed(1)}%`);
    }
  });
  const byTrial = new Map(shown.filter((p) => p.role !== "test").map((p) => [p.trial, p]));
  if (!hidden.has("links")) {
    for (const [parent, name] of view.links) {
      const ends = [byTrial.get(parent), byTrial.get(name)];
      if (ends.every(Boolean)) make("path", {class: "link", d: lineOf(ends.map((p) => [x.at(p.x), y.at(p.y)]))}, inside);
    }
  }
  const line = across === 0 && !hidden.has("frontier") ? view.frontier.map((name) => byTrial.get(name)).filter(Boolean) : [];
  if (line.length) {
    const corners = line.map((p, k) => (k ? `H${x.at(p.x)}V${y.at(p.y)}` : `M${x.at(p.x)},${y.at(p.y)}`)).join("");
    make("path", {class: "steps", d: `${corners}H${place.right}`}, inside);
  }
  drawPoints(chart, inside, shown, x, y, place);
}

// Intervals are drawn where they decide something, and for what is chosen; the table has them all.
function isExplained(point) {
  return ["frontier", "test", "not_replicated", "dense"].includes(point.role) || chosen.has(point.trial);
}

function drawPoints(chart, inside, shown, x, y, place) {
  const shapes = Object.fromEntries(view.roles.map(({role, shape}) => [role, shape]));
  const [whiskers, marks, above] = ["true", "false", "true"].map((unsaid) => make("g", {"aria-hidden": unsaid}, inside));
  const taken = [];
  const isInside = (px, py) => px >= place.left - 12 && px <= place.right + 12 && py >= place.top - 12 && py <= place.bottom + 12;
  for (const p of [...shown].sort((a, b) => a.x - b.x || a.y - b.y)) {
    // What the test split says stands a little to the right, so that both intervals are seen.
    const px = x.at(p.x) + (p.role === "test" ? 5 : 0), py = y.at(p.y);
    if (!isInside(px, py)) continue;
    const node = mark(marks, p.role, shapes[p.role], px, py);
    chart.reach(p.trial, node, [[px, py]], p.role !== "test");
    taken.push([px - 6, py - 6, 12, 12]);
    if (isExplained(p) && p.interval) {
      const [low, high] = p.interval.map(y.at);
      make("path", {class: `whisker ${p.role}`, d: `M${px},${low}V${high}M${px - 4},${low}h8M${px - 4},${high}h8`}, whiskers);
    }
    if (chosen.has(p.trial) && p.role !== "test") {
      make("circle", {class: `ring s${chosen.get(p.trial)}`, cx: px, cy: py, r: 11}, above);
    }
  }
  for (const p of shown.filter((each) => each.role !== "test" && (chosen.has(each.trial) || view.trials[each.trial].mark))) {
    const px = x.at(p.x), py = y.at(p.y), text = labelOf(p.trial), width = 7.4 * text.length;
    if (!isInside(px, py)) continue;
    const spots = [[-14 - width, -12], [14, -12], [14, 18], [-14 - width, 18], [-width / 2, -20], [-width / 2, 30]]
      .map(([dx, dy]) => [px + dx, py + dy - 11, width, 14]).filter(([left]) => left > 2 && left + width < place.right + 12);
    const overlaps = (spot) => taken.filter((other) => spot[0] < other[0] + other[2] && other[0] < spot[0] + spot[2]
      && spot[1] < other[1] + other[3] && other[1] < spot[1] + spot[3]).length;
    const spot = spots.sort((a, b) => overlaps(a) - overlaps(b))[0];
    if (!spot) continue;
    taken.push(spot);
    make("text", {class: "label", x: spot[0], y: spot[1] + 11}, above, text);
  }
}

// The more lines, the fainter each.
const ink = (count) => Math.max(0.25, Math.min(0.75, 25 / count));

function drawCurves(chart, width, height) {
  const curves = chosenLast(Object.keys(view.trials)).map((name) => [name, view.trials[name].curve]).filter(([, c]) => c.length);
  const place = {left: 44, right: width - 60, top: 28, bottom: height - 46};
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
    const own = make("path", {class: `line${slotClass(name)}`, d: lineOf(places)}, group);
    own.style.setProperty("--ink", ink(curves.length));
    if (view.trials[name].stopped) make("path", {class: `end${slotClass(name)}`, d: SHAPES.cross(4), transform: `translate(${ex},${ey})`}, group);
    else if (curve.length === 1) make("path", {class: `end${slotClass(name)}`, d: SHAPES.dot(3), transform: `translate(${ex},${ey})`}, group);
    chart.reach(name, own, places);
    if (chosen.has(name)) labels.push({x: ex, y: ey, text: name});
  }
  endLabels(chart.svg, labels);
}

function drawCoordinates(chart, width, height) {
  const [top, bottom] = [64, height - 14], count = view.dimensions.length;
  const at = (k) => 76 + (k * (width - 116)) / Math.max(count - 1, 1);
  const scales = view.dimensions.map(({kind, values, names}) => {
    if (kind === "names") {
      const step = (bottom - top) / Math.max(names.length, 1), place = (name) => bottom - (names.indexOf(name) + 0.5) * step;
      // As many names as have room.
      const every = Math.ceil(13 / step);
      return {at: place, ticks: names.filter((_, n) => n % every === 0).map((name) => [place(name), name])};
    }
    const [low, high] = range(Object.values(values), kind === "log", 0.03);
    return scale({low, high, from: bottom, to: top, isLog: kind === "log", count: 6});
  });
  const metric = view.dimensions.at(-1).values, all = Object.values(metric), best = Math.max(...all), worst = Math.min(...all);
  const lines = make("g", {}, chart.svg), axes = make("g", {"aria-hidden": "true"}, chart.svg);
  const byMetric = Object.keys(metric).sort((a, b) => metric[a] - metric[b]);
  for (const name of chosenLast(byMetric)) {
    const places = scales.flatMap((own, k) => {
      const value = view.dimensions[k].values[name];
      return value === undefined ? [] : [[at(k), own.at(value)]];
    });
    const path = make("path", {class: `line shared${slotClass(name)}`, d: lineOf(places)}, lines);
    const share = (metric[name] - worst) / (best - worst || 1);
    path.style.setProperty("--share", `${100 * share ** 2}%`);
    path.style.setProperty("--ink", ink(all.length) * (0.4 + share ** 2));
    chart.reach(name, path, places);
  }
  scales.forEach((own, k) => {
    make("line", {class: "axis", x1: at(k), x2: at(k), y1: top, y2: bottom}, axes);
    for (const [place, text] of own.ticks) {
      make("text", {class: "tick", x: at(k) - 6, y: place + 4, "text-anchor": "end"}, axes, text.length > 14 ? `${text.slice(0, 13)}…` : text);
    }
    const title = make("text", {class: "title", y: 0, "text-anchor": "middle"}, axes);
    view.dimensions[k].title.split(" ").slice(0, 4).forEach((word, n) => make("tspan", {x: at(k), dy: 14}, title, word.slice(0, 16)));
  });
}
