// A map of very many layers shows blocks of neighbours, each the median (or the largest) of its
// layers; a click on a block opens it. One is open at a time, besides the one of the chosen layer.
const STATES = ["not recorded", "frozen", "no gradient", "exactly zero", "finite", "NaN or Inf"];
const FINITE = 4;

function rowsOf(data) {
  const chosen = data.layers.indexOf(state.layer);
  return data.blocks.flatMap(([name, first, end]) => {
    const open = name === state.block || end === first + 1 || (state.layer !== "" && chosen >= first && chosen < end);
    if (!open) return [{ name, first, end, block: true }];
    return Array.from({ length: end - first }, (_, at) => ({ name: data.layers[first + at], first: first + at, end: first + at + 1, block: false }));
  });
}

function middleOf(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

// Rows of a table merged by `merge`, which gets what is known in one column.
function merged(table, rows, merge) {
  return rows.map(({ first, end }) => table[first].map((_, column) => {
    const known = [];
    for (let row = first; row < end; row += 1) if (table[row][column] !== null) known.push(table[row][column]);
    return known.length ? merge(known) : null;
  }));
}

function begins(cells, code) {
  return cells.flatMap((row, at) => row.flatMap((cell, column) => (cell === code && row[column - 1] !== code ? [[at, column]] : [])));
}

const most = (values) => values.reduce((a, b) => Math.max(a, b));

// The map as it is to be drawn: as it came, or with its blocks.
function foldedMap({ plot, data }) {
  if (!data.blocks) return { plot, data };
  const rows = rowsOf(data);
  const raw = plot.data.find((trace) => trace.name === "gradient").z;
  const cells = merged(data.cells, rows, most);
  const clear = (table) => table.map((row, r) => row.map((value, c) => (cells[r][c] === FINITE ? value : null)));
  const z = clear(merged(raw, rows, middleOf));
  const largest = data.excess && clear(merged(raw.map((row, r) => row.map((value, c) => (value === null ? null : value + data.excess[r][c]))), rows, most));
  const signs = new Map(plot.data.filter((trace) => trace.type === "scatter").flatMap((trace) => trace.text.map((text, at) => [data.cells[trace.y[at]][trace.x[at]], text])));
  const traces = plot.data.map((trace) => {
    if (trace.name === "gradient") return { ...trace, z };
    if (trace.type === "heatmap") {
      const code = STATES.indexOf(trace.name);
      return { ...trace, z: cells.map((row) => row.map((cell) => (cell === code ? 1 : null))) };
    }
    const at = [...signs].flatMap(([code, text]) => begins(cells, code).map(([r, c]) => [r, c, text]));
    return { ...trace, y: at.map(([r]) => r), x: at.map(([, c]) => c), text: at.map(([, , text]) => text) };
  });
  const height = Math.min(Math.max(20 * rows.length, 120), 720);
  const every = Math.ceil((rows.length * 13) / height);
  const tickvals = rows.map((_, at) => at).filter((at) => at % every === 0);
  const marked = new Set(data.marked);
  const names = rows.map((row) => (row.block ? `block ${row.name}` : row.name));
  return {
    plot: { data: traces, layout: { ...plot.layout, height: height + 56, yaxis: { ...plot.layout.yaxis, range: [rows.length - 0.5, -0.5], tickvals } } },
    data: {
      ...data, cells,
      layers: names,
      labels: rows.map((row) => (row.block ? `${row.name} (${row.end - row.first})` : data.labels[row.first])),
      marked: rows.flatMap((row, at) => (data.layers.slice(row.first, row.end).some((name) => marked.has(name)) ? [names[at]] : [])),
      excess: largest && largest.map((row, r) => row.map((value, c) => (value === null ? null : value - z[r][c]))),
      shown: rows,
    },
  };
}
