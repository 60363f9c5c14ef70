// Shortcuts, and the page that tells of them.

import { $, h } from "./dom.js";
import { askForKeys } from "./keys.js";
import { nextTheme } from "./theme.js";
import { move, toNow, zoom } from "./timeline.js";

/** [key, what it does, how]. */
const SHORTCUTS = [
  ["?", "this help", () => $("help").showModal()],
  ["m", "filter the models", () => reach($("models-filter"))],
  ["p", "the playground", () => reach($("playground-text"))],
  ["k", "keys", () => askForKeys()],
  ["t", "the next theme", nextTheme],
  ["+", "timeline: zoom in", () => zoom(0.5)],
  ["-", "timeline: zoom out", () => zoom(2)],
  [",", "timeline: look further back", () => move(-0.25)],
  [".", "timeline: look less far back", () => move(0.25)],
  ["n", "timeline: back to now", toNow],
];

function reach(element) {
  element.focus();
  element.scrollIntoView({ block: "center" });
}

const writing = (element) => element.matches("input, textarea, select, [contenteditable]");

export function startKeyboard() {
  for (const [key, text] of SHORTCUTS) $("help-list").append(h("dt", {}, h("kbd", { text: key })), h("dd", { text }));
  $("help-list").append(h("dt", {}, h("kbd", { text: "Ctrl+wheel" })), h("dd", { text: "on the timeline: zoom where the pointer is" }));
  $("help-list").append(h("dt", {}, h("kbd", { text: "Ctrl+Enter" })), h("dd", { text: "in the playground: send" }));
  $("help-open").addEventListener("click", () => $("help").showModal());
  $("help-close").addEventListener("click", () => $("help").close());
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    if (writing(event.target) || document.querySelector("dialog[open]")) return;
    const found = SHORTCUTS.find(([key]) => key === event.key);
    if (!found) return;
    event.preventDefault();
    found[2]();
  });
}
