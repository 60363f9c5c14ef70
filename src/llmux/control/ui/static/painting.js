// Paints the timeline: lanes of segments onto a canvas. Sizes grow with the page's type.

import { h } from "./dom.js";
import { clock, shortClock, usage } from "./format.js";
import { elide, elideAll, short } from "./names.js";
import { DRAWN, ticks } from "./segments.js";

const HEAD = 26;
const LANE = 24;
const BAR = 16;
const AXIS = 22;
const TYPE = 14; // the page's, where these sizes are as they are
const HATCHED = ["unconfirmed", "lost"];
const THIN = ["draining", "sleeping"]; // not by colour alone

const colours = {};
const labels = { key: "", left: 0, of: new Map() };

/** Reads the colours of the theme. */
export function readColours() {
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

/**
 * Paints `groups`, as `lanes` makes them, from and to these Unix times. `started` is when llmux did: nothing is known of
 * what was before. Gives where the lanes begin, and where each of them is: `{left, rows: [{top, bottom, lane}]}`.
 */
export function paint(canvas, width, groups, models, [from, to], started) {
  const unit = Number.parseFloat(getComputedStyle(document.documentElement).fontSize) / TYPE;
  const context = canvas.getContext("2d");
  const rows = groups.reduce((sum, group) => sum + Math.max(1, group.lanes.length), 0);
  const height = Math.round(unit * (groups.length * HEAD + rows * LANE + AXIS));
  fit(canvas, context, width, height);
  const left = labelled(context, models, width, unit);
  const pen = { context, unit, width, height, left, x: (at) => left + ((at - from) / (to - from)) * (width - left) };
  axis(pen, from, to);
  const placed = [];
  let y = 0;
  for (const group of groups) {
    header(pen, group.device, y);
    y += unit * HEAD;
    if (!group.lanes.length) {
      track(pen, y, started);
      write(pen, "muted", 12, to <= started ? "not started" : "nobody awake", y);
      y += unit * LANE;
    }
    for (const lane of group.lanes) {
      track(pen, y, lane.since);
      write(pen, "text", 12, labels.of.get(short(lane.model)) ?? lane.model, y);
      for (const segment of seen(pen, lane.segments)) bar(pen, segment, y + (unit * (LANE - BAR)) / 2);
      placed.push({ top: y, bottom: y + unit * LANE, lane });
      y += unit * LANE;
    }
  }
  return { left, rows: placed };
}

function fit(canvas, context, width, height) {
  const ratio = window.devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.style.height = `${height}px`;
  }
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  context.textBaseline = "middle";
}

const font = (pen, size, weight = 400) => `${weight} ${size * pen.unit}px ${colours.font}`;

/** Finds what to call the models; gives the width of the column of their names. As wide as they need, up to a third. */
function labelled(context, models, width, unit) {
  const names = models.map(short);
  const key = JSON.stringify([names, width, unit, colours.font]);
  if (labels.key === key) return labels.left;
  context.font = font({ unit }, 12);
  const measured = (text) => context.measureText(text).width;
  const room = width * (width < 640 ? 0.36 : 0.26);
  const gap = 12 * unit;
  labels.left = Math.ceil(Math.min(room, Math.max(90 * unit, ...names.map((name) => measured(name) + gap))));
  labels.of = elideAll(names, (text) => measured(text) <= labels.left - gap);
  labels.key = key;
  return labels.left;
}

function write(pen, colour, size, text, y) {
  pen.context.font = font(pen, size);
  pen.context.fillStyle = colours[colour];
  pen.context.fillText(elide(text, (one) => pen.context.measureText(one).width <= pen.left - 8 * pen.unit), 0, y + (pen.unit * LANE) / 2);
}

function axis(pen, from, to) {
  const { context, unit, width, height, left } = pen;
  const { step, found } = ticks(from, to, Math.max(3, Math.floor((width - left) / (90 * unit))));
  context.font = font(pen, 11);
  context.textAlign = "center";
  for (const at of found) {
    const here = Math.round(pen.x(at));
    context.fillStyle = colours.line;
    context.fillRect(here, unit * (HEAD - 4), 1, height - unit * (AXIS + HEAD - 8));
    const text = step < 60 ? clock(at) : shortClock(at);
    const half = context.measureText(text).width / 2;
    context.fillStyle = colours.muted;
    context.fillText(text, Math.min(Math.max(here, left + half), width - half), height - unit * (AXIS / 2 - 2));
  }
  context.textAlign = "left";
}

function header(pen, device, y) {
  const { context, unit, width } = pen;
  const middle = y + (unit * HEAD) / 2;
  const within = (room) => (text) => context.measureText(text).width <= room;
  context.font = font(pen, 12, 600);
  context.fillStyle = colours.text;
  const name = elide(device.name, within(width / 2));
  context.fillText(name, 0, middle);
  const after = context.measureText(name).width + 10 * unit;
  context.font = font(pen, 12);
  context.fillStyle = device.lost ? colours.lost : colours.muted;
  const held = device.lost_models.length ? `, it may be held by ${device.lost_models.join(", ")}` : "";
  context.fillText(elide(device.lost ? `LOST${held}` : usage(device, short), within(width - after)), after, middle);
}

/** An empty lane: asleep, but for what was before `since`, of which nothing is known. */
function track(pen, y, since) {
  const { context, unit, width, left } = pen;
  const top = y + (unit * (LANE - BAR)) / 2;
  const from = Math.min(width, Math.max(left, pen.x(since)));
  context.fillStyle = colours.track;
  context.fillRect(from, top, width - from, unit * BAR);
  if (from <= left) return;
  context.globalAlpha = 0.5; // there is a lot of it, and nothing to be seen in it
  hatch(pen, left, top, from - left, "muted", 1);
  context.globalAlpha = 1;
}

/** Of segments, those that can be seen, with their place: `{state, start, end}`. */
function* seen(pen, segments) {
  let done = -1;
  for (const { state, from, to } of segments) {
    const start = Math.max(pen.left, pen.x(from));
    const end = Math.min(pen.width, Math.max(pen.x(to), start + 1));
    if (end <= pen.left || end <= done || start >= pen.width) continue;
    done = end;
    yield { state, start, end };
  }
}

function bar(pen, { state, start, end }, top) {
  const { context, unit } = pen;
  const thin = THIN.includes(state) ? 3 * unit : 0;
  context.fillStyle = colours[state];
  context.fillRect(start, top + thin, end - start, unit * BAR - 2 * thin);
  if (HATCHED.includes(state)) hatch(pen, start, top, end - start, "surface", 2);
  if (state === "waking") {
    context.fillStyle = colours.surface;
    context.fillRect(start, top + unit * (BAR / 2 - 1), end - start, 2 * unit);
  }
}

function hatch({ context, unit }, x, y, width, colour, line) {
  const height = unit * BAR;
  const step = 8 * unit;
  context.save();
  context.beginPath();
  context.rect(x, y, width, height);
  context.clip();
  context.strokeStyle = colours[colour];
  context.lineWidth = line * unit;
  context.beginPath();
  for (let at = Math.floor(x / step) * step - height; at < x + width; at += step) {
    context.moveTo(at, y + height);
    context.lineTo(at + height, y);
  }
  context.stroke();
  context.restore();
}
