// Looking around in the timeline with a mouse or fingers: drag, Ctrl and the wheel, two fingers. Keys are the timeline's.

const STILL = 3; // pixels that a finger may move and still only point
const WHEEL = 0.01;
const NOTCH = 30; // what a wheel's step counts at most: some browsers say 120, some 3
const EDGE = 0.97; // right of this, who watches now goes on to

/**
 * `view` has: `share(clientX)`, where that is between the left end (0) and the right one (1); `seen()`, what is, as [from,
 * to]; `live()`, whether `to` is now; `place(at, share, span)`, which shows `span` seconds with `at` at that share of the
 * width; `point(event)` and `leave()`, for a pointer that only looks.
 */
export function startGestures(canvas, view) {
  const fingers = new Map(); // pointers that are down: id -> {x, y}
  let start = null; // how it was when the last one came or went

  const middle = () => {
    const [one, other = one] = fingers.values();
    return { x: (one.x + other.x) / 2, apart: Math.max(10, Math.hypot(one.x - other.x, one.y - other.y)) };
  };
  const begin = () => {
    const [from, to] = view.seen();
    start = fingers.size ? { ...middle(), from, span: to - from, count: fingers.size, moved: fingers.size > 1 } : null;
  };
  const end = (event) => {
    if (fingers.delete(event.pointerId)) begin();
  };

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button || fingers.size > 1) return;
    fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    canvas.setPointerCapture(event.pointerId);
    begin();
    view.point(event);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!fingers.has(event.pointerId)) {
      if (!fingers.size) view.point(event);
      return;
    }
    fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    const now = middle();
    start.moved ||= Math.abs(now.x - start.x) > STILL;
    if (!start.moved) return;
    view.leave();
    const at = start.from + view.share(start.x) * start.span;
    view.place(at, view.share(now.x), start.count > 1 ? (start.span * start.apart) / now.apart : start.span);
  });
  canvas.addEventListener("pointerup", end);
  canvas.addEventListener("pointercancel", end);
  canvas.addEventListener("pointerleave", (event) => {
    if (event.pointerType !== "touch") view.leave(); // a finger leaves at once, and what it pointed at should be read
  });
  // One finger scrolls the page up and down; two must not, nor zoom the page.
  canvas.addEventListener("touchmove", (event) => event.touches.length > 1 && event.cancelable && event.preventDefault(), { passive: false });
  canvas.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return; // the page scrolls
    event.preventDefault();
    const [from, to] = view.seen();
    const pointed = Math.min(1, Math.max(0, view.share(event.clientX)));
    const share = view.live() && pointed > EDGE ? 1 : pointed;
    const turned = Math.min(NOTCH, Math.max(-NOTCH, event.deltaY));
    view.place(from + share * (to - from), share, (to - from) * Math.exp(turned * WHEEL));
    view.point(event);
  }, { passive: false });
}
