// Requests that wait or are served.

import { $, h, keyed, setText } from "./dom.js";
import { age, many } from "./format.js";
import { short } from "./names.js";
import { cancel } from "./orders.js";
import { on, store } from "./store.js";

/** Who asks and what for, as far as it is known. */
function origin({ path, key, client, level }) {
  const asked = [path, key && `key ${key}`, client && `from ${client}`, level !== "default" && level];
  return asked.filter(Boolean).join(" \u00b7 ");
}

/** How far the answer has come. Only streams tell. */
function sofar({ events, stream, granted }) {
  if (events) return String(events);
  return granted && stream === false ? "no stream" : "\u2013";
}

function row(first) {
  let request = first;
  const model = h("span", { class: "name" });
  const from = h("span", { class: "aside" });
  const state = h("span", { class: "pill" });
  const since = h("td", { class: "number", data: { label: "Age" } });
  const chunks = h("td", { class: "number", data: { label: "Chunks so far" } });
  const button = h("button", {
    type: "button", text: "Cancel", "aria-label": `Cancel request ${first.id} to ${first.model}`,
    on: { click: () => cancel(request) },
  });
  return {
    node: h("tr", {}, h("td", { class: "what", data: { label: "Model" } }, model, from), h("td", { data: { label: "State" } }, state), since, chunks, h("td", { class: "orders" }, button)),
    update(now) {
      request = now;
      setText(model, short(request.model));
      model.title = request.model;
      setText(from, origin(request));
      setText(state, request.granted ? "in flight" : "waiting");
      state.dataset.state = request.granted ? "awake" : "waiting";
      setText(chunks, sofar(request));
      setText(since, age(Date.now() / 1000 - request.since));
    },
  };
}

export function startRequests() {
  const show = keyed($("requests-rows"), row);
  const draw = () => {
    const { requests, status } = store;
    show(requests, (request) => request.id);
    $("requests-empty").hidden = requests.length > 0;
    const all = (status?.models ?? []).reduce((total, model) => total + model.waiting + model.in_flight, 0);
    setText($("requests-count"), requests.length && all > requests.length ? `the oldest ${requests.length} of ${many(all, "request")}` : "");
  };
  on(["requests", "status"], draw);
  setInterval(draw, 1000);
}
