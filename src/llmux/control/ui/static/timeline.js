// The timeline: for every device, who was in what state when. Drawn on a canvas: a day may have thousands of changes.

import { $, h, setAttribute } from "./dom.js";
import { clock, duration, shortClock } from "./format.js";
import { startGestures } from "./gestures.js";
import { lookBack } from "./live.js";
import { paint, readColours } from "./painting.js";
import { DRAWN, lanes } from "./segments.js";
import { modelNames, on, serverNow, store } from "./store.js";
import { onTheme } from "./theme.js";

const RANGES = [[300, "5 min"], [1800, "30 min"], [7200, "2 h"], [43200, "12 h"]];
const SHORTEST = 30;
const LONGEST = 7 * 86400;
const LOOK_BACK_AFTER_MS = 150; // a wheel turns many times, and asks once
const HINT = "Drag to look back; Ctrl and the wheel, or two fingers, zoom; with the focus here, + and \u2212 zoom, \u2190 and \u2192 move, End goes back to now.";

/** What is looked at: `span` seconds until `end`, which is null for "now". */
const view = { span: 300, end: null };

const canvas = h("canvas", { tabindex: "0", role: "img", "aria-describedby": "timeline-keys" });
const tip = h("div", { class: "tip", hidden: true });
const keys = h("p", { class: "aside", id: "timeline-keys", text: HINT });

let painted = { left: 0, rows: [] }; // what is on the canvas

/** The latest moment that is known of: what was not heard is not drawn. */
const known = () => (store.connection === "live" ? serverNow() : store.lastHeard + store.behind);

function window_() {
  const end = view.end ?? known();
  return [end - view.span, end];
}

const holding = () => new Map(store.status.models.map((model) => [model.name, model.devices]));

function draw() {
  if (!store.status) return;
  const width = canvas.parentElement.clientWidth;
  if (!width) return;
  const [from, to] = window_();
  const groups = lanes(store.status.devices, modelNames(), store.states, holding(), from, Math.min(to, known()));
  painted = paint(canvas, width, groups, modelNames(), [from, to], store.status.started);
  setAttribute(canvas, "aria-label", summary(groups));
  for (const button of $("timeline-tools").querySelectorAll("button[data-span]")) {
    setAttribute(button, "aria-pressed", String(Number(button.dataset.span) === view.span));
  }
  setAttribute($("timeline-live"), "aria-pressed", String(view.end === null));
}

/** What a screen reader says of the picture. */
function summary(groups) {
  const known = groups.map(({ device, lanes: rows }) => {
    const now = rows.map(({ model, segments }) => [model, segments.at(-1)]).filter(([, last]) => last?.open);
    const told = now.map(([model, last]) => `${model} ${last.state} since ${shortClock(last.from)}`);
    return `${device.name}: ${told.join(", ") || "nobody awake"}`;
  });
  return `Timeline. ${known.join(". ")}`;
}

// --- looking around ----------------------------------------------------------------------------------------------

const bounded = (span) => Math.min(LONGEST, Math.max(SHORTEST, span));
let asking = 0;

function look(span, end) {
  view.span = bounded(span);
  view.end = end !== null && end >= known() ? null : end;
  clearTimeout(asking);
  asking = setTimeout(() => lookBack(window_()[0]).catch(() => {}), LOOK_BACK_AFTER_MS); // the line above says that the connection is lost
  draw();
}

/** Shows `span` seconds, with the moment `at` at that share of the width. */
function place(at, share, span) {
  look(span, at + (1 - share) * bounded(span));
}

export function zoom(factor) {
  const [from, to] = window_();
  if (view.end === null) look(view.span * factor, null);
  else place((from + to) / 2, 0.5, view.span * factor);
}

export function move(share) {
  look(view.span, (view.end ?? known()) + view.span * share);
}

export function toNow() {
  look(view.span, null);
}

function share(clientX) {
  const box = canvas.getBoundingClientRect();
  return (clientX - box.left - painted.left) / (box.width - painted.left);
}

/** What is told of the place that is pointed at; empty where there is nothing. */
function told(event) {
  const y = event.clientY - canvas.getBoundingClientRect().top;
  const lane = painted.rows.find((one) => y >= one.top && y < one.bottom)?.lane;
  if (!lane) return "";
  const [from, to] = window_();
  const at = from + share(event.clientX) * (to - from);
  if (at < from) return lane.model; // its name, whole
  const near = ((to - from) / (canvas.clientWidth - painted.left)) * 3;
  const found = lane.segments.findLast((one) => one.from - near <= at && at <= one.to + near);
  if (found) {
    const until = found.open ? "now" : clock(found.to);
    return `${lane.model}: ${found.state}, ${clock(found.from)} to ${until} (${duration(found.to - found.from)}). ${found.cause}`;
  }
  if (at >= lane.since) return `${lane.model}: asleep`;
  return `${lane.model}: unknown; ${at < store.status.started ? "llmux had not started" : "llmux remembers no more of it"}`;
}

function point(event) {
  const text = store.status ? told(event) : "";
  tip.hidden = !text;
  if (!text) return;
  tip.textContent = text;
  const box = canvas.parentElement.getBoundingClientRect();
  tip.style.left = `${Math.max(0, Math.min(event.clientX - box.left + 12, box.width - tip.offsetWidth))}px`;
  tip.style.top = `${event.clientY - box.top + 16}px`;
}

const KEYS = {
  "+": () => zoom(0.5), "=": () => zoom(0.5), "-": () => zoom(2),
  ArrowLeft: () => move(-0.25), ArrowRight: () => move(0.25), End: toNow,
};

export function startTimeline() {
  $("timeline").append(canvas, tip, keys);
  const tools = $("timeline-tools");
  for (const [span, name] of RANGES) {
    tools.append(h("button", { type: "button", text: name, data: { span }, on: { click: () => look(span, view.end) } }));
  }
  tools.append(
    h("button", { type: "button", text: "\u2212", "aria-label": "Zoom out", on: { click: () => zoom(2) } }),
    h("button", { type: "button", text: "+", "aria-label": "Zoom in", on: { click: () => zoom(0.5) } }),
    h("button", { type: "button", text: "Now", id: "timeline-live", on: { click: toNow } }),
  );
  $("legend").append(...[...DRAWN, "asleep", "unknown"].map((state) => h("li", {}, h("span", { class: "swatch", data: { state } }), state)));
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !KEYS[event.key]) return;
    event.preventDefault();
    KEYS[event.key]();
  });
  startGestures(canvas, { share, place, point, seen: window_, live: () => view.end === null, leave: () => (tip.hidden = true) });
  readColours();
  onTheme(() => {
    readColours();
    draw();
  });
  new ResizeObserver(draw).observe($("timeline"));
  on(["status", "states", "connection"], draw);
  setInterval(() => {
    if (!document.hidden && view.end === null) draw();
  }, 500);
}
