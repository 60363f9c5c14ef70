// Keeps the store in step with the server: the event stream, and what has to be asked for besides.

import { Refusal, ask, follow } from "./api.js";
import { addRuns, addStates, addSwitches, forgetAll, hookEnded, hookStarted, on, serverNow, setStatus, store, touch } from "./store.js";

const PREFIX = "/admin/v1";
const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 15_000;
const REQUESTS_SHOWN = 100;
const REQUESTS_EVERY_MS = 1000;
const STATE_EVERY_MS = 5000;
const FIRST_LOOK_BACK = 3600;

const outputListeners = [];
let abort = new AbortController();
let hurry = () => {};
let retryAt = 0;

/** Calls `listener` with every line that a hook prints, `{model, hook, at, line}`, or with `{missed}`. */
export function onOutput(listener) {
  outputListeners.push(listener);
}

/** When the next attempt to connect is made, in ms since 1970. */
export const nextAttempt = () => retryAt;

/** Connects anew, now: with another key, or because somebody is tired of waiting. */
export function reconnect() {
  abort.abort();
  hurry();
}

function become(connection) {
  if (store.connection === connection) return;
  store.connection = connection;
  touch("connection");
}

/** Never ends. `refused` is called with the server's refusal; it is not asked again until `reconnect`. */
export async function stayConnected(refused) {
  let pause = FIRST_PAUSE_MS;
  for (;;) {
    abort = new AbortController();
    let wait = 0;
    try {
      for await (const event of follow(abort.signal)) {
        pause = FIRST_PAUSE_MS;
        store.lastHeard = Date.now() / 1000;
        if (event.event) take(event);
      }
      store.problem = "";
      become("lost");
    } catch (error) {
      const forbidden = error instanceof Refusal && (error.status === 401 || error.status === 403);
      store.problem = error instanceof Refusal ? error.message : "";
      become(forbidden ? "refused" : "lost");
      if (forbidden) {
        refused(error);
        wait = Infinity;
      }
    }
    if (abort.signal.aborted) continue;
    if (wait === 0) {
      // Up to a quarter less: a wall of screens should not come back all at once.
      wait = pause * (1 - Math.random() / 4);
      pause = Math.min(pause * 2, LONGEST_PAUSE_MS);
    }
    retryAt = Date.now() + wait;
    touch("connection");
    await new Promise((resolve) => {
      hurry = resolve;
      if (wait !== Infinity) setTimeout(resolve, wait);
    });
    hurry = () => {};
  }
}

function take({ event, data }) {
  const record = JSON.parse(data);
  if (event === "status") {
    const restarted = setStatus(record);
    if (restarted) forgetAll();
    if (restarted || store.connection !== "live") {
      become("live");
      catchUp();
    }
    if (requestsMatter()) askRequests();
  } else if (event === "state") {
    addStates([record]);
  } else if (event === "switch") {
    addSwitches([record]);
    if (record.result !== null) quietly(askCosts());
  } else if (event === "hook") {
    hookEnded(record);
  } else if (event === "hook_started") {
    hookStarted(record);
  } else if (event === "hook_output") {
    for (const listener of outputListeners) listener(record);
  } else if (event === "missed") {
    for (const listener of outputListeners) listener({ missed: record });
    catchUp();
  }
}

/** Asks for what happened while nobody listened. */
function catchUp() {
  const since = store.statesSince;
  store.statesSince = Infinity;
  quietly(lookBack(Math.min(since, serverNow() - FIRST_LOOK_BACK)));
  quietly(ask("GET", `${PREFIX}/switches?limit=100`).then((answer) => addSwitches(answer.switches)));
  quietly(ask("GET", `${PREFIX}/hooks?limit=100`).then((answer) => addRuns(answer.hooks)));
  quietly(askCosts());
  askRequests();
}

async function askCosts() {
  store.costs = (await ask("GET", `${PREFIX}/costs`)).costs;
  touch("costs");
}

/** Makes sure that the store has all states since `unix`, as far as the server remembers. */
export async function lookBack(unix) {
  if (unix >= store.statesSince) return;
  const before = store.statesSince;
  store.statesSince = unix;
  try {
    addStates((await ask("GET", `${PREFIX}/timeline?since=${unix.toFixed(3)}`)).states);
  } catch (error) {
    store.statesSince = before;
    throw error;
  }
}

/** What comes by the stream is repeated there; a single question that fails does not matter. */
function quietly(promise) {
  promise.catch((error) => {
    if (!(error instanceof Refusal) && !(error instanceof TypeError)) throw error;
  });
}

let asking = false;
let again = false;
let askedAt = 0;

async function askRequests() {
  if (asking) {
    again = true;
    return;
  }
  asking = true;
  askedAt = Date.now();
  try {
    const { requests } = await ask("GET", `${PREFIX}/requests?limit=${REQUESTS_SHOWN}`);
    const now = Date.now() / 1000;
    store.requests = requests.map((request) => ({ ...request, since: now - request.age_secs }));
    touch("requests");
  } catch {
    // The stream will tell what is wrong.
  } finally {
    asking = false;
    if (again) {
      again = false;
      setTimeout(askRequests, Math.max(0, 200 - (Date.now() - askedAt)));
    }
  }
}

/** Whether there are requests to be shown, or shown ones that may be gone. */
const requestsMatter = () => store.requests.length > 0 || (store.status?.models ?? []).some((model) => model.waiting || model.in_flight);

// The state only says how many there are, and does not come again when one took another's place: while there are some,
// see now and then which.
setInterval(() => {
  if (store.connection === "live" && requestsMatter() && !document.hidden) askRequests();
}, REQUESTS_EVERY_MS);

/** Asks for the whole state. The stream has it when a number in it changes; but ages, rates and averages always do. */
export function askState() {
  stateAskedAt = Date.now();
  quietly(ask("GET", `${PREFIX}/state`).then((status) => store.connection === "live" && setStatus(status)));
}

let stateAskedAt = 0;

setInterval(() => {
  const last = Math.max(stateAskedAt, store.arrived * 1000);
  if (store.connection === "live" && !document.hidden && Date.now() - last > STATE_EVERY_MS) askState();
}, 1000);

on(["connection"], () => {
  if (store.connection !== "live" && store.requests.length) {
    store.requests = [];
    touch("requests");
  }
});
