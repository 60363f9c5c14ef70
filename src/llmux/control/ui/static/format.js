// Numbers and times as people read them.

const DASH = "\u2013";

/** A duration: 0.3 s, 12 s, 3 min 20 s, 2 h 5 min. */
export function duration(secs) {
  if (secs === null || secs === undefined || !Number.isFinite(secs)) return DASH;
  const value = Math.max(0, secs);
  if (value < 9.95) return `${value.toFixed(1)} s`;
  const whole = Math.round(value);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  const minutes = Math.round(whole / 60);
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** An age that ticks: whole seconds. */
export function age(secs) {
  if (secs === null || secs === undefined) return DASH;
  return duration(secs < 59.5 ? Math.floor(Math.max(0, secs)) : secs).replace(".0 s", " s");
}

const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const SHORT = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });

export const clock = (unix) => CLOCK.format(unix * 1000);
export const shortClock = (unix) => SHORT.format(unix * 1000);

export function when(unix) {
  return new Date(unix * 1000).toLocaleString();
}

export function rate(perSecond) {
  if (!(perSecond > 0)) return DASH;
  if (perSecond >= 0.995) return `${perSecond.toFixed(1)}/s`;
  if (perSecond * 60 >= 0.95) return `${(perSecond * 60).toFixed(1)}/min`;
  return `${(perSecond * 3600).toFixed(1)}/h`;
}

/**
 * What is held of a device, and what is promised of it to models that wait for others to go: bytes, or models on the one
 * device of a configuration without devices. `called` gives the name of a model.
 */
export function usage(device, called = String) {
  const { used, capacity, promised = 0, promised_to: to = [] } = device;
  if (used > capacity) return "changing hands"; // those who go and those who come both claim it
  const size = capacity < 1024 ? String : bytes;
  const whom = to.length ? ` to ${to.map(called).join(", ")}` : "";
  return `${size(used)} of ${size(capacity)} held${promised ? `, ${size(promised)} promised${whom}` : ""}`;
}

export function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let value = count;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${value >= 100 || Number.isInteger(value) ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

export const many = (count, one, more = `${one}s`) => `${count} ${count === 1 ? one : more}`;
