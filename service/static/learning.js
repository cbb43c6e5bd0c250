// Learns an attribute from images that a person marks: with it, and without it.

import { ask, askJson, askPage, imageButton, json } from "./asking.js";

const AT_ONCE = 48;
const RUN = 4; // consecutive images, which are often similar: only a few from each place
const FEWEST = 10;
const MOST_ASKED = 32;
const MOST_HITS = 1000;
const SIDES = { with: "with it", without: "without it" };

const box = document.querySelector(".learn");
const find = (selector) => box.querySelector(selector);
const marked = new Map(); // by id: the side, and the image
let brush = "with";

const name = () => find("[name=attribute]").value.trim().toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "");
const idsOf = (side) => [...marked].filter(([, one]) => one.side === side).map(([id]) => id);
const called = ({ path, metadata }) => metadata?.name || path.split("/").pop();

function say(text, alarm = false) {
  const said = find("[data-learned]");
  said.textContent = text;
  said.classList.toggle("alarm", alarm);
}

const tile = (image, title, act) => imageButton({ src: image.thumbnail_url, alt: called(image), loading: "lazy" }, title, act);

function candidate(image) {
  const item = tile(image, called(image), () => mark(image, marked.get(image.image_id)?.side === brush ? null : brush));
  Object.assign(item.firstElementChild, { image }).dataset.mark = image.image_id;
  return item;
}

function mark(image, side) {
  if (side) marked.set(image.image_id, { side, image });
  else marked.delete(image.image_id);
  show();
}

function show() {
  for (const button of box.querySelectorAll("[data-mark]")) {
    const side = marked.get(Number(button.dataset.mark))?.side ?? "";
    button.dataset.side = side;
    button.setAttribute("aria-pressed", String(Boolean(side)));
    const { alt } = button.firstElementChild;
    button.setAttribute("aria-label", side ? `${alt}: ${SIDES[side]}` : alt);
  }
  for (const side of Object.keys(SIDES)) {
    const chosen = idsOf(side);
    find(`[data-count=${side}]`).textContent = chosen.length < FEWEST ? `${chosen.length} of at least ${FEWEST}` : chosen.length;
    find(`[data-marked=${side}]`).replaceChildren(...chosen.map((id) => chip(marked.get(id).image)));
  }
  const missing = Object.keys(SIDES).some((side) => idsOf(side).length < FEWEST);
  find("[data-learn]").disabled = missing || !name();
  find("[data-show=alike]").disabled = !idsOf("with").length;
}

function chip(image) {
  return tile(image, `Unmark ${called(image)}`, () => {
    mark(image, null);
    (find("[data-marked] button") ?? find("[data-brush]")).focus();
  });
}

// From the whole collection: a few at a random place in each of its sections.
async function others() {
  const images = async (query) => (await askJson(`${box.dataset.images}?${query}`)).images;
  const total = Number(box.dataset.total);
  if (total <= AT_ONCE) return images(`limit=${AT_ONCE}`);
  const stretch = total / (AT_ONCE / RUN);
  const places = Array.from({ length: AT_ONCE / RUN }, (_, at) => Math.floor(at * stretch + Math.random() * (stretch - RUN)));
  return (await Promise.all(places.map((at) => images(`limit=${RUN}&offset=${at}`)))).flat();
}

async function alike() {
  const wish = { positive: idsOf("with").slice(-MOST_ASKED), limit: Math.min(AT_ONCE + marked.size, MOST_HITS), include: ["metadata"] };
  const { hits } = await askJson(box.dataset.search, json(wish));
  return hits.filter((hit) => !marked.has(hit.image_id)).slice(0, AT_ONCE);
}

async function list(look) {
  const shown = find("[data-candidates]");
  shown.setAttribute("aria-busy", "true");
  try {
    shown.replaceChildren(...(await look()).map(candidate));
    show();
  } catch (error) {
    say(error.message, true);
  }
  shown.removeAttribute("aria-busy");
}

function rest() {
  for (const { image } of box.querySelectorAll("[data-mark]")) {
    if (!marked.has(image.image_id)) marked.set(image.image_id, { side: "without", image });
  }
  show();
}

const score = (made, which) => `${made.auc[which].toFixed(2)} ± ${made.spread[which].toFixed(2)}`;

async function learn(added) {
  find("[data-learn]").disabled = true;
  say("learning …");
  try {
    const wish = { name: name(), positive: idsOf("with"), negative: idsOf("without") };
    const made = await askJson(box.dataset.attributesUrl, json(wish));
    const along = made.drags.filter((one) => Math.abs(one.change) >= 0.25).map((one) => `${one.name} by ${one.change.toFixed(1)}`);
    const moves = along.length ? ` A step also moves ${along.join(", ")}.` : "";
    const from = `from ${made.positives} with it and ${made.negatives} without`;
    const auc = `AUC ${score(made, "whitened")} (ranking), ${score(made, "raw")} (slider)`;
    say(`${made.name} was learned ${from}. On held-out images: ${auc}; 0.5 is chance, 1 is perfect.${moves}`);
    await added();
  } catch (error) {
    say(error.message, true);
  }
  show();
}

async function forget(button, removed) {
  const { forget: gone } = button.dataset;
  if (!("sure" in button.dataset)) {
    button.dataset.sure = "";
    button.textContent = `Remove ${gone}? Press again`;
    return;
  }
  try {
    await ask(`${box.dataset.attributesUrl}/${gone}`, { method: "DELETE" });
    say(`${gone} was removed.`);
    await removed(gone);
  } catch (error) {
    say(error.message, true);
  }
}

// address: returns the address of this page without an attribute. changed: called with the current page after an
// attribute was learned or removed.
export function learning(address, changed) {
  if (!box) return;
  const renew = async (without) => {
    const fresh = await askPage(address(without));
    find("[data-known]").replaceWith(fresh.querySelector("[data-known]"));
    changed(fresh);
  };
  box.addEventListener("toggle", () => box.open && !find("[data-candidates] li") && list(others), true);
  box.addEventListener("input", show);
  box.addEventListener("submit", (event) => {
    event.preventDefault();
    learn(renew);
  });
  document.addEventListener("click", ({ target }) => {
    if (target.closest("a[href='#learn']")) box.open = true;
  });
  box.addEventListener("click", ({ target }) => {
    const button = target.closest("button");
    if (!button) return;
    const { brush: side, show: what } = button.dataset;
    if (side) {
      brush = side;
      for (const one of box.querySelectorAll("[data-brush]")) one.setAttribute("aria-pressed", String(one.dataset.brush === side));
    } else if (what) list(what === "alike" ? alike : others);
    else if ("rest" in button.dataset) rest();
    else if ("forget" in button.dataset) forget(button, renew);
  });
  show();
}
