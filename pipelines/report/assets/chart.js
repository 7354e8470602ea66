"use strict";
// Create SVG elements, scales and shapes, and a chart whose trials can be selected by pointer and by keyboard.

const SVG = "http://www.w3.org/2000/svg";
const view = JSON.parse(document.getElementById("view").textContent);
const tooltip = document.getElementById("tooltip");

// Text is set by textContent only, so that names cannot become markup.
function make(tag, attributes, parent, text) {
  const isDrawn = /^(svg|g|path|line|rect|circle|text|tspan|clipPath|defs)$/.test(tag);
  const node = isDrawn ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  parent?.append(node);
  return node;
}

const SHAPES = {
  dot: (r) => `M${-r},0a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0`,
  circle: (r) => SHAPES.dot(1.5 * r),
  square: (r) => `M${-1.4 * r},${-1.4 * r}h${2.8 * r}v${2.8 * r}h${-2.8 * r}z`,
  diamond: (r) => `M0,${-1.5 * r}L${1.5 * r},0L0,${1.5 * r}L${-1.5 * r},0z`,
  triangle: (r) => `M0,${-1.7 * r}L${1.6 * r},${1.2 * r}H${-1.6 * r}z`,
  wedge: (r) => `M0,${1.7 * r}L${1.6 * r},${-1.2 * r}H${-1.6 * r}z`,
  cross: (r) => `M${-r},${-r}L${r},${r}M${-r},${r}L${r},${-r}`,
  star: (r) => "M" + [...Array(10).keys()].map((k) => {
    const far = (k % 2 ? 0.8 : 2) * r, angle = (Math.PI * k) / 5;
    return `${(far * Math.sin(angle)).toFixed(2)},${(-far * Math.cos(angle)).toFixed(2)}`;
  }).join("L") + "z",
};

const short = new Intl.NumberFormat("en", {notation: "compact", maximumSignificantDigits: 3});

// Maps values from low to high to pixels: at(value) lies between `from` and `to`; there are about `count` ticks.
function scale({low, high, from, to, isLog, count}) {
  const [a, b] = isLog ? [Math.log10(low), Math.log10(high)] : [low, high];
  const at = (value) => from + ((isLog ? Math.log10(value) : value) - a) / (b - a || 1) * (to - from);
  const back = (pixel) => { const v = a + (pixel - from) / (to - from) * (b - a); return isLog ? 10 ** v : v; };
  let ticks = [];
  if (isLog) {
    for (const steps of [[1, 2, 5], [1]]) {
      ticks = [];
      for (let power = Math.floor(a); power <= b; power++) ticks.push(...steps.map((step) => step * 10 ** power));
      ticks = ticks.filter((tick) => tick >= low && tick <= high);
      if (ticks.length <= count) break;
    }
  }
  if (ticks.length < 2) {
    const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough || 1));
    const step = [1, 2, 5, 10].find((each) => each * power >= rough) * power;
    ticks = [];
    for (let k = Math.ceil(low / step); k * step <= high; k++) ticks.push(Number((k * step).toPrecision(12)));
  }
  return {low, high, at, back, isLog, ticks: ticks.map((tick) => [at(tick), short.format(tick)])};
}

// The ends of a scale that contains all values, with a margin of the share `room` at both ends.
function range(values, isLog, room = 0.06) {
  const logs = values.map((value) => (isLog ? Math.log10(value) : value));
  const low = Math.min(...logs), high = Math.max(...logs), extra = room * (high - low) || (isLog ? 0.3 : 1);
  return isLog ? [10 ** (low - extra), 10 ** (high + extra)] : [low - extra, high + extra];
}

function lineOf(places) {
  return places.map(([x, y], k) => `${k ? "L" : "M"}${x.toFixed(1)},${y.toFixed(1)}`).join("");
}

// Draws grid, ticks and axis titles.
function frame(svg, {x, y, left, right, top, bottom, xTitle, yTitle}) {
  const grid = make("g", {"aria-hidden": "true"}, svg);
  for (const [place, text] of y.ticks) {
    make("line", {class: "grid", x1: left, x2: right, y1: place, y2: place}, grid);
    make("text", {x: left - 8, y: place + 4, "text-anchor": "end"}, grid, text);
  }
  for (const [place, text] of x.ticks) {
    make("line", {class: "grid", x1: place, x2: place, y1: top, y2: bottom}, grid);
    make("text", {x: place, y: bottom + 18, "text-anchor": "middle"}, grid, text);
  }
  make("line", {class: "axis", x1: left, x2: right, y1: bottom, y2: bottom}, grid);
  make("text", {x: (left + right) / 2, y: bottom + 38, "text-anchor": "middle", class: "title"}, grid, xTitle);
  make("text", {x: 4, y: 14, class: "title"}, grid, yTitle);
}

function chanceLine(svg, {y, left, right}) {
  const place = y.at(view.chance);
  make("line", {class: "chance", x1: left, x2: right, y1: place, y2: place}, svg);
  make("text", {x: right - 4, y: place - 6, "text-anchor": "end", class: "tick"}, svg, `chance ${view.chance.toFixed(1)}%`);
}

// Writes labels at the right margin, moved apart if they would overlap.
function endLabels(svg, labels) {
  let last = -Infinity;
  for (const {x, y, text} of labels.sort((a, b) => a.y - b.y)) {
    last = Math.max(y + 4, last + 14);
    make("text", {x: x + 10, y: last, class: "label"}, svg, text);
  }
}

// The point between a and b that is closest to `from`.
function closest(from, a, b) {
  const [dx, dy] = [b[0] - a[0], b[1] - a[1]], whole = dx * dx + dy * dy;
  const share = whole && Math.max(0, Math.min(1, ((from[0] - a[0]) * dx + (from[1] - a[1]) * dy) / whole));
  return [a[0] + share * dx, a[1] + share * dy];
}

// A figure of trials. `draw(chart, width, height)` draws into chart.svg and calls chart.addTarget() for each trial;
// onHover and onSelect are called for trials by pointer and by keyboard.
class Chart {
  constructor(holder, {label, height, draw, isSelected, onHover, onSelect}) {
    Object.assign(this, {holder, height, draw, isSelected, onHover, onSelect, targets: [], current: null});
    this.svg = make("svg", {role: "listbox", tabindex: 0, "aria-label": label, "aria-multiselectable": "true"}, holder);
    this.svg.addEventListener("pointermove", (event) => event.pointerType === "mouse" && this.hover(this.nearest(event)));
    this.svg.addEventListener("pointerleave", () => this.hover(null));
    this.svg.addEventListener("click", (event) => this.select(this.nearest(event), event));
    this.svg.addEventListener("keydown", (event) => this.key(event));
    this.svg.addEventListener("blur", () => this.hover(null));
    new ResizeObserver(() => holder.clientWidth !== this.drawnWidth && this.redraw()).observe(holder);
  }

  redraw() {
    this.drawnWidth = this.holder.clientWidth;
    if (!this.drawnWidth) return;
    this.width = this.drawnWidth;
    const height = this.height(this.width);
    this.svg.replaceChildren();
    this.svg.style.width = `${this.width}px`;
    this.svg.style.height = `${height}px`;
    this.svg.setAttribute("viewBox", `0 0 ${this.width} ${height}`);
    this.targets = [];
    this.draw(this, this.width, height);
  }

  // Makes `node` represent a trial at these places, an array of [x, y]; without isFocusable, keys skip it.
  addTarget(trial, node, places, isFocusable = true) {
    node.dataset.trial = trial;
    if (isFocusable) {
      node.id = `${this.holder.id}-${this.targets.length}`;
      node.setAttribute("role", "option");
      node.setAttribute("aria-selected", this.isSelected(trial));
      node.setAttribute("aria-label", view.trials[trial].tooltip.join(", "));
    }
    this.targets.push({trial, node, places, isFocusable});
  }

  nearest(event) {
    const box = this.svg.getBoundingClientRect(), from = [event.clientX - box.left, event.clientY - box.top];
    let best = null, least = 24;
    for (const each of this.targets) {
      for (let k = 0; k < each.places.length; k++) {
        const at = closest(from, each.places[Math.max(k - 1, 0)], each.places[k]);
        const away = Math.hypot(at[0] - from[0], at[1] - from[1]);
        if (away < least) [best, least] = [{...each, at}, away];
      }
    }
    return best;
  }

  hover(found) {
    const box = this.svg.getBoundingClientRect();
    this.onHover(found && {trial: found.trial, x: box.left + found.at[0], y: box.top + found.at[1]});
  }

  select(found) {
    if (found) this.onSelect(found.trial);
    this.hover(found);
  }

  hoverCurrent() {
    const target = this.targets.find((each) => each.isFocusable && each.trial === this.current);
    if (target) this.svg.setAttribute("aria-activedescendant", target.node.id);
    this.hover(target && {...target, at: target.places.at(-1)});
  }

  key(event) {
    const targets = this.targets.filter((each) => each.isFocusable), last = targets.length - 1;
    const index = targets.findIndex((each) => each.trial === this.current);
    const next = Math.min(index + 1, last), previous = Math.max(index - 1, 0);
    const target = {ArrowRight: next, ArrowUp: next, ArrowLeft: previous, ArrowDown: previous, Home: 0, End: last}[event.key];
    if (target !== undefined && targets.length) {
      this.current = targets[target].trial;
      this.hoverCurrent();
    } else if ((event.key === "Enter" || event.key === " ") && index >= 0) {
      this.onSelect(this.current);
      this.hoverCurrent();
    } else if (event.key === "Escape") {
      this.hover(null);
    } else return;
    event.preventDefault();
  }
}
