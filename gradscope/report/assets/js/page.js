// Theme, menu, keys, copying, printing.
const THEMES = ["auto", "light", "dark"];
const root = document.documentElement;

function themeNow() { return root.dataset.theme || "auto"; }

function setTheme(theme) {
  if (theme === "auto") delete root.dataset.theme;
  else root.dataset.theme = theme;
  try { localStorage.setItem("gradscope-theme", theme); } catch (_) { /* storage may be barred */ }
  showTheme();
  redraw();
}

function showTheme() {
  const theme = themeNow();
  const name = theme[0].toUpperCase() + theme.slice(1);
  $("#theme-name").textContent = name;
  $("#theme").setAttribute("aria-label", `Theme: ${name}${theme === "auto" ? ", as the system" : ""}`);
}

function nextTheme() {
  const next = THEMES[(THEMES.indexOf(themeNow()) + 1) % THEMES.length];
  setTheme(next);
  say(`Theme: ${next}`);
}

function folds() { return $$("main details"); }

function expandAll() {
  const open = folds().some((fold) => !fold.open);
  for (const fold of folds()) fold.open = open;
  update({ expand: open ? "all" : "" });
  say(open ? "Everything is open" : "Everything is closed");
}

function moveFinding(by) {
  const all = $$(".card");
  if (!all.length) return;
  const here = all.indexOf(document.activeElement.closest(".card"));
  const next = all[here < 0 ? (by > 0 ? 0 : all.length - 1) : Math.min(Math.max(here + by, 0), all.length - 1)];
  next.open = true;
  $("summary", next).focus({ preventScroll: true });
  next.scrollIntoView({ block: "start" });
  update({ place: next.id });
}

function currentCard() {
  const all = $$(".card");
  return document.activeElement.closest(".card") || all.find((card) => card.open) || all[0];
}

function copyFix() {
  const card = currentCard();
  const button = card && $("button[data-copy]", $(".fix", card) || card);
  if (!button) { say("This finding has no change to copy"); return; }
  card.open = true;
  button.click();
}

function copyLink() {
  copy(location.href);
}

// Sections are numbered in the order of the bar.
function toSection(number) {
  const link = $$(".bar-nav a")[number - 1];
  if (link) link.click();
}

function findLayer() {
  const field = $("#filter-text");
  if (!field) return;
  goTo("layers");
  field.focus({ preventScroll: true });
}

function saveJson() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(JSON.parse($("#gradscope-data").textContent), null, 2)], { type: "application/json" }));
  link.download = "gradscope.json";
  link.click();
  URL.revokeObjectURL(link.href);
}

let before = null;

// Paper is light and narrow: everything is opened and the figures are drawn anew for it. Drawing needs
// no wait once the library is there, so that it is done before the browser's own print takes its picture.
function preparePrint() {
  if (before) return Promise.resolve();
  before = { closed: folds().filter((fold) => !fold.open), theme: root.dataset.theme };
  for (const fold of before.closed) fold.open = true;
  root.dataset.theme = "light";
  root.classList.add("printing");
  return drawAll();
}

function afterPrint() {
  if (!before) return;
  for (const fold of before.closed) fold.open = false;
  if (before.theme) root.dataset.theme = before.theme;
  else delete root.dataset.theme;
  root.classList.remove("printing");
  before = null;
  redraw();
}

async function printPage() {
  await preparePrint();
  window.print();
  afterPrint();
}

const ACTS = {
  link: copyLink,
  expand: expandAll,
  json: saveJson,
  print: printPage,
};

function onKey(event) {
  if ((event.ctrlKey || event.metaKey) && event.key === "p") {
    // figures that are still waiting are drawn first
    event.preventDefault();
    printPage();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.closest("input, select, textarea");
  if (event.key === "Escape") {
    $("#menu").open = false;
    if (typing) typing.blur();
    else if (!$("#keys-dialog").open) update({ layer: "", step: "", block: "" });
    return;
  }
  if (typing || $("#keys-dialog").open) return;
  const act = {
    j: () => moveFinding(1),
    k: () => moveFinding(-1),
    "/": findLayer,
    t: nextTheme,
    e: expandAll,
    f: copyFix,
    l: copyLink,
    "?": () => $("#keys-dialog").showModal(),
  }[event.key] || (/^[1-9]$/.test(event.key) ? () => toSection(Number(event.key)) : null);
  if (!act) return;
  event.preventDefault();
  act();
}

function onClick(event) {
  const button = event.target.closest("button");
  const menu = $("#menu");
  if (menu.open && !event.target.closest("#menu")) menu.open = false;
  const link = event.target.closest("a[href^='#']");
  if (link) {
    event.preventDefault();
    menu.open = false;
    const place = decode(link.getAttribute("href").slice(1));
    update({ place });
    goTo(place);
    return;
  }
  if (!button) return;
  if (button.dataset.copy !== undefined || button.dataset.link !== undefined) {
    const text = button.dataset.copy ?? location.href.split("#")[0] + hashOf(button.dataset.link);
    copy(text);
    const label = button.firstChild;
    const was = label.textContent;
    label.textContent = "Copied";
    setTimeout(() => { label.textContent = was; }, 1500);
  } else if (button.dataset.act) {
    menu.open = false;
    ACTS[button.dataset.act]();
  }
}

function restore() {
  readHash();
  if (state.expand === "all") for (const fold of folds()) fold.open = true;
  for (const listener of listeners) listener(state);
  goTo(state.place);
}

setUpTable();
setUpFigures();
showTheme();
$("#theme").addEventListener("click", nextTheme);
$("#keys").addEventListener("click", () => $("#keys-dialog").showModal());
$("#find-layer")?.addEventListener("click", findLayer);
document.addEventListener("keydown", onKey);
document.addEventListener("click", onClick);
addEventListener("hashchange", restore);
addEventListener("beforeprint", preparePrint);
addEventListener("afterprint", afterPrint);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
restore();
