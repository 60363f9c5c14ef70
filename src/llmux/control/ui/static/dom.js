// Making and updating elements. Text becomes text: there is no way from here to markup.

export const $ = (id) => document.getElementById(id);

/**
 * An element. `props`: `text`, `class`, `on` ({event: listener}), `data` ({name: value}); anything else is an attribute,
 * which is left out when it is null, undefined or false.
 */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "text") element.textContent = value;
    else if (name === "class") element.className = value;
    else if (name === "on") for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    else if (name === "data") Object.assign(element.dataset, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

/** Sets the text if it is another one: selections and screen readers are left alone. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Sets an attribute that a screen reader may be reading, if it is another one. */
export function setAttribute(element, name, value) {
  if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

/**
 * Keeps the children of `parent` in step with `items`: `make()` gives `{node, update}` for a new one. Nodes stay for as
 * long as their key does, and with them the focus.
 */
export function keyed(parent, make) {
  let known = new Map();
  return (items, keyOf) => {
    const wanted = new Map(items.map((item) => [keyOf(item), item]));
    // First, so that no node that stays has to be moved: a node that is moved loses the focus.
    for (const [key, row] of known) if (!wanted.has(key)) row.node.remove();
    const next = new Map();
    let place = parent.firstChild;
    for (const [key, item] of wanted) {
      const row = known.get(key) ?? make(item);
      next.set(key, row);
      row.update(item);
      if (row.node === place) place = place.nextSibling;
      else parent.insertBefore(row.node, place);
    }
    known = next;
  };
}

/** A model's state in words, with its colour. */
export function pill() {
  const node = h("span", { class: "pill" });
  return {
    node,
    update(state) {
      setText(node, state);
      node.dataset.state = state;
    },
  };
}
