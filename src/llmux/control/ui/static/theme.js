// Light, dark, or whatever the system prefers. The only thing that this page keeps beyond the tab.

const NAMES = ["auto", "light", "dark"];
const STORED = "llmux.theme";

function stored() {
  try {
    return localStorage.getItem(STORED);
  } catch {
    return null; // storage may be forbidden
  }
}

let theme = NAMES.includes(stored()) ? stored() : "auto";
const listeners = [];

function apply() {
  document.documentElement.dataset.theme = theme;
  const button = document.getElementById("theme");
  if (button) button.textContent = `Theme: ${theme}`;
  for (const listener of listeners) listener();
}

/** Calls `listener` whenever colours have changed. */
export function onTheme(listener) {
  listeners.push(listener);
}

export function nextTheme() {
  theme = NAMES[(NAMES.indexOf(theme) + 1) % NAMES.length];
  try {
    localStorage.setItem(STORED, theme);
  } catch {
    // It holds for this page, then.
  }
  apply();
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", apply);
document.getElementById("theme").addEventListener("click", nextTheme);
apply();
