// The layer table: sorted by its headings, filtered by the field above it.
function setUpTable() {
  const table = $("#layer-table");
  if (!table) return;
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  const field = $("#filter-text");
  const texts = rows.map((row) => row.textContent.toLowerCase());

  function sorted(column, descending) {
    const cells = rows.map((row, at) => {
      const cell = row.cells[column];
      const raw = cell.dataset.sort;
      return { row, at, number: raw === undefined ? null : raw === "" ? NaN : Number(raw), text: cell.textContent };
    });
    const sign = descending ? -1 : 1;
    cells.sort((a, b) => {
      if (a.number === null) return sign * a.text.localeCompare(b.text, undefined, { numeric: true }) || a.at - b.at;
      // what was not recorded stays at the end, whichever way one sorts
      if (Number.isNaN(a.number) || Number.isNaN(b.number)) return Number.isNaN(a.number) - Number.isNaN(b.number) || a.at - b.at;
      return sign * (a.number - b.number) || a.at - b.at;
    });
    return cells.map((cell) => cell.row);
  }

  // The chosen layer's row is followed by its pictures.
  const detail = document.createElement("tr");
  detail.className = "detail";
  const wide = detail.insertCell();
  wide.colSpan = heads.length;
  let pictured = "";

  const openers = rows.map((row) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "opener";
    button.setAttribute("aria-label", `Pictures of ${$(".mono", row).textContent}`);
    button.addEventListener("click", () => update({ layer: state.layer === row.dataset.layer ? "" : row.dataset.layer }));
    row.cells[0].append(button);
    return button;
  });

  function showDetail() {
    const at = rows.findIndex((row) => state.layer !== "" && row.dataset.layer === state.layer);
    openers.forEach((button, row) => button.setAttribute("aria-expanded", String(row === at)));
    if (at < 0 || rows[at].hidden) {
      detail.remove();
      return;
    }
    rows[at].after(detail);
    if (pictured === state.layer) return;
    pictured = state.layer;
    wide.textContent = "";
    layerDetail(pictured).then((box) => { if (pictured === state.layer) wide.replaceChildren(box); }).catch(failed);
  }

  function show() {
    const [key, way] = state.sort.split(".");
    const column = Math.max(0, heads.findIndex((head) => head.dataset.key === key));
    const descending = way === "desc";
    body.append(...sorted(column, descending));
    heads.forEach((head, at) => {
      const on = state.sort && at === column;
      if (on) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    const wanted = state.filter.toLowerCase().trim();
    let shown = 0;
    rows.forEach((row, at) => {
      row.hidden = wanted !== "" && !texts[at].includes(wanted);
      shown += row.hidden ? 0 : 1;
      row.classList.toggle("picked", state.layer !== "" && row.dataset.layer === state.layer);
    });
    if (field.value !== state.filter) field.value = state.filter;
    showDetail();
    $("#filter-count").textContent = `${shown} of ${rows.length}`;
  }

  heads.forEach((head) => $("button", head).addEventListener("click", () => {
    const key = head.dataset.key;
    const [now, way] = state.sort.split(".");
    update({ sort: now === key && way === "asc" ? `${key}.desc` : `${key}.asc` });
  }));
  // What is shown, as it is sorted; numbers without what makes them easy to read.
  function csv() {
    const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
    const cell = (node) => quoted(node.dataset.sort ?? $(".mono", node)?.textContent ?? node.textContent.trim().replace(/\s+/g, " "));
    const first = heads.map((head) => quoted($(".sort", head).textContent));
    const lines = [...body.rows].filter((row) => !row.hidden && row !== detail).map((row) => [...row.cells].map(cell));
    return [first, ...lines].map((line) => line.join(",")).join("\r\n") + "\r\n";
  }

  $("#copy-csv").addEventListener("click", () => copy(csv()));
  field.addEventListener("input", () => update({ filter: field.value }));
  $("#filter").addEventListener("submit", (event) => event.preventDefault());
  listeners.push(show);
  show();
}
