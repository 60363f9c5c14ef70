// Whether llmux is ready and why not, whether this page still hears of it, and the figures that matter most.

import { $, h, keyed, setText } from "./dom.js";
import { progress } from "./estimates.js";
import { age, many } from "./format.js";
import { nextAttempt, reconnect } from "./live.js";
import { short } from "./names.js";
import { on, sinceStatus, store } from "./store.js";

function readiness() {
  const box = $("readiness");
  const { status, connection } = store;
  if (!status) {
    if (connection === "refused") box.replaceChildren(h("span", { class: "badge wait", text: "a key is needed" }));
    return;
  }
  const unsure = connection !== "live";
  const word = status.ready ? "ready" : "not ready";
  const text = unsure ? `${word} when last heard` : word;
  const kind = unsure ? "wait" : status.ready ? "good" : "bad";
  const key = JSON.stringify([text, kind, status.reasons]);
  if (box.dataset.key !== key) {
    box.dataset.key = key; // a screen reader should hear changes, not repetitions
    box.replaceChildren(h("span", { class: `badge ${kind}`, text }));
    for (const reason of status.reasons) box.append(h("span", { class: "reason", text: reason }));
  }
  document.title = unsure ? "? llmux" : status.ready ? "llmux" : "! llmux: not ready";
}

function released() {
  const line = $("released");
  const release = store.status?.released;
  line.hidden = !release;
  if (!release) return;
  const since = age(release.since_secs + sinceStatus());
  const left = release.holding.length ? ` Not asleep: ${release.holding.join(", ")}.` : " Everything is asleep.";
  setText(line, `Released for ${since}: nothing is woken and requests are ${release.refuse ? "refused" : "held"} until Resume.${left}`);
}

let retry = null;

function connection() {
  const line = $("connection");
  if (store.connection === "live") {
    const { version, policy } = store.status;
    setText(line, `live \u00b7 ${version} \u00b7 policy ${policy}`);
    line.dataset.kind = "live";
    retry = null;
  } else if (store.connection === "lost") {
    const left = Math.max(0, Math.ceil((nextAttempt() - Date.now()) / 1000));
    if (line.dataset.kind !== "lost" || !retry) {
      retry = h("span");
      line.dataset.kind = "lost";
      line.replaceChildren("connection lost", retry, h("button", { type: "button", text: "Try now", on: { click: reconnect } }));
    }
    retry.setAttribute("aria-hidden", "true"); // a countdown is nothing to read out
    const why = store.problem ? ` (${store.problem})` : "";
    setText(retry, left > 0 ? `${why} \u00b7 trying again in ${left} s ` : `${why} \u00b7 trying again `);
  } else {
    setText(line, store.connection === "refused" ? "not connected" : "connecting");
    line.dataset.kind = "";
    retry = null;
  }
}

/** A switch that is under way. */
const line = () => {
  const what = h("span", { class: "change" });
  const how = h("span", { class: "tile-more" });
  return {
    node: h("li", {}, what, how),
    update(one) {
      const told = (called) => `${called(one.from ?? "nothing")} \u2192 ${called(one.to ?? "sleep")}`;
      setText(what, told(short));
      what.title = told(String);
      setText(how, progress(one));
    },
  };
};

const tile = () => {
  const name = h("span", { class: "tile-name" });
  const value = h("span", { class: "tile-value" });
  const more = h("span", { class: "tile-more" });
  const list = h("ul", { class: "tile-lines" });
  const lines = keyed(list, line);
  const node = h("div", { class: "tile" }, name, value, more, list);
  return {
    node,
    update(item) {
      setText(name, item.name);
      lines(item.lines ?? [], (one) => JSON.stringify([one.from, one.to]));
      setText(value, item.value);
      setText(more, item.more);
      node.classList.toggle("some", item.some);
      node.classList.toggle("listed", Boolean(item.lines?.length));
    },
  };
};

function tiles() {
  const { status } = store;
  if (!status) return [];
  const sum = (of) => status.models.reduce((total, model) => total + model[of], 0);
  const inState = (state) => status.models.filter((model) => model.state === state).length;
  const waiting = sum("waiting");
  const oldest = status.oldest_waiter_secs;
  const uncertain = inState("lost") + inState("unconfirmed");
  return [
    {
      name: "Waiting", value: String(waiting), some: waiting > 0,
      more: oldest === null ? "nobody" : `the oldest for ${age(oldest + sinceStatus())}`,
    },
    { name: "In flight", value: String(sum("in_flight")), more: "requests", some: false },
    {
      name: "Awake", value: String(inState("awake")), some: uncertain > 0,
      more: uncertain ? `of ${status.models.length}; ${uncertain} uncertain` : `of ${many(status.models.length, "model")}`,
    },
    {
      name: "Switching", value: "no", some: false, lines: status.switches,
      more: `last event ${age(status.last_event_secs + sinceStatus())} ago`,
    },
  ];
}

export function startOverview() {
  const show = keyed($("overview"), tile);
  const draw = () => {
    readiness();
    connection();
    released();
    show(tiles(), (item) => item.name);
    document.body.classList.toggle("stale", store.connection !== "live");
  };
  on(["status", "connection"], draw);
  setInterval(draw, 1000);
}
