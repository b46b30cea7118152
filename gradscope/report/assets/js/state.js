// The state of the view lives in the address: #gradients?layer=…&step=…
const $ = (selector, within = document) => within.querySelector(selector);
const $$ = (selector, within = document) => [...within.querySelectorAll(selector)];
const KEYS = ["layer", "step", "block", "metric", "filter", "sort", "expand"];
const state = { place: "", layer: "", step: "", block: "", metric: "", filter: "", sort: "", expand: "" };
const listeners = [];

function say(text) { $("#said").textContent = text; }

function decode(text) {
  try { return decodeURIComponent(text); } catch (_) { return text; }
}

function readHash() {
  const [place, query = ""] = location.hash.slice(1).split("?");
  const known = new URLSearchParams(query);
  state.place = decode(place);
  for (const key of KEYS) state[key] = known.get(key) || "";
}

function hashOf(place) {
  const query = new URLSearchParams();
  for (const key of KEYS) if (state[key] !== "") query.set(key, state[key]);
  const tail = query.toString();
  return "#" + place + (tail ? "?" + tail : "");
}

// Change the state, write it into the address without a new entry in the history, tell the others.
function update(change) {
  Object.assign(state, change);
  history.replaceState(null, "", hashOf(state.place) === "#" ? "#verdict" : hashOf(state.place));
  for (const listener of listeners) listener(change);
}

function goTo(place, scroll = true) {
  const target = place && document.getElementById(place);
  if (!target) return;
  for (let node = target; node; node = node.parentElement) if (node.tagName === "DETAILS") node.open = true;
  if (scroll) target.scrollIntoView({ block: "start" });
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch (_) {
    // the clipboard is barred on file:// in some browsers: the old way still works there
    const field = document.createElement("textarea");
    field.value = text;
    field.style.position = "fixed";
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  }
  say("Copied");
}
