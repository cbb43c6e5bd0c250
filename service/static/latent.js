// The page of the latent space: every slider requests the decoded image. At most one request is under way; of changes in
// the meantime, only the newest is requested next.

import { ask, askJson, complain, element, json, newest } from "./asking.js";
import { learning } from "./learning.js";
import { keeping, making } from "./making.js";

const form = document.querySelector(".latent");
const find = (selector) => document.querySelector(selector);
const sliders = () => [...form.querySelectorAll("input[type=range]")];
const ends = { a: {}, b: {} }; // each {image_id} or {vector}, with name and image
const NEAREST = 8;
const KEPT = 50;
const PAUSE = 700; // ms
const before = []; // states for undo
let made = null; // the response that is shown
let picking = "a";
let settled = null;
const maker = form && making(form, choose);
const tray = form && keeping(form, choose);
let speaking = 0; // timer of the screen reader message: it waits until the slider rests

const share = () => Number(form.elements.share.value);
const how = () => (form.elements.how.checked ? "spherical" : "linear");
const partOf = ({ image_id, vector }) => (vector ? { vector } : { image_id });

function moved(prefix) {
  const chosen = sliders().filter((one) => one.name.startsWith(prefix) && Number(one.value) !== 0);
  return Object.fromEntries(chosen.map((one) => [one.name.slice(prefix.length), Number(one.value)]));
}

function wanted() {
  const parts = [
    { ...partOf(ends.a), weight: 1 - share() },
    { ...partOf(ends.b), weight: share() },
  ];
  return { parts, how: how(), attributes: moved("attr."), dims: moved("dim."), nearest: NEAREST };
}

function tile({ image_id, thumbnail_url: src, distance, path }) {
  const picture = element("img", { src, alt: path.split("/").pop() });
  const link = element("a", { className: "frame", href: `${form.dataset.pictures}/${image_id}` }, picture);
  const text = distance < 0.001 ? "below 0.001" : String(Number(distance.toPrecision(3)));
  return element("li", {}, link, element("p", { className: "soft" }, text));
}

function show(place) {
  made = place;
  const picture = find("[data-made]");
  if (picture && place.picture) picture.src = place.picture;
  find("[data-near]").replaceChildren(...place.nearest.map(tile));
  clearTimeout(speaking);
  const nearest = place.nearest[0]?.path.split("/").pop() ?? "none";
  speaking = setTimeout(() => (find("[data-spoken]").textContent = `New image; nearest to it: ${nearest}`), PAUSE);
}

const refresh = newest(async () => {
  form.setAttribute("aria-busy", "true");
  const started = performance.now();
  try {
    show(await askJson(form.dataset.latents, json(wanted())));
    find("[data-said]").textContent = `decoded in ${Math.round(performance.now() - started)} ms`;
  } catch (error) {
    complain(error);
  }
  form.setAttribute("aria-busy", "false");
});

// The state in the address: without uploads and generated images, but with the seed of generated ones. without: a removed
// attribute.
function address(without) {
  const said = new URLSearchParams(maker.said());
  for (const key of ["a", "b"]) if (ends[key].image_id) said.set(key, ends[key].image_id);
  said.set("share", share());
  if (how() === "spherical") said.set("how", how());
  const pushed = sliders().filter((one) => one.name.includes(".") && Number(one.value) !== 0);
  for (const one of pushed) if (one.name !== `attr.${without}`) said.set(one.name, one.value);
  return `${location.pathname}?${said}`;
}

const state = () => ({ ends: { a: ends.a, b: ends.b }, how: how(), values: Object.fromEntries(sliders().map((one) => [one.name, one.value])) });

function keep() {
  const now = state();
  if (settled && JSON.stringify(settled) !== JSON.stringify(now)) {
    before.push(settled);
    if (before.length > KEPT) before.shift();
  }
  settled = now;
  find("[data-do=undo]").disabled = !before.length;
  find("[data-unshared]").hidden = !ends.a.vector && !ends.b.vector;
  history.replaceState(null, "", address());
}

function say(input) {
  const output = form.querySelector(`output[for="${CSS.escape(input.id)}"]`);
  const value = Number(input.value);
  output.textContent = input.id === "share" ? `${Math.round(100 * value)} %` : `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(1)}`;
}

function place(key, end) {
  ends[key] = end;
  const box = form.querySelector(`[data-end=${key}]`);
  for (const picture of box.querySelectorAll("img")) {
    picture.src = end.picture;
    picture.alt = `${key === "a" ? "From" : "To"}: ${end.name}`;
  }
  box.querySelector("[data-name]").textContent = end.name;
}

function restore({ ends: kept, how: way, values }) {
  place("a", kept.a);
  place("b", kept.b);
  form.elements.how.checked = way === "spherical";
  for (const one of sliders()) {
    one.value = values[one.name] ?? 0; // an attribute that was learned since
    say(one);
  }
}

function pick(key) {
  picking = key;
  for (const button of document.querySelectorAll("[data-pick]")) button.setAttribute("aria-pressed", String(button.dataset.pick === key));
}

// The content security policy allows data: URLs, but not blob: URLs.
function dataUrl(blob) {
  return new Promise((done) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => done(reader.result));
    reader.readAsDataURL(blob);
  });
}

async function upload(input) {
  const [file] = input.files;
  if (!file) return;
  const body = new FormData();
  body.append("file", file);
  const found = await askJson(form.dataset.latents, { method: "POST", body });
  place(input.dataset.upload, { vector: found.mu, name: found.name, picture: await dataUrl(file) });
  changed();
}

// The end that is shown now, and what follows from it.
function changed() {
  keep();
  refresh();
}

function choose(end) {
  place(picking, end);
  changed();
}

const download = (href, name) => element("a", { href, download: name }).click();

async function loop() {
  const wish = json({ parts: [partOf(ends.a), partOf(ends.b)], steps: 24, how: how() });
  wish.headers.Accept = "image/gif";
  download(await dataUrl(await (await ask(form.dataset.morphs, wish)).blob()), "morph.gif");
}

async function search() {
  const { mu } = await askJson(form.dataset.latents, json({ ...wanted(), nearest: 0, picture: false }));
  const { hits } = await askJson(form.dataset.search, json({ vector: mu, limit: 48 }));
  const section = find("[data-found]");
  section.querySelector("ol").replaceChildren(...hits.map(tile));
  section.hidden = false;
  section.querySelector("h2").focus();
}

const doing = {
  swap() {
    const { a, b } = ends;
    place("a", b);
    place("b", a);
    form.elements.share.value = 1 - share();
    say(form.elements.share);
    changed();
  },
  undo() {
    if (!before.length) return;
    settled = null;
    restore(before.pop());
    changed();
  },
  reset() {
    for (const one of sliders()) {
      one.value = one.id === "share" ? 0.5 : 0;
      say(one);
    }
    changed();
  },
  save: () => made?.picture && download(made.picture, "latent.png"),
  keep: () => made?.picture && tray.keep(made),
  loop,
  search,
  async generate() {
    await maker.generate();
    keep();
  },
};

// After an attribute was learned or removed: take the sliders of the current page.
function relearned(page) {
  form.querySelector("[data-attributes]").replaceWith(page.querySelector("[data-attributes]"));
  settled = state(); // not an undo step
  changed();
}

function start() {
  for (const key of ["a", "b"]) {
    const box = form.querySelector(`[data-end=${key}]`);
    const name = box.querySelector("[data-name]").textContent;
    ends[key] = { image_id: Number(form.elements[key].value), name, picture: box.querySelector("img").src };
    form.elements[key].disabled = true; // the script writes the address
  }
  const asked = new URLSearchParams(location.search);
  pick("a");
  changed();
  if (asked.has("seed")) maker.again(asked).then(keep);
  learning(address, relearned);
  form.addEventListener("input", ({ target }) => {
    if (target.type === "range") say(target);
    if (target.type !== "file") refresh();
  });
  form.addEventListener("change", ({ target }) => (target.dataset.upload ? upload(target).catch(complain).then(() => (target.value = "")) : keep()));
  form.addEventListener("submit", (event) => event.preventDefault());
  document.addEventListener("click", ({ target }) => {
    const button = target.closest("[data-do], [data-pick], [data-choose]");
    if (!button) return;
    const { do: what, pick: key, choose: id, called } = button.dataset;
    if (what) Promise.resolve(doing[what]()).catch(complain);
    else if (key) pick(key);
    else choose({ image_id: Number(id), name: called, picture: button.querySelector("img").src });
  });
  document.addEventListener("keydown", ({ key, target, ctrlKey, metaKey, altKey }) => {
    if (ctrlKey || metaKey || altKey || target.matches("input:not([type=range]), select, textarea")) return;
    if (key === "x") doing.swap();
    if (key === "u") doing.undo();
    if (key === "k") doing.keep();
  });
}

if (form) start();
