// Handle selection and tooltips, and set up the controls.

const MAX_SELECTED = 6;

function highlight(trial) {
  document.querySelectorAll(".highlighted").forEach((node) => node.classList.remove("highlighted"));
  if (trial !== undefined) document.querySelectorAll(`[data-trial="${CSS.escape(trial)}"]`).forEach((node) => node.classList.add("highlighted"));
}

function showTooltip(found) {
  highlight(found?.trial);
  tooltip.hidden = !found;
  if (!found) return;
  tooltip.replaceChildren(...view.trials[found.trial].tooltip.map((line) => make("div", {}, null, line)));
  const {offsetWidth: width, offsetHeight: height} = tooltip;
  const right = found.x + 18 + width < innerWidth ? found.x + 18 : found.x - 18 - width;
  tooltip.style.left = `${Math.max(8, Math.min(right, innerWidth - width - 8))}px`;
  const above = found.y - height - 14;
  tooltip.style.top = `${above > 8 ? above : Math.min(found.y + 18, innerHeight - height - 8)}px`;
}

function toggle(trial) {
  if (selected.has(trial)) selected.delete(trial);
  else {
    if (selected.size === MAX_SELECTED) selected.delete(selected.keys().next().value);
    const taken = new Set(selected.values());
    selected.set(trial, [...Array(MAX_SELECTED).keys()].find((slot) => !taken.has(slot)));
  }
  update();
}

function update() {
  charts.forEach((chart) => chart.redraw());
  drawLegend();
  listSelected();
  listClasses();
  for (const row of document.querySelectorAll("tbody tr[data-trial]")) {
    row.querySelector("button")?.setAttribute("aria-pressed", selected.has(row.dataset.trial));
  }
  for (const node of document.querySelectorAll("tbody tr[data-trial], .card")) {
    node.className = node.className.replace(/ ?(is-selected s\d|format-\S+)/g, "") + slotClass(node.dataset.trial);
  }
  document.getElementById("clear-ranges").hidden = !ranges.size;
}

function swatch(parent, draw) {
  const svg = make("svg", {width: 26, height: 14, viewBox: "-13 -7 26 14", "aria-hidden": "true"}, parent);
  draw(svg);
}

// Fills a legend with [key in `hidden`, label, function that draws the swatch].
function fillLegend(id, entries) {
  const legend = document.getElementById(id), focused = document.activeElement?.dataset?.role;
  legend.replaceChildren();
  for (const [role, label, draw] of entries) {
    const button = make("button", {type: "button", "aria-pressed": !hidden.has(role), "data-role": role}, legend);
    swatch(button, draw);
    make("span", {}, button, label);
    button.addEventListener("click", () => {
      if (!hidden.delete(role)) hidden.add(role);
      update();
    });
    if (role === focused) button.focus();
  }
}

function drawLegend() {
  const roles = view.roles.filter(({role}) => view.marks.some((point) => point.role === role)).reverse();
  const entries = roles.map(({role, label, shape}) => [role, label, (svg) => mark(svg, role, shape, 0, 0)]);
  if (view.refinements.length) entries.push(["refinements", "refined from", (svg) => make("path", {class: "link", d: "M-13,0H13"}, svg)]);
  if (view.published.length) entries.push(["published", "published results", (svg) => {
    make("path", {class: "claim", d: "M-13,0H13"}, svg);
    mark(svg, "published", "star", 0, 0, 3);
  }]);
  fillLegend("legend", entries);
  fillLegend("formats", (view.formats[matrix]?.names ?? []).map((name) => [formatKey(name), name,
    (svg) => make("rect", {class: `format-${name}`, x: -10, y: -5, width: 20, height: 10, rx: 2}, svg)]));
}

function chip(parent, trial) {
  const button = make("button", {type: "button", title: "deselect", "aria-label": `deselect trial ${trial}`}, parent);
  swatch(button, (svg) => make("path", {class: `swatch${slotClass(trial)}`, d: "M-13,0H13"}, svg));
  make("span", {}, button, `${trial} ×`);
  button.addEventListener("click", () => toggle(trial));
}

function listSelected() {
  const place = document.getElementById("selected"), names = [...selected.keys()];
  const commands = document.getElementById("export");
  place.replaceChildren();
  const exported = names.filter((name) => !view.trials[name].is_baseline);
  commands.replaceChildren();
  if (view.export) exported.forEach((name) => addCopyButton(make("pre", {}, commands, view.export + name)));
  if (!names.length) {
    make("p", {class: "hint"}, place, "None. Select points of the figure or trials of the tables below.");
    return;
  }
  const table = make("table", {}, place), head = make("tr", {}, make("thead", {}, table)), body = make("tbody", {}, table);
  make("th", {}, head, "trial");
  names.forEach((name) => chip(make("th", {scope: "col"}, head), name));
  for (const what of Object.keys(view.trials[names[0]].details)) {
    const cells = names.map((name) => view.trials[name].details[what] ?? "-");
    if (cells.every((cell) => cell === "-")) continue;
    const row = make("tr", {}, body);
    make("th", {scope: "row"}, row, what);
    cells.forEach((cell) => make("td", {}, row, cell));
  }
}

function listClasses() {
  const place = document.getElementById("classes"), names = [...selected.keys()].filter((name) => view.trials[name].per_class?.length);
  place.replaceChildren();
  if (!names.length) {
    make("p", {class: "hint"}, place, "Only points of the frontier and baselines are tested: select one.");
    return;
  }
  const rows = view.trials[names[0]].per_class, key = "recall" in rows[0] ? "recall" : "average_precision";
  const box = make("div", {class: "scroll plain"}, place), table = make("table", {}, box);
  const head = make("tr", {}, make("thead", {}, table)), body = make("tbody", {}, table);
  ["class", "clips", ...names].forEach((text, k) => {
    const cell = make("th", {scope: "col", class: k === 1 ? "number" : ""}, head, text);
    if (k > 1) swatch(cell, (svg) => make("path", {class: `swatch${slotClass(text)}`, d: "M-11,0H13"}, svg));
  });
  rows.forEach((own, k) => {
    const row = make("tr", {}, body);
    make("th", {scope: "row"}, row, own.class);
    make("td", {class: "number"}, row, own.num_clips);
    for (const name of names) {
      const share = view.trials[name].per_class[k]?.[key], cell = make("td", {class: slotClass(name)}, row);
      make("span", {}, cell, share == null ? "-" : `${(100 * share).toFixed(0)}%`);
      const svg = make("svg", {viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true"}, cell);
      make("rect", {width: 100 * (share ?? 0), height: 10}, svg);
    }
  });
  const meaning = key === "recall" ? "recall, the share of the clips of a class that are predicted as it" : "average precision";
  make("p", {class: "hint"}, place, `On the test split, for the model of the sweep: ${meaning}. With few clips of a class, it is a rough estimate.`);
}

function download(name) {
  const url = URL.createObjectURL(new Blob([view.csv[name]], {type: "text/csv"}));
  make("a", {href: url, download: name}).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

function zoomBy(factor) {
  const chart = charts[0];
  if (!factor) zoom = null;
  else {
    const found = chart.targets.find((each) => each.trial === chart.current)?.places[0];
    const ends = (own, middle) => {
      const half = (own.at(own.high) - own.at(own.low)) / 2 / factor;
      return [own.back(middle - half), own.back(middle + half)];
    };
    const middle = (own) => (own.at(own.low) + own.at(own.high)) / 2;
    zoom = {x: ends(chart.x, found?.[0] ?? middle(chart.x)), y: ends(chart.y, found?.[1] ?? middle(chart.y))};
  }
  chart.redraw();
  if (document.activeElement === chart.svg) chart.hoverCurrent();
}

// A mouse drags a box to zoom in; a finger scrolls the page.
function zoomByDragging(chart) {
  let from = null, box = null;
  const inside = (event) => {
    const {left, top} = chart.svg.getBoundingClientRect();
    return [event.clientX - left, event.clientY - top];
  };
  chart.svg.addEventListener("pointerdown", (event) => {
    if (event.pointerType === "mouse" && event.button === 0) from = inside(event);
  });
  addEventListener("pointermove", (event) => {
    if (!from) return;
    const to = inside(event);
    box ??= make("rect", {class: "zoombox"}, chart.svg);
    const [x, y] = [0, 1].map((k) => Math.min(from[k], to[k]));
    Object.entries({x, y, width: Math.abs(to[0] - from[0]), height: Math.abs(to[1] - from[1])})
      .forEach(([name, value]) => box.setAttribute(name, value));
  });
  addEventListener("pointerup", (event) => {
    const start = from, to = inside(event);
    from = null;
    box?.remove();
    box = null;
    if (!start || Math.abs(to[0] - start[0]) < 12 || Math.abs(to[1] - start[1]) < 12) return;
    const ends = (own, k) => [own.back(start[k]), own.back(to[k])].sort((a, b) => a - b);
    zoom = {x: ends(chart.x, 0), y: ends(chart.y, 1)};
    chart.redraw();
    // The click that ends the drag must not select a trial.
    chart.svg.addEventListener("click", (click) => click.stopImmediatePropagation(), {capture: true, once: true});
  });
}

function sortable(table) {
  const body = table.tBodies[0];
  [...table.tHead.rows[0].cells].forEach((cell, column) => {
    const text = cell.textContent, button = make("button", {type: "button"}, null, text);
    cell.replaceChildren(button);
    button.addEventListener("click", () => {
      const sign = cell.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      cell.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      // Numbers are sorted by value; unknown values come last in both directions.
      const key = (row) => {
        const own = row.cells[column].textContent.trim(), number = parseFloat(own.replaceAll(",", ""));
        return [own === "-" || own === "" ? 1 : 0, /^[\d,.]+(e-?\d+)?%?$/.test(own.split(" ")[0]) ? number : NaN, own];
      };
      const rows = [...body.rows].map((row) => [key(row), row]);
      rows.sort(([a], [b]) => a[0] - b[0] || sign * (a[1] - b[1] || a[2].localeCompare(b[2], "en", {numeric: true})));
      body.append(...rows.map(([, row]) => row));
    });
  });
}

// Adds a radio button for each title, hidden if there are fewer than `least`; choose(k) is called for title k.
function addChoices(id, titles, least, choose) {
  const group = document.getElementById(id);
  group.hidden = titles.length < least;
  titles.forEach((title, k) => {
    const label = make("label", {}, group), input = make("input", {type: "radio", name: id, value: k}, label);
    input.checked = k === 0;
    label.append(title);
    input.addEventListener("change", () => choose(k));
  });
}

function setTheme() {
  const button = document.getElementById("theme"), root = document.documentElement;
  const isDark = () => (root.style.colorScheme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const setLabel = () => { button.textContent = isDark() ? "Light" : "Dark"; button.ariaLabel = `${button.textContent} theme`; };
  button.addEventListener("click", () => { root.style.colorScheme = isDark() ? "light" : "dark"; setLabel(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", setLabel);
  button.hidden = false;
  setLabel();
}

// Puts a command into a box with a button that copies it.
function addCopyButton(command) {
  const box = make("div", {class: "command"}), button = make("button", {type: "button"}, null, "Copy");
  command.replaceWith(box);
  box.append(command, button);
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(command.textContent);
      button.textContent = "Copied";
    } catch {
      // A page that is a file may not be allowed to.
      getSelection().selectAllChildren(command);
      button.textContent = "Press Ctrl+C";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 3000);
  });
}

function addCharts() {
  const shared = {isSelected: (trial) => selected.has(trial), onHover: showTooltip, onSelect: toggle};
  const add = (id, more) => charts.push(new Chart(document.getElementById(id), {...shared, ...more}));
  add("plot", {label: `Parameters against ${view.metric} of the trials; arrow keys move between them, Enter selects`, draw: drawFrontier,
    height: (width) => Math.max(340, Math.min(560, 0.62 * width))});
  add("curves", {label: "Learning curves of the trials; arrow keys move between them, Enter selects", draw: drawCurves,
    height: (width) => Math.max(280, Math.min(420, 0.6 * width))});
  add("coordinates", {label: "Options of the trials; arrow keys move between them, Enter selects", draw: drawCoordinates,
    height: coordinatesHeight});
  zoomByDragging(charts[0]);
  charts[0].svg.addEventListener("keydown", ({key}) => {
    const factor = {"+": 2, "-": 0.5, 0: 0}[key];
    if (factor !== undefined) zoomBy(factor);
  });
}

function start() {
  document.querySelectorAll("[data-scripted]").forEach((node) => { node.hidden = false; });
  for (const row of document.querySelectorAll("tbody tr[data-trial]")) {
    const button = make("button", {type: "button"}, null, row.dataset.trial);
    button.addEventListener("click", () => toggle(row.dataset.trial));
    row.cells[0].querySelector("span").replaceWith(button);
    row.addEventListener("pointerenter", () => highlight(row.dataset.trial));
    row.addEventListener("pointerleave", () => highlight());
  }
  document.querySelectorAll("#frontier, #trials").forEach(sortable);
  document.querySelectorAll("[data-csv]").forEach((node) => node.addEventListener("click", () => download(node.dataset.csv)));
  document.querySelectorAll("[data-zoom]").forEach((node) => node.addEventListener("click", () => zoomBy(Number(node.dataset.zoom))));
  document.getElementById("clear-ranges").addEventListener("click", () => { ranges.clear(); setRange(0, null); });
  document.getElementById("filter").addEventListener("input", filterTrials);
  addEventListener("scroll", () => tooltip.hidden || showTooltip(null), {passive: true});
  // A baseline has the colour of baselines.
  view.selected.forEach((trial, slot) => selected.set(trial, view.trials[trial].is_baseline ? 4 : slot));
  const trials = Object.values(view.trials);
  document.getElementById("learning").hidden = !trials.some(({curve}) => curve.length);
  document.getElementById("by-class").hidden = !trials.some((trial) => trial.per_class?.length);
  setTheme();
  document.querySelectorAll("pre").forEach(addCopyButton);
  addChoices("x-axis", Object.values(view.x_axes), 2, (k) => { xAxis = k; zoom = null; charts[0].redraw(); });
  addChoices("matrix", view.formats.map(({title}) => title), 1, (k) => { matrix = k; update(); });
  if (view.formats.length) document.querySelectorAll("#plot, #legend, #curves").forEach((node) => node.classList.add("by-format"));
  addCharts();
  update();
}

start();
