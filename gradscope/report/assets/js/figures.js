// The drawings: those in view first, the others while the browser is idle; redrawn for theme and paper.
let library = null;
let figures = null;
const drawn = new Set();
const shownData = new Map();

async function inflated(id) {
  const raw = Uint8Array.from(atob($(id).textContent.trim()), (c) => c.charCodeAt(0));
  const stream = new Blob([raw]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

function loadFigures() {
  figures ??= inflated("#gradscope-figures").then(JSON.parse);
  return figures;
}

// The library lies in the page, packed, or in a file beside it where scripts in a page are forbidden.
async function addLibrary() {
  const script = document.createElement("script");
  const file = $("#gradscope-plotly").dataset.file;
  if (file) {
    const there = new Promise((resolve, reject) => {
      script.onload = resolve;
      script.onerror = () => reject(new Error(`${file} is missing beside the page`));
    });
    script.src = file;
    document.head.append(script);
    await there;
  } else {
    script.textContent = await inflated("#gradscope-plotly");
    document.head.append(script);
  }
  return window.Plotly;
}

function loadLibrary() {
  library ??= addLibrary();
  return library;
}

// Figures name colours as the style sheet does; here they get the value of the theme in force.
function coloured(value, style) {
  if (typeof value === "string") return value.replace(/var\((--[\w-]+)\)/g, (_, name) => style.getPropertyValue(name).trim());
  if (Array.isArray(value)) return typeof value[0] === "number" && typeof value[1] !== "string" || value[0] === null ? value : value.map((item) => coloured(item, style));
  if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, coloured(item, style)]));
  return value;
}

// Plotly reads some HTML and TeX in texts; names must not be either.
const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;").replace(/\$/g, "&#36;");

function shortened(name, most) {
  if (name.length <= most) return name;
  const head = Math.floor((most - 1) / 2);
  return name.slice(0, head) + "…" + name.slice(name.length - (most - 1 - head));
}

// Room for layer names by the width that there is.
function fitted(layout, data, width, marked) {
  if (data.layerAxis !== "y") return layout;
  const narrow = width < 480;
  const longest = narrow ? 14 : 22;
  const shown = layout.yaxis.tickvals;
  const names = shown.map((at) => shortened(data.labels[at], longest));
  const text = shown.map((at, i) => (marked.has(data.layers[at]) ? "▲ " : "") + plain(names[i]));
  const widest = Math.max(...shown.map((at, i) => names[i].length + (marked.has(data.layers[at]) ? 2 : 0)));
  const left = Math.min(Math.round(widest * 7.0) + 16, narrow ? 124 : 184);
  return { ...layout, yaxis: { ...layout.yaxis, ticktext: text }, margin: { ...layout.margin, l: left } };
}

function columnOf(data, step) {
  const at = data.columns.findIndex(([first, last]) => step >= first && step <= last);
  if (at >= 0) return at;
  const after = data.columns.findIndex(([first]) => first > step);
  return after < 0 ? data.columns.length - 1 : after;
}

// Marks of the chosen layer and step, added to the shapes that the figure has of its own.
function marks(data, style) {
  const line = { color: style.getPropertyValue("--selection").trim(), width: 2 };
  const shapes = [];
  const row = data.layers ? data.layers.indexOf(state.layer) : -1;
  if (state.layer !== "" && row >= 0) {
    shapes.push({ type: "rect", xref: "paper", yref: "y", x0: 0, x1: 1, y0: row - 0.5, y1: row + 0.5, line, fillcolor: "rgba(0,0,0,0)" });
  }
  if (state.step !== "" && data.columns) {
    const column = columnOf(data, Number(state.step));
    shapes.push({ type: "rect", xref: "x", yref: "paper", x0: column - 0.5, x1: column + 0.5, y0: 0, y1: 1, line, fillcolor: "rgba(0,0,0,0)" });
  } else if (state.step !== "" && data.stepAxis) {
    shapes.push({ type: "line", xref: "x", yref: "paper", x0: Number(state.step), x1: Number(state.step), y0: 0, y1: 1, line: { ...line, dash: "dot" } });
  }
  return shapes;
}

function hoverTexts(traces, data) {
  const largest = state.metric === "largest" && data.excess;
  return traces.map((trace) => {
    if (trace.type !== "heatmap") return trace;
    const own = trace.name === "gradient";
    const z = own && largest ? trace.z.map((row, r) => row.map((value, c) => (value === null ? null : value + data.excess[r][c]))) : trace.z;
    const text = z.map((row, r) => row.map((value, c) => {
      if (value === null) return "";
      const [first, last] = data.columns[c];
      const when = first === last ? `step ${first.toLocaleString("en")}` : `steps ${first.toLocaleString("en")} to ${last.toLocaleString("en")}`;
      return `${plain(data.labels[r])}<br>${when}: ${own ? sized(value) : trace.name}`;
    }));
    return { ...trace, z, text, hovertemplate: "%{text}<extra></extra>" };
  });
}

const sized = (log) => (log === null ? "–" : (10 ** log).toExponential(1).replace("e+", "e"));

async function draw(box) {
  const key = box.dataset.figure;
  drawn.add(key);
  const all = await loadFigures();
  const Plotly = await loadLibrary();
  const { plot, data } = key === "map" ? foldedMap(all.map) : all[key];
  shownData.set(key, data);
  const style = getComputedStyle(document.documentElement);
  const layout = fitted(coloured(plot.layout, style), data, box.clientWidth, new Set(data.marked || all.map?.data.marked));
  layout.shapes = [...(layout.shapes || []), ...marks(data, style)];
  layout.width = box.clientWidth;
  box.style.height = `${layout.height}px`;
  layout.font = { ...layout.font, family: getComputedStyle(document.body).fontFamily };
  const traces = coloured(key === "map" ? hoverTexts(plot.data, data) : plot.data, style);
  const waiting = $(".waiting", box);
  if (waiting) waiting.remove();
  await Plotly.react(box, traces, layout, { displayModeBar: false, responsive: false, showTips: false });
  if (!box.classList.contains("drawn")) {
    box.classList.add("drawn");
    performance.mark(`${key} drawn`);
    box.on("plotly_click", (event) => chosen(shownData.get(key), event.points[0]));
  }
}

function chosen(data, point) {
  const change = {};
  const row = data.shown?.[Math.round(Number(point.y))];
  if (row?.block) {
    update({ block: row.name, layer: "" });
    return;
  }
  if (data.layerAxis === "y") change.layer = data.layers[Math.round(Number(point.y))] ?? state.layer;
  if (data.columns) change.step = String(data.columns[Math.round(Number(point.x))]?.[0] ?? "");
  else if (data.stepAxis && !point.data.base) change.step = String(Math.round(Number(point.x)));
  update(change);
}

function failed(error) {
  for (const waiting of $$(".waiting")) waiting.textContent = "This browser could not draw the figure; its numbers are in the table.";
  console.warn("gradscope: the figures could not be drawn:", error);
}

function redraw() {
  return Promise.all($$(".plot").filter((box) => drawn.has(box.dataset.figure)).map(draw)).catch(failed);
}

function drawAll() {
  return Promise.all($$(".plot").map(draw)).catch(failed);
}

// One figure in each idle moment; where the browser tells of none, soon after one another.
const whenIdle = (act) => (window.requestIdleCallback ? requestIdleCallback(act, { timeout: 1000 }) : setTimeout(act, 50));

function drawWhenIdle() {
  const next = $$(".plot").find((box) => !drawn.has(box.dataset.figure));
  if (next) whenIdle(() => (drawn.has(next.dataset.figure) ? Promise.resolve() : draw(next)).then(drawWhenIdle).catch(failed));
}

// What is known of the chosen layer and step, in words.
async function showPick() {
  const form = $("#pick");
  if (!form) return;
  $("#pick-layer").value = state.layer;
  $("#pick-step").value = state.step;
  const metric = $("#pick-metric");
  if (metric) metric.value = state.metric || "median";
  $("#pick-clear").hidden = state.layer === "" && state.step === "" && state.block === "";
  const out = $("#picked");
  if (state.layer === "" && state.step === "" && state.block !== "") {
    out.textContent = `${state.block} is open; Clear folds it again.`;
    return;
  }
  if (state.layer === "" && state.step === "") {
    out.textContent = "Click a cell, or choose here; the figures below follow.";
    return;
  }
  const { plot, data } = (await loadFigures()).map;
  const row = data.layers.indexOf(state.layer);
  if (row < 0) {
    out.textContent = `Step ${Number(state.step).toLocaleString("en")} is marked in every figure over steps.`;
    return;
  }
  const name = data.labels[row];
  const line = plot.data.find((trace) => trace.name === "gradient").z[row];
  const known = line.filter((value) => value !== null);
  const size = (value) => `gradient RMS ${sized(value)}`;
  if (state.step === "") {
    out.textContent = known.length ? `${name}: ${size(known[0])} at first, ${sized(known[known.length - 1])} at last.` : `${name} never had a finite gradient.`;
    return;
  }
  const column = columnOf(data, Number(state.step));
  const cell = data.cells[row][column];
  const [first, last] = data.columns[column];
  const when = first === last ? `step ${first.toLocaleString("en")}` : `steps ${first.toLocaleString("en")} to ${last.toLocaleString("en")}`;
  out.textContent = `${name}, ${when}: ${cell === FINITE ? size(line[column]) : STATES[cell]}.`;
}

function setUpFigures() {
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      watcher.unobserve(entry.target);
      draw(entry.target).catch(failed);
    }
  }, { rootMargin: "300px" });
  $$(".plot").forEach((box) => watcher.observe(box));
  if (document.readyState === "complete") drawWhenIdle();
  else addEventListener("load", drawWhenIdle);
  const form = $("#pick");
  if (form) {
    form.addEventListener("submit", (event) => event.preventDefault());
    $("#pick-layer").addEventListener("change", (event) => update({ layer: event.target.value }));
    $("#pick-step").addEventListener("change", (event) => update({ step: event.target.value }));
    $("#pick-clear").addEventListener("click", () => update({ layer: "", step: "", block: "" }));
    $("#pick-metric")?.addEventListener("change", (event) => update({ metric: event.target.value === "median" ? "" : event.target.value }));
  }
  listeners.push((change) => {
    if ("layer" in change || "step" in change || "metric" in change || "block" in change) { redraw(); showPick().catch(failed); }
  });
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    redraw();
  });
  showPick().catch(failed);
}
