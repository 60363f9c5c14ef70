// A small chat with any model, by the same way that clients go. What it waits for and what goes wrong is said as it is.

import { Refusal, chat, events, offeredModels } from "./api.js";
import { $, h, keyed, setText } from "./dom.js";
import { duration, many } from "./format.js";
import { modelNames, on, store } from "./store.js";

const TURNS = 50;

let talk = []; // {role, content}: what is sent
let running = null;
let offered = "";

function say(role, text) {
  const body = h("div", { class: "said", text });
  const note = h("p", { class: "aside" });
  const item = h("li", { class: role }, h("span", { class: "who", text: role }), body, note);
  const list = $("playground-talk");
  list.append(item);
  while (list.children.length > TURNS) list.firstElementChild.remove();
  list.scrollTop = list.scrollHeight;
  return { body, note, item };
}

/** What of a chunk is to be shown. */
function piece(chunk) {
  if (chunk.error) throw new Refusal(0, chunk.error.message ?? "the stream ended with an error");
  const choice = chunk.choices?.[0];
  return { text: choice?.delta?.content ?? "", thought: choice?.delta?.reasoning_content ?? "", over: Boolean(choice?.finish_reason) };
}

async function answer(model, signal) {
  const began = performance.now();
  const passed = () => (performance.now() - began) / 1000;
  const { body, note, item } = say("assistant", "");
  item.setAttribute("aria-busy", "true");
  const wait = setInterval(() => setText(note, `waiting for ${duration(passed())}${standing(model)}`), 200);
  const list = $("playground-talk");
  let text = "";
  let pieces = 0;
  let first = null;
  let over = false;
  const told = () => {
    const speed = pieces > 1 && passed() > first ? `, ${((pieces - 1) / (passed() - first)).toFixed(1)} tokens/s` : "";
    return `first token after ${duration(first)}, ${many(pieces, "token")}${speed}`;
  };
  try {
    const response = await chat({ model, messages: talk, max_tokens: Number($("playground-tokens").value) || undefined }, signal);
    for await (const event of events(response)) {
      if (event.comment) setText($("playground-status"), event.comment);
      if (!event.data) continue;
      if (event.data === "[DONE]") {
        over = true;
        break;
      }
      const now = piece(JSON.parse(event.data));
      over ||= now.over;
      if (!now.text && !now.thought) continue;
      if (first === null) {
        first = passed();
        clearInterval(wait);
        setText($("playground-status"), "");
      }
      pieces += 1;
      text += now.text;
      const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
      if (now.thought) body.append(h("span", { class: "aside", text: now.thought }));
      if (now.text) body.append(now.text);
      setText(note, told());
      if (atEnd) list.scrollTop = list.scrollHeight;
    }
    if (!over) throw new Refusal(0, "the stream ended early");
    setText(note, first === null ? `an empty answer after ${duration(passed())}` : told());
    talk.push({ role: "assistant", content: text });
  } catch (error) {
    const sofar = first === null ? `after ${duration(passed())}` : told();
    item.classList.add("failed");
    setText(note, error.name === "AbortError" ? `stopped ${sofar}` : `${problem(error)} (${sofar})`);
    talk.pop(); // the question: it got no whole answer
  } finally {
    clearInterval(wait);
    item.removeAttribute("aria-busy");
    setText($("playground-status"), "");
    list.scrollTop = list.scrollHeight;
  }
}

/** What the model that is waited for is doing. */
function standing(name) {
  const model = store.status?.models.find((one) => one.name === name || one.aliases.includes(name));
  if (!model) return "";
  return model.waiting > 1 ? `; ${name} is ${model.state}, ${model.waiting} wait for it` : `; ${name} is ${model.state}`;
}

function problem(error) {
  if (error instanceof Refusal) return error.status ? `${error.status}: ${error.message}` : error.message;
  return error instanceof SyntaxError ? "the model sent what is no JSON" : "the connection broke";
}

async function send() {
  const text = $("playground-text").value.trim();
  const model = $("playground-model").value;
  if (running || !text || !model) return;
  running = new AbortController();
  $("playground-stop").hidden = false;
  $("playground-send").setAttribute("aria-disabled", "true");
  say("user", text);
  talk.push({ role: "user", content: text });
  talk = talk.slice(-TURNS);
  $("playground-text").value = "";
  try {
    await answer(model, running.signal);
  } finally {
    running = null;
    $("playground-stop").hidden = true;
    $("playground-send").removeAttribute("aria-disabled");
  }
}

let chosen = false; // by somebody, or for them: it is theirs from then on

$("playground-model").addEventListener("change", () => {
  chosen = true;
});

/** Chooses the model that most would: the one that requests without a model are for, else one that is awake. */
function preselect() {
  const list = $("playground-model");
  if (chosen || !store.status || !list.options.length) return;
  chosen = true;
  const has = (name) => [...list.options].some((option) => option.value === name);
  const { default_model: usual, models } = store.status;
  const named = models.find((model) => model.name === usual || model.aliases.includes(usual));
  const awake = models.find((model) => model.state === "awake" && has(model.name));
  list.value = [usual, named?.name, awake?.name].find(has) ?? list.options[0].value;
}

const options = keyed($("playground-model"), (name) => ({ node: h("option", { value: name, text: name }), update() {} }));

/** Asks which models there are, if that may have changed. */
export async function learnModels(anew = false) {
  const names = JSON.stringify(modelNames());
  if (names === offered && !anew) return;
  offered = names;
  try {
    options(await offeredModels(), (name) => name);
    preselect();
    setText($("playground-status"), "");
  } catch (error) {
    if (!(error instanceof Refusal)) offered = ""; // asked again with the next state; a refusal stays one until the keys change
    setText($("playground-status"), error.status === 401 ? "The models need an API key: see Keys." : problem(error));
  }
}

export function startPlayground() {
  $("playground-form").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  $("playground-text").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) send();
  });
  $("playground-stop").addEventListener("click", () => running?.abort());
  $("playground-clear").addEventListener("click", () => {
    running?.abort();
    talk = [];
    $("playground-talk").replaceChildren();
  });
  on(["status"], () => {
    learnModels();
    preselect();
  });
  learnModels(true);
}
