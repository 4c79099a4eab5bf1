// What the pages need beside htmx: times in the viewer's zone, the stream of events, copying, and rows that stay open.
"use strict";

const clock = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

function localTimes(root) {
  for (const time of root.querySelectorAll("time[datetime]:not([title])")) {
    const at = new Date(time.dateTime);
    time.title = at.toISOString().replace("T", " ").replace(/\.\d+Z$/, " UTC");
    time.textContent = clock.format(at);
  }
  countDown();
}

// A time that is near is said by how far it is: "in 4 min".
function countDown() {
  for (const time of document.querySelectorAll("time[data-soon]")) {
    const seconds = Math.round((new Date(time.dateTime) - Date.now()) / 1000);
    const [count, unit] = seconds < 120 ? [seconds, "s"] : seconds < 7200 ? [seconds / 60, "min"] : [seconds / 3600, "h"];
    const said = seconds <= 0 ? "now" : `in ${Math.round(count)} ${unit}`;
    if (time.textContent !== said) time.textContent = said;
  }
}
setInterval(countDown, 1000);

// What happens is gathered, so that a page keeps up however much of it there is.
const GATHER = 400;
const gathered = new Set();
function tell(name) {
  if (gathered.has(name)) return;
  gathered.add(name);
  setTimeout(() => {
    gathered.delete(name);
    if (pressed) tell(name);
    else document.body.dispatchEvent(new CustomEvent(name));
  }, GATHER);
}

// Nothing is replaced under a pressed pointer: its click would be lost.
let pressed = false;
document.addEventListener("pointerdown", (event) => { pressed = event.button === 0; }, true);
for (const end of ["pointerup", "pointercancel", "contextmenu"]) {
  document.addEventListener(end, () => { pressed = false; }, true);
}
document.addEventListener("htmx:beforeSwap", (event) => {
  if (!pressed || !event.detail.target.matches("[hx-trigger*=live]")) return;
  event.detail.shouldSwap = false;
  tell("live-attempt");
  tell("live-webhook");
});

function follow() {
  const source = document.body.dataset.events;
  if (!source) return;
  const events = new EventSource(source);
  events.addEventListener("attempt", () => tell("live-attempt"));
  events.addEventListener("webhook", () => tell("live-webhook"));
  events.addEventListener("missed", () => { tell("live-attempt"); tell("live-webhook"); });
  let lost = false;
  events.onerror = () => {
    lost = true;
    // It was refused: a look at the page leads to where one signs in, if the token has ended.
    if (events.readyState === EventSource.CLOSED) tell("live-webhook");
  };
  // What happened while nobody listened is looked up.
  events.onopen = () => {
    document.body.dataset.live = "on";
    if (lost) { lost = false; tell("live-attempt"); tell("live-webhook"); }
  };
}

// A list that is replaced keeps the rows open that were, and the place of the keyboard.
let open = [];
let focused = null;
document.addEventListener("htmx:beforeSwap", (event) => {
  open = [...event.detail.target.querySelectorAll("details[open][id]")].map((row) => row.id);
  const active = document.activeElement;
  focused = event.detail.target.contains(active) ? (active.id || active.closest("details[id]")?.id) : null;
});
document.addEventListener("htmx:afterSettle", (event) => {
  for (const id of open) document.getElementById(id)?.setAttribute("open", "");
  open = [];
  if (focused) {
    const there = document.getElementById(focused);
    (there?.matches("details") ? there.querySelector("summary") : there)?.focus();
    focused = null;
  }
  event.detail.target?.querySelector?.("[data-focus]")?.focus();
});

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  await navigator.clipboard.writeText(document.querySelector(button.dataset.copy).textContent);
  const said = button.textContent;
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = said; }, 2000);
});

document.addEventListener("htmx:load", (event) => localTimes(event.detail.elt.parentElement || document));
document.addEventListener("DOMContentLoaded", () => { localTimes(document); follow(); });
