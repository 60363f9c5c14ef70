// Requests that wait or are served.

import { $, h, keyed, setText } from "./dom.js";
import { age, many } from "./format.js";
import { cancel } from "./orders.js";
import { on, store } from "./store.js";

function row(first) {
  let request = first;
  const model = h("td", { class: "name" });
  const state = h("span", { class: "pill" });
  const since = h("td", { class: "number" });
  const events = h("td", { class: "number" });
  const button = h("button", {
    type: "button", text: "Cancel", "aria-label": `Cancel request ${first.id} to ${first.model}`,
    on: { click: () => cancel(request) },
  });
  return {
    node: h("tr", {}, model, h("td", {}, state), since, events, h("td", { class: "orders" }, button)),
    update(now) {
      request = now;
      setText(model, request.model);
      setText(state, request.granted ? "in flight" : "waiting");
      state.dataset.state = request.granted ? "awake" : "waiting";
      setText(events, request.events ? String(request.events) : "\u2013");
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
