// Recent switches, and who wanted them.

import { $, h, keyed, setText } from "./dom.js";
import { clock, duration, when } from "./format.js";
import { short } from "./names.js";
import { on, store } from "./store.js";

const SHOWN = 60;

function row(first) {
  const change = h("td", { class: "change", data: { label: "Switch" } });
  const cause = h("td", { data: { label: "Cause" } });
  const result = h("span", { class: "badge" });
  const detail = h("span", { class: "trouble" });
  const drain = h("td", { class: "number", data: { label: "Drain" } });
  const sleep = h("td", { class: "number", data: { label: "Sleep" } });
  const wake = h("td", { class: "number", data: { label: "Wake" } });
  return {
    node: h("tr", {},
      h("td", { class: "time", data: { label: "At" }, text: clock(first.began), title: when(first.began) }),
      change, cause, h("td", { data: { label: "Result" } }, result, detail), drain, sleep, wake),
    update(one) {
      const told = (called) => `${(one.victims.length ? one.victims : [one.from ?? "nothing"]).map(called).join(", ")} \u2192 ${called(one.to)}`;
      setText(change, told(short));
      change.title = told(String);
      setText(cause, one.cause);
      setText(result, one.result ?? "under way");
      result.className = `badge ${{ success: "good", failure: "bad" }[one.result] ?? "wait"}`;
      const cut = one.aborted_requests ? `${one.aborted_requests} requests cut off` : "";
      setText(detail, [one.detail, cut].filter(Boolean).join("; "));
      const over = one.result !== null;
      setText(drain, duration(over || one.drain_secs ? one.drain_secs : null));
      setText(sleep, duration(over && one.victims.length ? one.sleep_secs : null));
      setText(wake, duration(over && one.wake_secs ? one.wake_secs : null));
    },
  };
}

export function startSwitches() {
  const show = keyed($("switches-rows"), row);
  on(["switches"], () => {
    show(store.switches.slice(0, SHOWN), (one) => `${one.id} ${one.began}`);
    $("switches-empty").hidden = store.switches.length > 0;
  });
}
