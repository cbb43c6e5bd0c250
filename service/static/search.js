// Drop, paste and choose search without loading the page anew, and what is asked next keeps the images.

import { ask, askJson, askPage, complain, element, onDrop, parsed, root } from "./asking.js";

const html = document.documentElement;
const pages = new Map(); // by search: the page that answered; 0 is the one that was loaded
const files = new Map(); // by search: the images that were sent, as long as this page is open
const loaded = location.pathname + location.search;
let running = null; // the search under way: a newer one ends it
let shown = 0;

const form = () => document.querySelector(".search");
const searched = () => document.querySelector("[data-search]");
const hasUploads = () => Number(searched()?.dataset.uploads ?? 0) > 0;

function say(status) {
  document.querySelector("main").setAttribute("aria-busy", String(Boolean(status)));
  const place = document.querySelector(".search .status");
  if (place) place.textContent = status;
}

function show(page, search) {
  const fresh = parsed(page);
  document.querySelector("main").replaceWith(fresh.querySelector("main"));
  const [old, now] = [document.querySelector("footer"), fresh.querySelector("footer")];
  if (old && now) old.replaceWith(now);
  document.title = fresh.title;
  shown = search;
}

function ofSearch(address, chosen) {
  const body = new FormData();
  for (const file of chosen) body.append("file", file, file.name || "pasted image");
  for (const [name, value] of new URL(address, location).searchParams) body.append(name, value);
  return { method: "POST", body };
}

// The answer to the images and to what the address says: as a page, or null if a newer search came between.
async function answered(address, chosen) {
  running?.abort();
  const mine = (running = new AbortController());
  say("Searching…");
  try {
    const response = await ask(root, { ...ofSearch(address, chosen), signal: mine.signal });
    return await response.text();
  } catch (error) {
    if (mine.signal.aborted) return null;
    say("");
    complain(error);
    return null;
  }
}

async function search(address, chosen) {
  const page = await answered(address, chosen);
  if (page === null) return;
  const number = Date.now();
  if (!pages.size) pages.set(0, html.outerHTML);
  pages.set(number, page);
  files.set(number, chosen);
  history.pushState({ search: number, page }, "", root);
  document.querySelector("dialog[open]")?.remove();
  show(page, number);
  scrollTo({ top: 0 });
  document.querySelector("#query-heading")?.focus({ preventScroll: true });
}

// A new search: other images, the same filters.
function searchFor(chosen) {
  if (!form() || !chosen.length) return; // nothing is indexed, and the page says so
  const { maxBytes, maxFiles } = form().dataset;
  const large = chosen.find((file) => file.size > Number(maxBytes));
  if (large) return complain({ message: `${large.name} is larger than the ${Number(maxBytes).toLocaleString("en")} bytes allowed here.` });
  if (chosen.length > Number(maxFiles)) return complain({ message: `A search takes at most ${maxFiles} images.` });
  const address = new URL(searched()?.dataset.search ?? root, location);
  for (const name of ["image_id", "positive_id", "negative_id", "limit"]) address.searchParams.delete(name);
  search(address, chosen);
}

// The same images, asked anew: uploads have to be sent again, for the server keeps nothing of them.
function refine(link) {
  const chosen = files.get(shown) ?? [];
  if (chosen.length < Number(searched().dataset.uploads)) {
    return complain({ message: "The image you searched with is not kept. Choose it again, and go on from there." });
  }
  const rest = chosen.filter((_, at) => at !== Number(link.dataset?.forget ?? -1));
  if (!rest.length) return location.assign(link.href);
  return search(link.href, rest);
}

// More of the same stays on the page: the reader stays where they are.
async function extend(link) {
  const list = document.getElementById(link.dataset.extends);
  const before = list.children.length;
  link.setAttribute("aria-busy", "true");
  try {
    const uploaded = hasUploads() ? (files.get(shown) ?? []) : [];
    if (hasUploads() && !uploaded.length) throw new Error("The image you searched with is not kept. Choose it again.");
    const options = uploaded.length ? ofSearch(link.href, uploaded) : {};
    const fresh = await askPage(uploaded.length ? root : link.href, options);
    const came = [...fresh.getElementById(list.id).children];
    if ("appends" in link.dataset) list.append(...came);
    else list.replaceChildren(...came);
    if (!("appends" in link.dataset) && !uploaded.length) history.replaceState(history.state, "", link.href.split("#")[0]);
    const more = fresh.querySelector(".more");
    if (more) link.parentElement.replaceWith(more);
    else link.parentElement.remove();
    list.children[before]?.querySelector("a").focus();
  } catch (error) {
    link.removeAttribute("aria-busy");
    complain(error);
  }
}

document.addEventListener("change", ({ target }) => {
  if (target.id === "file" || target.id === "camera") searchFor([...target.files]);
});

document.addEventListener("submit", (event) => {
  const sent = event.target;
  if (sent.matches(".search")) {
    event.preventDefault();
    searchFor([...sent.elements.file.files]);
  } else if (sent.matches(".narrow, .words")) {
    event.preventDefault();
    const said = [...new FormData(sent)].filter(([, value]) => value !== "");
    const href = new URL(`${sent.getAttribute("action")}?${new URLSearchParams(said)}`, location).href;
    if (hasUploads()) refine({ href });
    else location.assign(href);
  }
});

// The words that are known here, as suggestions for the last ones in the box; they are loaded once it is used.
let vocabulary = null;

async function suggest(box) {
  vocabulary ??= askJson(`${root}v1/words?limit=1000`).then(({ words }) => words.map(({ word }) => word)).catch(() => []);
  const known = await vocabulary;
  const [, before, last] = /^(.*?)([^\s"+-]*)$/s.exec(box.value);
  const matches = last ? known.filter((word) => word.split(" ").some((part) => part.startsWith(last.toLowerCase()))) : before ? [] : known;
  const options = matches.slice(0, 12).map((word) => element("option", { value: before + word }));
  document.getElementById("known-words").replaceChildren(...options);
}

for (const kind of ["focusin", "input"]) {
  document.addEventListener(kind, ({ target }) => {
    if (target.id === "text") suggest(target);
  });
}

document.addEventListener("click", (event) => {
  if (event.ctrlKey || event.metaKey || event.shiftKey) return;
  const link = event.target.closest("a[data-extends], a[data-refines]");
  if (!link) return;
  if (link.dataset.extends) {
    event.preventDefault();
    extend(link);
  } else if (hasUploads()) {
    event.preventDefault();
    refine(link);
  }
});

// A box that was drawn on the query image: the same search by this part of it.
document.addEventListener("box", ({ detail }) => {
  const address = new URL(searched().dataset.search, location);
  address.searchParams.set("box", detail);
  if (hasUploads()) refine(address);
  else location.assign(address);
});

onDrop(form, searchFor);

document.addEventListener("paste", (event) => {
  const pasted = [...(event.clipboardData?.files ?? [])];
  if (!pasted.length || !form()) return;
  event.preventDefault();
  searchFor(pasted);
});

// Answers to uploads live in the history itself: there is no address to ask for them again.
addEventListener("popstate", ({ state }) => {
  const wanted = state?.search ?? 0;
  if (wanted === shown) return;
  const page = pages.get(wanted) ?? state?.page;
  const isAddressed = wanted !== 0 || location.pathname + location.search === loaded;
  if (page && isAddressed) show(page, wanted);
  else location.reload();
});
if (history.state?.page) show(history.state.page, history.state.search);
