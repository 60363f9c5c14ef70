// Orders: what the admin API's own description says can be ordered. An order that this page has no words for gets a
// button all the same, with the description's, and a question before it.

import { ask } from "./api.js";
import { duration } from "./format.js";
import { askState } from "./live.js";
import { confirmed, notice } from "./notices.js";
import { store, touch } from "./store.js";

const GONE = ["asleep", "waking"];

/** By operationId. `when` says whether it makes sense for a model; `ask` gives [title, text, yes] if it hurts. */
const WORDS = {
  switch: { label: "Wake", doing: "Waking", did: "is awake", when: (m) => (m.state === "asleep" || m.state === "unconfirmed") && !m.drained && !store.status.released },
  sleep: {
    label: "Sleep", doing: "Putting to sleep", did: "is asleep", when: (m) => !GONE.includes(m.state) && m.state !== "sleeping",
    ask: (m) => (m.in_flight || m.waiting) && [
      `Put ${m.name} to sleep?`,
      `${m.in_flight} of its requests are in flight and ${m.waiting} wait. Those in flight may end first; those that wait will wake it again.`,
      "Put to sleep",
    ],
  },
  look: { label: "Look again", doing: "Looking at", did: "was looked at", when: (m) => m.state === "lost" },
  free: {
    label: "Vouch free", doing: "Vouching for", did: "is taken to hold no memory",
    when: (m) => m.state === "lost" || m.state === "unconfirmed",
    ask: (m) => [
      `Is the memory of ${m.name} free?`,
      "llmux will take your word for it and wake other models in that memory. If the model still holds it, they will fail. Look at the device first.",
      "It is free",
    ],
  },
  pin: { label: "Pin", doing: "Pinning", did: "is pinned: once awake, it stays so", when: (m) => !m.pinned },
  unpin: { label: "Unpin", doing: "Unpinning", did: "is not pinned any more", when: (m) => m.pinned },
  drain: {
    label: "Drain", doing: "Draining", did: "is drained", when: (m) => !m.drained,
    ask: (m) => [
      `Drain ${m.name}?`,
      `${m.in_flight ? `${m.in_flight} of its requests are in flight, and may end first. ` : ""}It is put to sleep, and its requests wait until it is undrained.`,
      "Drain",
    ],
  },
  undrain: { label: "Undrain", doing: "Undraining", did: "is given requests again", when: (m) => m.drained },
  release: {
    label: "Release", doing: "Releasing", did: "Everything is asleep", when: (s) => !s.released || s.released.refuse,
    ask: () => [
      "Give the devices away?",
      "What is in flight may end, then everything is put to sleep and nothing is woken until you resume. Requests wait meanwhile.",
      "Release",
    ],
  },
  "release?refuse=true": {
    label: "Release and refuse", doing: "Releasing", did: "Everything is asleep", when: (s) => !s.released || !s.released.refuse,
    ask: () => [
      "Give the devices away, and refuse requests?",
      "What is in flight may end, then everything is put to sleep and nothing is woken until you resume. Whoever waits, and whoever comes meanwhile, gets 503.",
      "Release and refuse",
    ],
  },
  resume: { label: "Resume", doing: "Resuming", did: "Models are woken again for those who ask", when: (s) => s.released },
  reload: {
    label: "Reload", doing: "Reading the configuration", did: "The configuration was read again",
    ask: () => ["Read the configuration file again?", "A file that has faults changes nothing.", "Reload"],
  },
};

let orders = [];

/** The orders that can be given for `model`, or to the server as a whole if it is null. */
export function ordersFor(model) {
  return orders.filter((one) => one.ofModel === (model !== null) && store.status && one.when(model ?? store.status));
}

/** Reads what can be ordered. */
export async function learnOrders() {
  const { paths } = await ask("GET", "/admin/v1/openapi.json");
  orders = [];
  for (const [path, operations] of Object.entries(paths)) {
    const post = operations.post;
    if (!post || post.requestBody) continue;
    const inPath = path.match(/\{[^}]*\}/g) ?? [];
    const needed = (post.parameters ?? []).filter((one) => one.required && one.in !== "path");
    if (needed.length || inPath.some((name) => name !== "{model}")) continue;
    const own = {
      label: post.operationId.replaceAll("_", " "), doing: post.summary, did: `${post.summary}: done`, when: () => true,
      ask: (model) => [`${post.summary}?`, model ? `The model is ${model.name}.` : "This is for the whole server.", "Do it"],
    };
    orders.push({ ...own, ...(WORDS[post.operationId] && { ask: null }), ...WORDS[post.operationId],
      id: post.operationId, summary: post.summary, path, ofModel: inPath.length > 0 });
    for (const [variant, words] of Object.entries(WORDS)) {
      const [operation, query] = variant.split("?");
      if (!query || operation !== post.operationId) continue;
      orders.push({ ...own, ...words, id: variant, summary: post.summary, path: `${path}?${query}`, ofModel: inPath.length > 0 });
    }
  }
  touch("orders");
}

const underWay = new Set();
const key = (order, model) => `${order.id} ${model?.name ?? ""}`;

export const isUnderWay = (order, model) => underWay.has(key(order, model));

/** Gives an order, having asked first where it hurts, and says what came of it. */
export async function give(order, model) {
  const question = order.ask?.(model);
  if (question && !(await confirmed(...question))) return;
  const path = model ? order.path.replace("{model}", encodeURIComponent(model.name)) : order.path;
  await carryOut(path, key(order, model), model ? `${order.doing} ${model.name}` : order.doing,
    model ? `${model.name} ${order.did}` : order.did);
}

/** Ends a request. */
export async function cancel(request) {
  const text = request.granted
    ? "It is being served: its answer is cut off where it is."
    : "It waits: it is refused, and loses its place.";
  if (!(await confirmed(`End request ${request.id} to ${request.model}?`, text, "End it"))) return;
  await carryOut(`/admin/v1/requests/${request.id}/cancel`, `cancel ${request.id}`, `Ending request ${request.id}`,
    `Request ${request.id} was ended`);
}

async function carryOut(path, name, doing, did) {
  underWay.add(name);
  touch("orders");
  try {
    const { secs } = await ask("POST", path);
    notice(secs >= 0.1 ? `${did} (${duration(secs)})` : did);
  } catch (error) {
    notice(`${doing}: ${error.message}`, "bad");
  } finally {
    underWay.delete(name);
    touch("orders");
    askState();
  }
}
