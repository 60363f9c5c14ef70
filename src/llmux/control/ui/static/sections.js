// The links to the sections: the one that is read is marked.

const links = new Map([...document.querySelectorAll(".sections a")].map((link) => [link.hash.slice(1), link]));
const seen = new Set();

export function startSections() {
  // The upper part of the window: what is there is what is read.
  const observer = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) seen.add(target.id);
      else seen.delete(target.id);
    }
    const read = [...links.keys()].find((id) => seen.has(id));
    for (const [id, link] of links) {
      if (id !== read) link.removeAttribute("aria-current");
      else if (!link.hasAttribute("aria-current")) link.setAttribute("aria-current", "true");
    }
  }, { rootMargin: "-20% 0px -60% 0px" });
  for (const id of links.keys()) observer.observe(document.getElementById(id));
}
