// How long a switch that is under way has taken, and what is usual, from what the admin API has measured.

import { duration } from "./format.js";
import { sinceStatus, store } from "./store.js";

/** The usual sleep and wake time of a switch in seconds, or null: the pair's average, else that of its two halves. */
export function usual({ from, to }) {
  const pair = store.costs.find((cost) => cost.from === from && cost.to === to);
  if (pair) return pair.secs;
  const average = (name, of) => store.status.models.find((model) => model.name === name)?.[of] ?? null;
  const sleep = from === null ? 0 : average(from, "sleep_secs");
  const wake = to === null ? 0 : average(to, "wake_secs");
  return sleep === null || wake === null ? null : sleep + wake;
}

/** How far a switch is. What is usual has no draining in it: how long that takes is up to those who are served. */
export function progress(one) {
  const passed = one.since_secs + sinceStatus();
  const about = usual(one);
  if (about === null) return `${one.phase}, ${duration(passed)}`;
  if (one.phase === "draining") return `${one.phase}, ${duration(passed)}; then about ${duration(about)}`;
  const record = store.switches.find((known) => known.result === null && known.to === one.to);
  return `${one.phase}, ${duration(passed - (record?.drain_secs ?? 0))} of about ${duration(about)}`;
}
