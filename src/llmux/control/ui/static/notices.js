// What an order came to, and questions before one that hurts.

import { $, h } from "./dom.js";
import { clock } from "./format.js";

const KEPT = 5;
const SHOWN_MS = 8000;

/** Says something for a while; an error stays until it is dismissed. */
export function notice(text, kind = "good") {
  const box = h("div", { class: `notice ${kind}` }, h("span", { text: `${clock(Date.now() / 1000)} ${text}` }));
  box.append(h("button", { type: "button", "aria-label": "Dismiss", text: "\u00d7", on: { click: () => box.remove() } }));
  const list = $("notices");
  list.append(box);
  while (list.children.length > KEPT) list.firstElementChild.remove();
  if (kind !== "bad") setTimeout(() => box.remove(), SHOWN_MS);
}

let answer = null;

function close(yes) {
  $("confirm").close();
  answer?.(yes);
  answer = null;
}

$("confirm-no").addEventListener("click", () => close(false));
$("confirm-yes").addEventListener("click", () => close(true));
$("confirm").addEventListener("cancel", (event) => {
  event.preventDefault();
  close(false);
});

/** Asks; true if the answer was yes. The answer that changes nothing has the focus. */
export function confirmed(title, text, yes) {
  answer?.(false);
  $("confirm-title").textContent = title;
  $("confirm-text").textContent = text;
  $("confirm-yes").textContent = yes;
  if (!$("confirm").open) $("confirm").showModal();
  $("confirm-no").focus();
  return new Promise((resolve) => {
    answer = resolve;
  });
}
