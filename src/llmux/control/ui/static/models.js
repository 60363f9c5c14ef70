// Every model: its state, its queue, and what can be ordered of it.

import { $, h, keyed, pill, setText } from "./dom.js";
import { age, duration, many, rate } from "./format.js";
import { short } from "./names.js";
import { give, isUnderWay, ordersFor } from "./orders.js";
import { on, sinceStatus, store } from "./store.js";

const FEW = 8; // so many are found without a filter

/** A row of order buttons for a model, or for the server if it is null. */
export function orderButtons(parent) {
  let model = null;
  const show = keyed(parent, (order) => {
    const node = h("button", {
      type: "button", text: order.label, title: order.summary, data: { order: order.id },
      on: { click: () => !isUnderWay(order, model) && give(order, model) },
    });
    return {
      node,
      update() {
        const busy = isUnderWay(order, model);
        // Not `disabled`: that would take the focus away.
        node.setAttribute("aria-disabled", String(busy));
        setText(node, busy ? `${order.label} \u2026` : order.label);
        if (model) node.setAttribute("aria-label", `${order.label}: ${model.name}`);
      },
    };
  });
  return (now) => {
    model = now;
    show(ordersFor(model), (order) => order.id);
  };
}

function cell(label, kind = "") {
  return h("td", { class: kind, data: { label } });
}

/** The whole name; its organisation apart, as there is no room for that on a phone. */
function showName(node, name) {
  const brief = short(name);
  if (node.title === name && node.lastChild.textContent === brief) return;
  node.title = name;
  node.replaceChildren(h("span", { class: "org", text: name.slice(0, name.length - brief.length) }), brief);
}

/** What of a model fits into a line: nothing, if it sleeps and nobody waits for it. */
function gist(model) {
  const waiting = model.waiting && `${model.waiting} waiting, the oldest for ${age(model.oldest_waiter_secs + sinceStatus())}`;
  return [waiting, model.in_flight && `${model.in_flight} in flight`, model.devices.join(", ")].filter(Boolean).join(" \u00b7 ");
}

/** On a phone, a row is a line or two until it is opened. */
function opener(node) {
  const button = h("button", { type: "button", text: "\u22ef", "aria-expanded": "false" });
  button.addEventListener("click", () => {
    const open = node().classList.toggle("open");
    button.setAttribute("aria-expanded", String(open));
  });
  return button;
}

function row() {
  const name = h("th", { scope: "row" });
  const called = h("span", { class: "name" });
  const aliases = h("span", { class: "aside" });
  name.append(called, aliases);
  const state = cell("State");
  const shown = pill();
  const standing = h("span", { class: "standing" });
  const trouble = h("span", { class: "trouble" });
  const line = h("span", { class: "gist" });
  state.append(shown.node, standing, line, trouble);
  const waiting = cell("Waiting", "number");
  const oldest = cell("Oldest wait", "number");
  const inFlight = cell("In flight", "number");
  const arrivals = cell("Arrivals", "number");
  const wake = cell("Wake", "number");
  const sleep = cell("Sleep", "number");
  const devices = cell("Devices");
  const orders = h("td", { class: "orders" });
  const buttons = orderButtons(orders);
  const more = opener(() => node);
  const node = h("tr", {}, name, state, h("td", { class: "more" }, more), waiting, oldest, inFlight, arrivals, wake, sleep, devices, orders);
  return {
    node,
    update(model) {
      showName(called, model.name);
      more.setAttribute("aria-label", `More about ${model.name}`);
      setText(aliases, model.aliases.length ? `also ${model.aliases.join(", ")}` : "");
      shown.update(model.state);
      setText(standing, [model.pinned && "pinned", model.drained && "drained"].filter(Boolean).join(", "));
      setText(line, gist(model));
      const problem = troubleOf(model);
      setText(trouble, problem || waitsFor(model));
      trouble.classList.toggle("mild", !problem);
      setText(waiting, String(model.waiting));
      waiting.classList.toggle("some", model.waiting > 0);
      setText(oldest, model.oldest_waiter_secs === null ? age(null) : age(model.oldest_waiter_secs + sinceStatus()));
      setText(inFlight, String(model.in_flight));
      inFlight.classList.toggle("some", model.in_flight > 0);
      setText(arrivals, rate(model.arrivals_per_sec));
      setText(wake, duration(model.wake_secs));
      setText(sleep, duration(model.sleep_secs));
      setText(devices, model.devices.join(", ") || "\u2013");
      buttons(model);
    },
  };
}

function troubleOf(model) {
  if (model.lost) return lost(model.lost);
  if (model.kept) return `serves on, as it could not be put to sleep: ${model.kept.error}`;
  return model.pinned_against.length ? `no room for it while ${model.pinned_against.join(", ")} ${model.pinned_against.length > 1 ? "are" : "is"} pinned` : "";
}

/**
 * Why nobody wakes a model that is asked for, where what is told leaves no doubt. That is on the one device that has room
 * for one model; elsewhere it is not told who is in whose way.
 */
function waitsFor(model) {
  const { devices, models, released, switches } = store.status;
  const one = devices.length === 1 && devices[0].capacity === 1;
  if (!one || released || model.drained || model.state !== "asleep") return "";
  if (model.oldest_waiter_secs === null || model.oldest_waiter_secs + sinceStatus() <= 1) return "";
  const first = switches.find((under) => under.to !== null);
  if (first) return first.to === model.name ? "" : `waits: ${short(first.to)} comes first`;
  const awake = switches.length === 0 && models.find((other) => other.state === "awake");
  if (!awake) return "";
  return `waits: ${short(awake.name)} is kept awake${awake.in_flight ? ` and serves ${many(awake.in_flight, "request")}` : ""}`;
}

function lost(about) {
  const next = about.next_look_secs === null ? "being looked at now" : `next look ${soon(about.next_look_secs - sinceStatus())}`;
  return `for ${age(about.since_secs + sinceStatus())}: ${about.error || "its sleep failed"}; ${next}`;
}

const soon = (secs) => (secs < 1 ? "now" : `in ${age(secs)}`);

export function startModels() {
  const show = keyed($("models-rows"), row);
  const draw = () => {
    if (!store.status) return;
    const wanted = $("models-filter").value.trim().toLowerCase();
    const models = store.status.models.filter(
      (model) => !wanted || [model.name, ...model.aliases].some((name) => name.toLowerCase().includes(wanted)),
    );
    show(models, (model) => model.name);
    $("models").classList.toggle("few", store.status.models.length <= FEW);
    $("models-empty").hidden = models.length > 0;
  };
  $("models-filter").addEventListener("input", draw);
  on(["status", "orders", "connection"], draw);
  setInterval(draw, 1000);

  const whole = orderButtons($("server-orders"));
  on(["orders", "status"], () => whole(null));
}
