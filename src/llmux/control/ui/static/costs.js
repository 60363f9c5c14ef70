// The measured cost matrix: what it takes to go from one model to another.

import { $, h, setText } from "./dom.js";
import { duration } from "./format.js";
import { short } from "./names.js";
import { modelNames, on, store } from "./store.js";

const LEVELS = 5;

/** A heading that is cut off with an ellipsis where it needs more than its room; the title has it whole. */
const heading = (scope, name) => h("th", { scope, title: name }, h("span", { class: "cut", text: short(name) }));

export function startCosts() {
  let drawn = "";
  const draw = () => {
    const seen = JSON.stringify([store.costs, modelNames()]);
    if (seen === drawn) return;
    drawn = seen;
    const costs = new Map(store.costs.map((cost) => [JSON.stringify([cost.from, cost.to]), cost.secs]));
    const order = modelNames();
    const known = (side) => order.filter((name) => store.costs.some((cost) => cost[side] === name));
    const columns = known("to");
    const rows = [...(store.costs.some((cost) => cost.from === null) ? [null] : []), ...known("from")];
    const most = Math.max(...store.costs.map((cost) => cost.secs), 0);
    document.querySelector(".matrix").hidden = !store.costs.length;
    $("costs-empty").hidden = store.costs.length > 0;
    $("costs-head").replaceChildren(
      h("tr", {}, h("th", { scope: "col", text: "from \\ to" }), ...columns.map((name) => heading("col", name))),
    );
    $("costs-rows").replaceChildren(...rows.map((from) => {
      const line = h("tr", {}, from === null ? h("th", { scope: "row", text: "cold start", class: "aside" }) : heading("row", from));
      for (const to of columns) {
        const secs = costs.get(JSON.stringify([from, to]));
        const cell = h("td", { class: "number" });
        setText(cell, from === to ? "" : duration(secs));
        if (secs !== undefined && most > 0) cell.dataset.level = String(Math.min(LEVELS, 1 + Math.floor((secs / most) * (LEVELS - 0.01))));
        line.append(cell);
      }
      return line;
    }));
  };
  on(["costs", "status"], draw);
}
