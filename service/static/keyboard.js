// Keys: from image to image, and what can be done with one. The list of them is in the dialog that "?" opens.

import { root, toggleKeys } from "./asking.js";
import { go } from "./picture.js";

const tiles = () => [...document.querySelectorAll("#hits a.frame, .examples a.frame")];

function choose() {
  const input = document.querySelector("#file");
  if (!input) return location.assign(root);
  scrollTo({ top: 0 });
  input.focus();
}

// The image that a key moves to: the next in the row, or the one below or above.
function moved(key) {
  const all = tiles();
  const at = all.indexOf(document.activeElement?.closest?.("li")?.querySelector("a.frame"));
  if (at < 0) return all[0];
  if (key === "ArrowLeft") return all[at - 1];
  if (key === "ArrowRight") return all[at + 1];
  const top = all[0].getBoundingClientRect().top;
  const across = all.filter((one) => Math.abs(one.getBoundingClientRect().top - top) < 4).length;
  return all[key === "ArrowDown" ? Math.min(at + across, all.length - 1) : at - across];
}

function move(event) {
  const target = moved(event.key);
  if (!target) return;
  event.preventDefault();
  target.focus();
  target.scrollIntoView({ block: "nearest" });
}

function step(kind) {
  const place = document.querySelector("dialog.sheet[open]") ?? document.activeElement?.closest?.("li, .panel");
  (place ?? document.querySelector("main > .panel"))?.querySelector(`[data-step=${kind}]:not([hidden])`)?.click();
}

function toggle(selector) {
  const found = document.querySelector(selector);
  if (!found) return;
  found.click();
  if (found.matches("summary")) found.parentElement.querySelector("input:not([type=hidden])").focus();
}

const STEPS = { s: "similar", "+": "more", "-": "less" };

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (event.target.matches("input:not([type=checkbox], [type=file]), textarea, select")) return;
  const inSheet = Boolean(document.querySelector("dialog.sheet[open]"));
  if (event.key === "?") return toggleKeys();
  if (document.querySelector("dialog.keys[open]")) return undefined;
  if (STEPS[event.key]) return step(STEPS[event.key]);
  if (inSheet) {
    if (event.key === "ArrowLeft") go("before");
    if (event.key === "ArrowRight") go("next");
    return undefined;
  }
  if (event.key.startsWith("Arrow")) return move(event);
  if (event.key === "/") event.preventDefault();
  const own = { "/": choose, m: () => toggle("#seen"), f: () => toggle(".filters summary") }[event.key];
  if (own && event.key === "f") event.preventDefault();
  return own?.();
});

document.addEventListener("click", ({ target }) => {
  if (target.closest("[data-help]")) toggleKeys();
  const filters = document.querySelector(".filters[open]");
  if (filters && !filters.contains(target)) filters.open = false;
});

document.addEventListener("keydown", (event) => {
  const filters = document.querySelector(".filters[open]");
  if (event.key !== "Escape" || !filters) return;
  filters.open = false;
  filters.querySelector("summary").focus();
});
