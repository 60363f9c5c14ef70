// The dashboard: every panel started, and the connection that feeds them kept.

import { $ } from "./dom.js";
import { startCosts } from "./costs.js";
import { startHooks } from "./hooks.js";
import { startKeyboard } from "./keyboard.js";
import { askForKeys, startKeys } from "./keys.js";
import { reconnect, stayConnected } from "./live.js";
import { startModels } from "./models.js";
import { learnOrders } from "./orders.js";
import { startOverview } from "./overview.js";
import { learnModels, startPlayground } from "./playground.js";
import { startRequests } from "./requests.js";
import { startSections } from "./sections.js";
import { on, store } from "./store.js";
import { startSwitches } from "./switches.js";
import { startTimeline } from "./timeline.js";

function alarm(text) {
  $("alarm").textContent = text;
  $("alarm").hidden = text === "";
}

startOverview();
startSections();
startTimeline();
startModels();
startRequests();
startSwitches();
startCosts();
startHooks();
startPlayground();
startKeyboard();
startKeys(() => {
  alarm("");
  learnModels(true);
  reconnect();
});

on(["connection"], () => {
  if (store.connection !== "live") return;
  alarm("");
  learnOrders().catch(() => {}); // without them there are no buttons, and the line above says why
});

stayConnected((refusal) => {
  alarm(refusal.message);
  // 403 is for whoever comes from another machine while there are no admin keys: no key would help.
  if (refusal.status === 401) askForKeys(refusal);
});
