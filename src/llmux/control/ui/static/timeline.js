// The timeline: for every device, who was in what state when. Drawn on a canvas: a day may have thousands of changes.

import { $, h, setAttribute } from "./dom.js";
import { clock, duration, shortClock, usage } from "./format.js";
import { lookBack } from "./live.js";
import { DRAWN, lanes, ticks } from "./segments.js";
import { modelNames, on, serverNow, store } from "./store.js";
import { onTheme } from "./theme.js";

const RANGES = [[300, "5 min"], [1800, "30 min"], [7200, "2 h"], [43200, "12 h"]];
const SHORTEST = 30;
const LONGEST = 7 * 86400;
const HEAD = 26;
const LANE = 24;
const BAR = 16;
const AXIS = 22;
const HATCHED = ["unconfirmed", "lost"];
const DARKER = ["draining", "sleeping"];

/** What is looked at: `span` seconds until `end`, which is null for "now". */
const view = { span: 300, end: null };

const canvas = h("canvas", { tabindex: "0", role: "img", "aria-describedby": "timeline-keys" });
const tip = h("div", { class: "tip", hidden: true });
const keys = h("p", { class: "aside", id: "timeline-keys", text: "Drag to look back; with the focus here, + and \u2212 zoom, \u2190 and \u2192 move, End goes back to now." });

const colours = {};
let drawn = []; // what is on the canvas: {top, bottom, lane}
let left = 0;

function readColours() {
  // As a style computes them: the value of a custom property itself still has both themes in it.
  const probe = h("span");
  document.body.append(probe);
  for (const name of ["text", "muted", "line", "surface", "track", ...DRAWN]) {
    probe.style.color = `var(--${name})`;
    colours[name] = getComputedStyle(probe).color;
  }
  colours.font = getComputedStyle(probe).fontFamily;
  probe.remove();
}

/** The latest moment that is known of: what was not heard is not drawn. */
const known = () => (store.connection === "live" ? serverNow() : store.lastHeard + store.behind);

function window_() {
  const end = view.end ?? known();
  return [end - view.span, end];
}

function cut(context, text, width) {
  if (context.measureText(text).width <= width) return text;
  let end = text.length;
  while (end > 1 && context.measureText(`${text.slice(0, end)}\u2026`).width > width) end -= 1;
  return `${text.slice(0, end)}\u2026`;
}

const holding = () => new Map(store.status.models.map((model) => [model.name, model.devices]));

function draw() {
  if (!store.status) return;
  const width = canvas.parentElement.clientWidth;
  if (!width) return;
  const [from, to] = window_();
  const groups = lanes(store.status.devices, modelNames(), store.states, holding(), from, Math.min(to, known()));
  const height = groups.reduce((sum, group) => sum + HEAD + LANE * Math.max(1, group.lanes.length), AXIS);
  const ratio = window.devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.style.height = `${height}px`;
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  context.textBaseline = "middle";
  left = Math.min(200, Math.max(84, width * 0.16));
  const x = (at) => left + ((at - from) / (to - from)) * (width - left);
  axis(context, from, to, x, width, height);
  drawn = [];
  let y = 0;
  for (const group of groups) {
    header(context, group.device, y, width);
    y += HEAD;
    if (!group.lanes.length) {
      context.fillStyle = colours.muted;
      context.font = `12px ${colours.font}`;
      context.fillText("nobody was awake here", left, y + LANE / 2);
      y += LANE;
    }
    for (const lane of group.lanes) {
      laneOf(context, lane, y, x, width);
      drawn.push({ top: y, bottom: y + LANE, lane });
      y += LANE;
    }
  }
  setAttribute(canvas, "aria-label", summary(groups));
  for (const button of $("timeline-tools").querySelectorAll("button[data-span]")) {
    setAttribute(button, "aria-pressed", String(Number(button.dataset.span) === view.span));
  }
  setAttribute($("timeline-live"), "aria-pressed", String(view.end === null));
}

function axis(context, from, to, x, width, height) {
  const { step, found } = ticks(from, to, Math.max(3, Math.floor((width - left) / 90)));
  context.font = `11px ${colours.font}`;
  context.textAlign = "center";
  for (const at of found) {
    const here = Math.round(x(at)) + 0.5;
    context.fillStyle = colours.line;
    context.fillRect(here - 0.5, HEAD - 4, 1, height - AXIS - HEAD + 8);
    const text = step < 60 ? clock(at) : shortClock(at);
    const half = context.measureText(text).width / 2;
    context.fillStyle = colours.muted;
    context.fillText(text, Math.min(Math.max(here, left + half), width - half), height - AXIS / 2 + 2);
  }
  context.textAlign = "left";
}

function header(context, device, y, width) {
  context.font = `600 12px ${colours.font}`;
  context.fillStyle = colours.text;
  const name = cut(context, device.name, width / 2);
  context.fillText(name, 0, y + HEAD / 2);
  const after = context.measureText(name).width + 10;
  context.font = `12px ${colours.font}`;
  context.fillStyle = device.lost ? colours.lost : colours.muted;
  const held = device.lost_models.length ? `, it may be held by ${device.lost_models.join(", ")}` : "";
  context.fillText(cut(context, device.lost ? `LOST${held}` : usage(device), width - after), after, y + HEAD / 2);
}

function laneOf(context, { model, segments }, y, x, width) {
  const top = y + (LANE - BAR) / 2;
  context.font = `12px ${colours.font}`;
  context.fillStyle = colours.text;
  context.fillText(cut(context, model, left - 10), 0, y + LANE / 2);
  context.fillStyle = colours.track;
  context.fillRect(left, top, width - left, BAR);
  let done = -1;
  for (const segment of segments) {
    const start = Math.max(left, x(segment.from));
    const end = Math.min(width, Math.max(x(segment.to), start + 1));
    if (end <= left || end <= done || start >= width) continue; // nothing of it would be seen
    done = end;
    context.fillStyle = colours[segment.state];
    const thin = DARKER.includes(segment.state) ? 3 : 0; // not by colour alone
    context.fillRect(start, top + thin, end - start, BAR - 2 * thin);
    if (HATCHED.includes(segment.state)) hatch(context, start, top, end - start);
    if (segment.state === "waking") stripe(context, start, top, end - start);
  }
}

function hatch(context, x, y, width) {
  context.save();
  context.beginPath();
  context.rect(x, y, width, BAR);
  context.clip();
  context.strokeStyle = colours.surface;
  context.lineWidth = 2;
  context.beginPath();
  for (let at = Math.floor(x / 8) * 8 - BAR; at < x + width; at += 8) {
    context.moveTo(at, y + BAR);
    context.lineTo(at + BAR, y);
  }
  context.stroke();
  context.restore();
}

function stripe(context, x, y, width) {
  context.fillStyle = colours.surface;
  context.fillRect(x, y + BAR / 2 - 1, width, 2);
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

function look(span, end) {
  view.span = Math.min(LONGEST, Math.max(SHORTEST, span));
  view.end = end !== null && end >= known() ? null : end;
  const [from] = window_();
  lookBack(from).catch(() => {}); // the line above says that the connection is lost
  draw();
}

export function zoom(factor) {
  const span = Math.min(LONGEST, Math.max(SHORTEST, view.span * factor));
  look(span, view.end === null ? null : view.end - (view.span - span) / 2);
}

export function move(share) {
  look(view.span, (view.end ?? known()) + view.span * share);
}

export function toNow() {
  look(view.span, null);
}

function pointed(event) {
  const box = canvas.getBoundingClientRect();
  const [from, to] = window_();
  const at = from + ((event.clientX - box.left - left) / (box.width - left)) * (to - from);
  const row = drawn.find((one) => event.clientY - box.top >= one.top && event.clientY - box.top < one.bottom);
  const near = ((to - from) / (box.width - left)) * 3;
  const segment = row?.lane.segments.findLast((one) => one.from - near <= at && at <= one.to + near);
  return segment ? { model: row.lane.model, segment } : null;
}

function point(event) {
  const found = pointed(event);
  tip.hidden = !found;
  if (!found) return;
  const { model, segment } = found;
  const until = segment.open ? "now" : clock(segment.to);
  tip.textContent = `${model}: ${segment.state}, ${clock(segment.from)} to ${until} (${duration(segment.to - segment.from)}). ${segment.cause}`;
  const box = canvas.parentElement.getBoundingClientRect();
  tip.style.left = `${Math.max(0, Math.min(event.clientX - box.left + 12, box.width - tip.offsetWidth))}px`;
  tip.style.top = `${event.clientY - box.top + 16}px`;
}

function drags() {
  let start = null;
  canvas.addEventListener("pointerdown", (event) => {
    start = { x: event.clientX, end: window_()[1] };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (start === null) return point(event);
    tip.hidden = true;
    const secs = ((start.x - event.clientX) / (canvas.clientWidth - left)) * view.span;
    if (Math.abs(start.x - event.clientX) > 3) look(view.span, start.end + secs);
    return undefined;
  });
  for (const over of ["pointerup", "pointercancel"]) canvas.addEventListener(over, () => (start = null));
  canvas.addEventListener("pointerleave", () => (tip.hidden = true));
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
  $("legend").append(...DRAWN.map((state) => h("li", {}, h("span", { class: "swatch", data: { state } }), state)));
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !KEYS[event.key]) return;
    event.preventDefault();
    KEYS[event.key]();
  });
  drags();
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
