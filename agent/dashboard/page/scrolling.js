// Boxes that scroll can be reached with the keyboard, and are named for screen readers, while they overflow.
const BOXES = ".scroll, .headlines, .activity";
const PAUSE = 400; // ms between two looks

let isWaiting = false;

function nameOf(box) {
  const heading = box.closest("section, [role=tabpanel], main, dialog")?.querySelector("h1, h2, h3");
  return heading?.textContent || "Table";
}

function look() {
  isWaiting = false;
  for (const box of document.querySelectorAll(BOXES)) {
    if (!box.clientWidth) continue; // hidden
    const overflows = box.scrollWidth > box.clientWidth || box.scrollHeight > box.clientHeight;
    if (!overflows && box.dataset.scrolls) {
      for (const name of ["tabindex", "aria-label", "data-scrolls"]) box.removeAttribute(name);
      if (box.tagName === "DIV") box.removeAttribute("role");
    } else if (overflows && !box.hasAttribute("tabindex")) {
      box.dataset.scrolls = "yes";
      box.tabIndex = 0;
      box.setAttribute("aria-label", nameOf(box));
      if (box.tagName === "DIV") box.setAttribute("role", "group");
    }
  }
}

function later() {
  if (isWaiting) return;
  isWaiting = true;
  setTimeout(look, PAUSE);
}

export function watchScrolling() {
  new MutationObserver(later).observe(document.body, { childList: true, subtree: true, attributeFilter: ["hidden", "open"] });
  window.addEventListener("resize", later);
  later();
}
