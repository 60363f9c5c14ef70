// Long names in little room. Knows nothing of pixels: whoever draws says what fits.

import { modelNames, store } from "./store.js";

const tail = (name) => name.slice(name.lastIndexOf("/") + 1);

/** What to call each of `names`: without its organisation where that leaves no doubt which one it is. */
export function shortNames(names) {
  const found = new Map();
  for (const name of names) found.set(tail(name), (found.get(tail(name)) ?? 0) + 1);
  return new Map(names.map((name) => [name, tail(name) && found.get(tail(name)) === 1 ? tail(name) : name]));
}

let known = new Map();
let knownOf = null;

/** What to call a model of this server, where there is little room. Its whole name belongs into a title beside it. */
export function short(name) {
  if (knownOf !== store.status) {
    knownOf = store.status;
    known = shortNames(modelNames());
  }
  return known.get(name) ?? name;
}

// Shares of a text's kept characters that are its beginning. Names differ at the end, mostly, but some only amid.
const SHARES = [0.5, 0.7, 0.3, 0.85, 0.15];

/** The texts, each with so much left out amid that it `fits`, and in such a place that no two look the same, if it can be. */
export function elideAll(texts, fits) {
  const found = new Map();
  const taken = new Set();
  for (const share of SHARES) {
    const made = texts.filter((text) => !found.has(text)).map((text) => [text, elide(text, fits, share)]);
    for (const [text, label] of made) {
      if (taken.has(label) || made.filter(([, other]) => other === label).length > 1) continue;
      found.set(text, label);
      taken.add(label);
    }
  }
  for (const text of texts) if (!found.has(text)) found.set(text, elide(text, fits, SHARES[0]));
  return found;
}

/** The text, with so much left out amid that it `fits`; `share` of what is kept is its beginning. */
export function elide(text, fits, share = SHARES[0]) {
  if (fits(text)) return text;
  const letters = [...text];
  const kept = (count) => {
    const head = Math.ceil(count * share);
    return `${letters.slice(0, head).join("")}\u2026${letters.slice(letters.length - (count - head)).join("")}`;
  };
  let low = 0;
  let high = letters.length - 1;
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (fits(kept(middle))) low = middle;
    else high = middle - 1;
  }
  return kept(low);
}
