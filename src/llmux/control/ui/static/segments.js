// From changes of state to what is drawn: lanes of segments for every device. Knows nothing of pixels.

/** The states that hold memory, or may; `asleep` is an empty lane. */
export const DRAWN = ["awake", "draining", "sleeping", "waking", "unconfirmed", "lost"];

/**
 * Lanes of every device between two Unix times: `[{device, lanes: [{model, since, segments: [{state, from, to, cause, open}]}]}]`.
 * A model has a lane on each device that it held memory on, and where all devices are one, every model that did has one
 * there. Nothing is known of a model before `since`. `open` segments last until now. `holding` says where a model holds
 * memory now, for what it has done since before llmux had a say in it.
 */
export function lanes(devices, models, states, holding, from, to) {
  const only = devices.length === 1 ? [devices[0].name] : null;
  const found = new Map(devices.map((device) => [device.name, []]));
  for (const model of models) {
    const mine = new Map();
    const changes = states.get(model) ?? [];
    for (let i = firstAfter(changes, from); i < changes.length && changes[i].at < to; i += 1) {
      const { at, state, cause, devices: told } = changes[i];
      if (!DRAWN.includes(state)) continue;
      const next = changes[i + 1];
      const on = told.length ? told : (next ? next.devices : holding.get(model)) ?? [];
      const segment = { state, from: at, to: next ? next.at : to, cause, open: !next };
      for (const device of only ?? on) {
        if (!mine.has(device)) mine.set(device, []);
        mine.get(device).push(segment);
      }
    }
    for (const [device, segments] of mine) found.get(device)?.push({ model, since: changes[0].at, segments });
  }
  return devices.map((device) => ({ device, lanes: found.get(device.name) }));
}

/** The index of the last change before `unix`, or of the first one at all. */
function firstAfter(changes, unix) {
  let low = 0;
  let high = changes.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (changes[middle].at <= unix) low = middle + 1;
    else high = middle;
  }
  return Math.max(0, low - 1);
}

const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400];

/** Round times between two Unix times, at most about `most` of them, aligned to the local clock. */
export function ticks(from, to, most) {
  const step = STEPS.find((one) => (to - from) / one <= most) ?? 86400;
  const shift = new Date(to * 1000).getTimezoneOffset() * 60;
  const found = [];
  for (let at = Math.ceil((from - shift) / step) * step + shift; at <= to; at += step) found.push(at);
  return { step, found };
}
