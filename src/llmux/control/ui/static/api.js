// The admin API and the models' API, as this page asks them. Keys are kept in this tab's session storage and nowhere else.

/** Relative to this page, so that llmux may be reached under any path. */
const ROOT = new URL("../", document.baseURI);
const KEYS = { admin: "llmux.key.admin", api: "llmux.key.api" };
const SILENCE_MS = 45_000; // the server says something every 15 seconds

export function storedKey(kind) {
  return sessionStorage.getItem(KEYS[kind]) ?? "";
}

export function keepKey(kind, value) {
  if (value) sessionStorage.setItem(KEYS[kind], value);
  else sessionStorage.removeItem(KEYS[kind]);
}

const authorization = (kind) => (storedKey(kind) ? { Authorization: `Bearer ${storedKey(kind)}` } : {});

/** The server said no. `status` is HTTP's. */
export class Refusal extends Error {
  constructor(status, message, code) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

async function refusal(response) {
  let error = null;
  try {
    error = (await response.json()).error;
  } catch {
    // Not ours: a proxy's page, perhaps.
  }
  const message = typeof error?.message === "string" ? error.message : `HTTP status ${response.status}`;
  return new Refusal(response.status, message, error?.code ?? "");
}

const url = (path) => new URL(path, ROOT);

/** GET or POST on the admin API; `path` as its description has it, with `/admin/v1`. Throws `Refusal`, or TypeError. */
export async function ask(method, path, signal) {
  const response = await fetch(url(`.${path}`), {
    method, signal, headers: authorization("admin"), cache: "no-store", redirect: "error",
  });
  if (!response.ok) throw await refusal(response);
  return response.json();
}

/** The events of a stream: yields `{event, data, comment}`. Throws if the connection breaks or is silent for too long. */
export async function* events(response, silenceMs = Infinity) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let event = "";
  let data = [];
  try {
    for (;;) {
      const { value, done } = await within(reader.read(), silenceMs);
      if (done) return;
      const lines = (rest + value).split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        if (line === "") {
          if (data.length) yield { event: event || "message", data: data.join("\n"), comment: null };
          event = "";
          data = [];
        } else if (line.startsWith(":")) {
          yield { event: null, data: null, comment: line.slice(1).trim() };
        } else {
          const [, name, text] = /^([^:]*):? ?(.*)$/s.exec(line);
          if (name === "event") event = text;
          else if (name === "data") data.push(text);
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

async function within(promise, ms) {
  if (ms === Infinity) return promise;
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new TypeError("nothing was heard for too long")), ms);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** What happens on the server, until the connection ends. */
export async function* follow(signal) {
  await knock("admin", signal);
  const response = await fetch(url("./admin/v1/events"), { signal, headers: authorization("admin"), cache: "no-store" });
  if (!response.ok) throw await refusal(response);
  yield* events(response, SILENCE_MS);
}

/**
 * Throws the `Refusal` that asking for `kind` ("admin" or "api") without a key would get, without getting it: the
 * browser writes every one into its console, as if something were wrong. Only the server knows a key's worth, so with
 * one there is nothing to be learned here.
 */
async function knock(kind, signal) {
  if (storedKey(kind)) return;
  const response = await fetch(url("./ui/doors"), { signal, cache: "no-store" });
  if (!response.ok) throw await refusal(response);
  const closed = (await response.json())[kind];
  if (closed) throw new Refusal(closed.status, closed.message, closed.code);
}

/** The models that clients are offered. */
export async function offeredModels() {
  await knock("api");
  const response = await fetch(url("./v1/models"), { headers: authorization("api"), cache: "no-store" });
  if (!response.ok) throw await refusal(response);
  return (await response.json()).data.map((model) => model.id);
}

/** A streamed chat: the response, of which `events` gives the pieces. */
export async function chat(body, signal) {
  const response = await fetch(url("./v1/chat/completions"), {
    method: "POST", signal, body: JSON.stringify({ ...body, stream: true }), cache: "no-store",
    headers: { "Content-Type": "application/json", ...authorization("api") },
  });
  if (!response.ok) throw await refusal(response);
  return response;
}
