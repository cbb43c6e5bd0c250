// An image opens in a sheet over the images it was found among. Its address is in the page's own, so that it can be
// shared, and so that back closes it.

import { ask, askJson, askPage, complain, element, json, localTimes, newest, root } from "./asking.js";

const sheet = () => document.querySelector("dialog.sheet");
const isOpen = () => Boolean(sheet()?.open);
const links = () => [...document.querySelectorAll("#hits a[data-picture]")];
const pictureIn = (state) => state?.picture ?? (location.hash.match(/^#picture-(\d+)$/)?.[1] || null);
let asked = 0; // a newer image ends the wait for an older one

function handle(id) {
  const order = links().map((link) => link.dataset.picture);
  const at = order.indexOf(String(id));
  const bar = element("div", { className: "handle" });
  const add = (text, label, key, target) => {
    const button = element("button", { type: "button", title: label, ariaLabel: label, disabled: target === undefined }, text);
    Object.assign(button.dataset, { go: key, to: target ?? "" });
    bar.append(button);
  };
  if (at >= 0) {
    add("‹", "Image before (←)", "before", order[at - 1]);
    add("›", "Next image (→)", "next", order[at + 1]);
  }
  add("×", "Close (Esc)", "close", "");
  return bar;
}

async function load(id) {
  const mine = ++asked;
  const search = document.querySelector("[data-search]")?.dataset.search ?? "";
  try {
    const page = await askPage(`${root}pictures/${id}${search.includes("?") ? search.slice(search.indexOf("?")) : ""}`);
    const article = page.querySelector(".panel");
    if (mine !== asked) return;
    const less = article.querySelector("[data-step=less]");
    if (less && document.querySelector("[data-uploads]")) less.hidden = false; // uploads are there to be like
    sheet().replaceChildren(handle(id), article);
    sheet().setAttribute("aria-labelledby", "picture-heading");
    if (!isOpen()) sheet().showModal();
    sheet().scrollTop = 0;
    between(article);
    localTimes(article);
    article.querySelector("h1").focus({ preventScroll: true });
  } catch (error) {
    if (mine !== asked) return;
    close();
    complain(error);
  }
}

export function open(id, { replace = false } = {}) {
  const { page: _page, ...state } = history.state ?? {};
  const depth = replace ? state.depth ?? 0 : (state.depth ?? 0) + 1;
  history[replace ? "replaceState" : "pushState"]({ ...state, picture: String(id), depth }, "", `#picture-${id}`);
  return load(id);
}

// Back to where the first of the images was opened; one that was there from the start just goes.
function close() {
  asked += 1;
  const { depth = 0, picture, ...state } = history.state ?? {};
  const last = picture ?? pictureIn(null);
  if (isOpen()) sheet().close();
  if (depth > 0) history.go(-depth);
  else if (location.hash) history.replaceState(state, "", location.pathname + location.search);
  links().find((link) => link.dataset.picture === last)?.focus();
}

// A slider: decoded images between the query and this image.
function between(article) {
  const section = article.querySelector(".between");
  const mu = document.querySelector("[data-mu]")?.dataset.mu;
  if (!section || !mu || mu === "[]") return;
  const [slider, picture, said] = ["input", "img", ".minor"].map((one) => section.querySelector(one));
  const [search, image] = [{ vector: JSON.parse(mu) }, { image_id: Number(article.dataset.image) }];

  const refresh = newest(async () => {
    const share = Number(slider.value);
    const parts = [{ ...image, weight: share }, { ...search, weight: 1 - share }]; // the first one gives the size
    try {
      picture.src = (await askJson(`${root}v1/latents`, json({ parts }))).picture;
      said.textContent = `${Math.round(100 * share)} % of the way to this image`;
      section.hidden = false;
    } catch (error) {
      said.textContent = error.message;
    }
  });

  slider.addEventListener("input", refresh);
  refresh();
}

function follow(state) {
  const id = pictureIn(state);
  if (id && sheet()) load(id);
  else if (isOpen()) {
    asked += 1;
    sheet().close();
  }
}

export function go(direction) {
  sheet()?.querySelector(`[data-go=${direction}]:not(:disabled)`)?.click();
}

function notesOf(text) {
  const notes = {};
  for (const line of text.split("\n").map((one) => one.trim()).filter(Boolean)) {
    const at = line.indexOf(":");
    if (at < 1) throw new Error(`“${line}” has no name. Write a name, a colon and a value.`);
    const [name, value] = [line.slice(0, at).trim(), line.slice(at + 1).trim()];
    notes[name] = value === "" ? null : String(Number(value)) === value ? Number(value) : value;
  }
  return notes;
}

async function save(form) {
  const said = form.querySelector(".said");
  try {
    const metadata = notesOf(form.elements.notes.value);
    await ask(form.dataset.metadata, json({ metadata }, "PUT"));
    const id = form.closest("[data-image]").dataset.image;
    const fresh = (await askPage(`${root}pictures/${id}`)).querySelector(".metadata");
    fresh.querySelector("h2").append(element("span", { className: "soft" }, " saved"));
    form.closest(".metadata").replaceWith(fresh);
    fresh.querySelector("summary").focus();
  } catch (error) {
    said.textContent = error.message;
  }
}

async function forget(button) {
  const { image } = button.closest("[data-image]").dataset;
  button.disabled = true;
  try {
    await ask(button.dataset.delete, { method: "DELETE" });
    if (!isOpen()) return location.assign(`${root}collection`);
    const after = links().findIndex((link) => link.dataset.picture === image);
    close();
    links()[after]?.closest("li").remove();
    (links()[after] ?? links().at(-1))?.focus();
  } catch (error) {
    button.disabled = false;
    button.parentElement.querySelector(".said").textContent = error.message;
  }
}

document.addEventListener("click", (event) => {
  if (event.ctrlKey || event.metaKey || event.shiftKey) return;
  const { target } = event;
  const doing = target.closest("[data-delete]");
  if (doing) return forget(doing);
  const button = target.closest("[data-go]");
  if (button?.dataset.go === "close" || target === sheet()) return close();
  if (button) return open(button.dataset.to, { replace: true });
  const link = target.closest("a[data-picture]");
  if (!link || !sheet() || document.querySelector("main > .panel")) return;
  event.preventDefault();
  open(link.dataset.picture);
});

document.addEventListener("submit", (event) => {
  if (!event.target.matches("[data-metadata]")) return;
  event.preventDefault();
  save(event.target);
});

document.addEventListener(
  "cancel",
  (event) => {
    if (event.target !== sheet()) return;
    event.preventDefault();
    close();
  },
  true,
);

addEventListener("popstate", ({ state }) => follow(state));
if (pictureIn(history.state) && sheet()) load(pictureIn(history.state));
localTimes(document);
