// What hooks print, as it comes, and their past runs.

import { $, h, keyed, setText } from "./dom.js";
import { age, clock, duration, when } from "./format.js";
import { onOutput } from "./live.js";
import { hookKey, modelNames, on, runKey, serverNow, store } from "./store.js";

const LINES = 500;
const RUNS = 40;
const LINE_CHARS = 2000;

/** What the second list chooses among. Alive hooks run all the time; only what they fail at is news. */
const CHOICES = [
  ["", "all but good alive checks"],
  ["wake", "wake"],
  ["sleep", "sleep"],
  ["alive", "alive"],
  ["verify", "verify"],
  ["canary", "canary"],
];

const model = $("hooks-model");
const hook = $("hooks-hook");

const wanted = (one) =>
  (!model.value || one.model === model.value) &&
  (hook.value ? one.hook === hook.value : one.hook !== "alive" || (one.outcome !== undefined && one.outcome !== "ok"));

const lines = [];

function line(one) {
  if (one.missed) return h("li", { class: "aside", text: `${one.missed} records were missed: this page was too slow` });
  return h("li", {},
    h("span", { class: "time", text: clock(one.at) }), " ",
    h("span", { class: "who", text: `${one.model} ${one.hook}` }), " ",
    h("span", { text: one.line.length > LINE_CHARS ? `${one.line.slice(0, LINE_CHARS)} \u2026` : one.line }));
}

function output() {
  const list = $("hooks-output");
  let pending = [];
  const flush = () => {
    const added = pending;
    pending = [];
    const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 24;
    list.append(...added.filter((one) => one.missed || wanted(one)).map(line));
    while (list.children.length > LINES) list.firstElementChild.remove();
    $("hooks-output-empty").hidden = list.children.length > 0;
    if (atEnd) list.scrollTop = list.scrollHeight;
  };
  onOutput((one) => {
    lines.push(one);
    if (lines.length > LINES) lines.shift();
    pending.push(one);
    if (pending.length > LINES) pending.shift();
    if (pending.length === 1) setTimeout(flush, 50);
  });
  return () => {
    list.replaceChildren();
    pending = [...lines];
    flush();
  };
}

function run(one) {
  // A "no" of these is an answer; only a shell that could not run them (126, 127) has said nothing.
  const no = ["alive", "verify"].includes(one.hook) && one.outcome === "failed" && ![126, 127].includes(one.exit_code);
  const code = one.exit_code === null ? "" : `, exit ${one.exit_code}`;
  const good = one.outcome === "ok";
  const head = h("summary", {},
    h("span", { class: "time", text: clock(one.ended), title: when(one.ended) }), " ",
    h("span", { class: "who", text: `${one.model} ${one.hook}` }), " ",
    h("span", { class: `badge ${good ? "good" : no ? "" : one.outcome === "cancelled" ? "wait" : "bad"}`, text: `${no ? "no" : one.outcome}${good ? "" : code}` }), " ",
    h("span", { class: "aside", text: duration(one.duration_secs) }));
  const detail = one.detail && !good ? h("p", { class: "trouble", text: one.detail }) : "";
  return {
    node: h("li", {}, h("details", {}, head, detail, h("pre", { tabindex: "0", text: one.output || "(it printed nothing)" }))),
    update() {},
  };
}

/** A hook that runs now, and for how long it has. */
function runningNow() {
  const since = h("span", { class: "aside" });
  const who = h("span", { class: "who" });
  return {
    node: h("li", {}, h("span", { class: "pill", data: { state: "waking" } }, who, " ", since)),
    update(one) {
      setText(who, `${one.model} ${one.hook}`);
      setText(since, `running for ${age(serverNow() - one.at)}`);
    },
  };
}

export function startHooks() {
  hook.append(...CHOICES.map(([value, text]) => h("option", { value, text })));
  const redraw = output();
  const show = keyed($("hooks-runs"), run);
  const runs = () => {
    const found = store.runs.filter(wanted);
    show(found.slice(0, RUNS), runKey);
    $("hooks-runs-empty").hidden = found.length > 0;
    setText($("hooks-runs-empty"), store.runs.length ? "No run that is asked for above." : "No hook has run.");
  };
  for (const list of [model, hook]) {
    list.addEventListener("change", () => {
      redraw();
      runs();
    });
  }
  const options = keyed(model, (name) => ({ node: h("option", { value: name ?? "", text: name ?? "all" }), update() {} }));
  model.replaceChildren();
  on(["status"], () => options([null, ...modelNames()], (name) => name));
  on(["runs"], runs);
  const now = keyed($("hooks-running"), runningNow);
  const running = () => now(
    // Most alive checks are over before anybody has read that they run.
    [...store.running.values()].filter((one) => (!model.value || one.model === model.value) && (one.hook !== "alive" || serverNow() - one.at > 1)),
    hookKey,
  );
  on(["running", "connection"], running);
  model.addEventListener("change", running);
  setInterval(running, 1000);
}
