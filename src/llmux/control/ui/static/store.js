// What is known of the server, in one place. Panels listen for the parts that they show.

const listeners = new Map();

export const store = {
  /** What `/admin/v1/state` last answered, and by how many seconds this machine's clock is behind the server's. */
  status: null,
  behind: 0,
  arrived: 0,
  requests: [],
  costs: [],
  switches: [], // the newest first
  states: new Map(), // model -> [{at, state, cause, devices}], the oldest first
  statesSince: Infinity,
  runs: [], // of hooks, the newest first
  running: new Map(), // hooks that run: key -> {model, hook, at}
  /** "connecting", "live", "lost" or "refused". */
  connection: "connecting",
  problem: "", // why it was lost, if the server said so
  lastHeard: 0,
};

export function on(parts, listener) {
  for (const part of parts) {
    if (!listeners.has(part)) listeners.set(part, new Set());
    listeners.get(part).add(listener);
  }
}

const changed = new Set();
let scheduled = false;

/** Says that parts have changed. Listeners are called together, a little later: events come in bursts. */
export function touch(...parts) {
  for (const part of parts) changed.add(part);
  if (scheduled) return;
  scheduled = true;
  setTimeout(() => {
    scheduled = false;
    const due = new Set();
    for (const part of changed) for (const listener of listeners.get(part) ?? []) due.add(listener);
    changed.clear();
    for (const listener of due) listener();
  }, 30);
}

/** The server's time in Unix seconds, as well as this machine can tell. */
export const serverNow = () => Date.now() / 1000 + store.behind;

/** What has passed since the state was told, in seconds: to be added to its ages. It stands still once nothing is heard. */
export function sinceStatus() {
  const until = store.connection === "live" ? Date.now() / 1000 : store.lastHeard;
  return Math.max(0, until - store.arrived);
}

export const modelNames = () => (store.status?.models ?? []).map((model) => model.name);

const KEPT = { states: 6000, runs: 300, switches: 200 };

export function setStatus(status) {
  const restarted = store.status !== null && store.status.started !== status.started;
  store.status = status;
  store.arrived = Date.now() / 1000;
  store.behind = status.now - store.arrived;
  store.running = new Map(status.hooks.map((one) => [hookKey(one), one]));
  touch("status", "running");
  return restarted;
}

export function forgetAll() {
  store.switches = [];
  store.states = new Map();
  store.statesSince = Infinity;
  store.runs = [];
  touch("switches", "states", "runs");
}

export function addStates(records) {
  const touched = new Map();
  for (const record of records) {
    if (!touched.has(record.model)) touched.set(record.model, []);
    touched.get(record.model).push(record);
  }
  for (const [model, added] of touched) {
    const all = [...(store.states.get(model) ?? []), ...added].sort((one, other) => one.at - other.at);
    const once = all.filter((one, i) => i === 0 || one.at !== all[i - 1].at || one.state !== all[i - 1].state);
    store.states.set(model, once.slice(-KEPT.states));
  }
  touch("states");
}

export function addSwitches(records) {
  const all = new Map(store.switches.map((one) => [one.id, one]));
  for (const record of records) {
    const known = all.get(record.id);
    if (!known || known.result === null || record.result !== null) all.set(record.id, record);
  }
  store.switches = [...all.values()].sort((one, other) => other.id - one.id).slice(0, KEPT.switches);
  touch("switches");
}

export const hookKey = (one) => `${one.hook} ${one.model}`;

export function hookStarted(record) {
  store.running.set(hookKey(record), record);
  touch("running");
}

const runKey = (run) => `${run.ended} ${run.hook} ${run.model}`;

export function hookEnded(record) {
  store.running.delete(hookKey(record));
  touch("running");
  addRuns([record]);
}

export function addRuns(records) {
  const all = new Map([...store.runs, ...records].map((run) => [runKey(run), run]));
  store.runs = [...all.values()].sort((one, other) => other.ended - one.ended).slice(0, KEPT.runs);
  touch("runs");
}

export { runKey };
