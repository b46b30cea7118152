// The chosen layer, below its row of the table: its gradient over the steps and its exponents.
function drawing(name, attributes, children = []) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function picture(label, shapes, caption) {
  const figure = document.createElement("figure");
  const text = document.createElement("figcaption");
  text.textContent = caption;
  figure.append(drawing("svg", { class: "spark trial", viewBox: "0 0 320 96", preserveAspectRatio: "none", role: "img", "aria-label": label }, shapes), text);
  return figure;
}

// Runs of known values as lines: nothing bridges what was not recorded.
function lineOf(values, low, high) {
  const span = Math.max(high - low, 1e-9);
  const runs = [[]];
  values.forEach((value, at) => {
    if (value === null) runs.push([]);
    else runs.at(-1).push(`${(6 + (308 * at) / Math.max(values.length - 1, 1)).toFixed(1)},${(6 + (84 * (high - value)) / span).toFixed(1)}`);
  });
  return runs.filter((run) => run.length).map((run) => (run.length > 1
    ? drawing("polyline", { class: "line", points: run.join(" ") })
    : drawing("circle", { class: "point", cx: run[0].split(",")[0], cy: run[0].split(",")[1], r: 2 })));
}

function gradientOf({ plot, data }, name) {
  const row = data.layers.indexOf(name);
  if (row < 0) return null;
  const z = plot.data.find((trace) => trace.name === "gradient").z[row];
  const known = z.filter((value) => value !== null);
  if (!known.length) return null;
  const [low, high] = [Math.min(...known), Math.max(...known)];
  const steps = `steps ${data.columns[0][0].toLocaleString("en")} to ${data.columns.at(-1)[1].toLocaleString("en")}`;
  const caption = `Gradient RMS, ${steps}: from ${sized(low)} to ${sized(high)}, logarithmic`;
  return picture(caption, lineOf(z, low, high === low ? low + 1 : high), caption);
}

function exponentsOf({ plot, data }, name) {
  const row = data.layers.indexOf(name);
  if (row < 0) return null;
  const { x, z } = plot.data.find((trace) => trace.type === "heatmap");
  const share = z[row].map((value) => value ?? 0);
  const top = Math.max(...share);
  if (!top) return null;
  const wide = 308 / share.length;
  const bars = share.flatMap((value, at) => (value
    ? [drawing("rect", { class: "bar-of", x: (6 + at * wide).toFixed(1), width: Math.max(wide - 1, 1).toFixed(1), y: (90 - (84 * value) / top).toFixed(1), height: ((84 * value) / top).toFixed(1) })] : []));
  const used = share.flatMap((value, at) => (value ? [x[at]] : []));
  const power = (bin) => data.exponents[bin];
  const caption = `Binary exponents of its gradient, from ${power(used[0])[0]} to ${power(used.at(-1))[1]}, at most ${top.toFixed(1)} % in one bin`;
  return picture(caption, bars, caption);
}

async function layerDetail(name) {
  const all = await loadFigures();
  const pictures = [all.map && gradientOf(all.map, name), all.formats && exponentsOf(all.formats, name)].filter(Boolean);
  const box = document.createElement("div");
  box.className = "trial-pictures";
  if (pictures.length) box.append(...pictures);
  else box.textContent = "No finite gradient of this layer was recorded.";
  return box;
}
