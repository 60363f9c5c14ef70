// Every model: its state, its queue, and what can be ordered of it.

import { $, h, keyed, pill, setText } from "./dom.js";
import { age, duration, rate } from "./format.js";
import { give, isUnderWay, ordersFor } from "./orders.js";
import { on, sinceStatus, store } from "./store.js";

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

function row() {
  const name = h("th", { scope: "row" });
  const called = h("span", { class: "name" });
  const aliases = h("span", { class: "aside" });
  name.append(called, aliases);
  const state = cell("State");
  const shown = pill();
  const standing = h("span", { class: "standing" });
  const trouble = h("span", { class: "trouble" });
  state.append(shown.node, standing, trouble);
  const waiting = cell("Waiting", "number");
  const oldest = cell("Oldest wait", "number");
  const inFlight = cell("In flight", "number");
  const arrivals = cell("Arrivals", "number");
  const wake = cell("Wake", "number");
  const sleep = cell("Sleep", "number");
  const devices = cell("Devices");
  const orders = h("td", { class: "orders" });
  const buttons = orderButtons(orders);
  return {
    node: h("tr", {}, name, state, waiting, oldest, inFlight, arrivals, wake, sleep, devices, orders),
    update(model) {
      setText(called, model.name);
      setText(aliases, model.aliases.length ? `also ${model.aliases.join(", ")}` : "");
      shown.update(model.state);
      setText(standing, [model.pinned && "pinned", model.drained && "drained"].filter(Boolean).join(", "));
      setText(trouble, troubleOf(model));
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
  return model.pinned_against.length ? `no room for it while ${model.pinned_against.join(", ")} ${model.pinned_against.length > 1 ? "are" : "is"} pinned` : "";
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
    $("models-empty").hidden = models.length > 0;
  };
  $("models-filter").addEventListener("input", draw);
  on(["status", "orders", "connection"], draw);
  setInterval(draw, 1000);

  const whole = orderButtons($("server-orders"));
  on(["orders", "status"], () => whole(null));
}
