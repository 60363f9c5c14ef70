// The dialog for keys. It comes by itself when the server wants one.

import { keepKey, storedKey } from "./api.js";
import { $ } from "./dom.js";

/** Asks for keys; `refusal` is why, if the server wants one. */
export function askForKeys(refusal = null) {
  $("keys-admin").value = storedKey("admin");
  $("keys-api").value = storedKey("api");
  $("keys-why").hidden = refusal === null;
  $("keys-why").textContent = refusal?.message ?? "";
  if (!$("keys").open) $("keys").showModal();
  $("keys-admin").focus();
}

/** `used` is called with every set of keys. */
export function startKeys(used) {
  $("keys-open").addEventListener("click", () => askForKeys());
  $("keys-cancel").addEventListener("click", () => $("keys").close());
  $("keys-form").addEventListener("submit", (event) => {
    event.preventDefault();
    keepKey("admin", $("keys-admin").value.trim());
    keepKey("api", $("keys-api").value.trim());
    $("keys-admin").value = "";
    $("keys-api").value = "";
    $("keys").close();
    used();
  });
}
