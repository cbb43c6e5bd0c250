// Generated images: twelve from a seed, and the images that a person keeps while the tab is open.

import { askJson, element, imageButton, json } from "./asking.js";

const find = (selector) => document.querySelector(selector);
const MOST_KEPT = 48;
const SEEDS = 2 ** 32;
const CONTINUE = "Continue from this image";

// choose: called with the image that was clicked. Returns functions that generate, repeat, and give the address fields.
export function making(form, choose) {
  const [source, temperature, seed] = ["source", "temperature", "seed"].map((name) => find(`.generate [name=${name}]`));
  let made = null;

  async function generate() {
    const said = find("[data-generated]");
    const drawn = seed.value === "" ? Math.floor(Math.random() * SEEDS) : Number(seed.value);
    const wish = { source: source.value, temperature: Number(temperature.value), count: 12, seed: drawn };
    said.textContent = "generating …";
    try {
      const { samples } = await askJson(form.dataset.samples, json(wish));
      const tiles = samples.map(({ mu, picture }, at) => {
        const name = `generated image ${at + 1} of seed ${drawn}`;
        return imageButton({ src: picture, alt: name }, CONTINUE, () => choose({ vector: mu, name, picture }));
      });
      find("[data-new]").replaceChildren(...tiles);
      made = wish;
      said.textContent = `seed ${drawn}; click one to continue from it`;
    } catch (error) {
      said.textContent = error.message;
    }
  }

  // Generates the images of the address again.
  async function again(asked) {
    if (!source) return;
    seed.value = asked.get("seed");
    if ([...source.options].some((one) => one.value === asked.get("source"))) source.value = asked.get("source");
    if (asked.has("temperature")) temperature.value = asked.get("temperature");
    await generate();
  }

  const said = () => (made ? { source: made.source, temperature: made.temperature, seed: made.seed } : {});
  return { generate, again, said };
}

// The tray of kept images. It lasts as long as the tab; images of another encoder are not shown.
export function keeping(form, choose) {
  const name = `simile kept ${form.dataset.encoder}`;
  const read = () => JSON.parse(sessionStorage.getItem(name) ?? "[]");

  function write(kept) {
    try {
      sessionStorage.setItem(name, JSON.stringify(kept));
    } catch {
      sessionStorage.setItem(name, JSON.stringify(kept.slice(-MOST_KEPT / 2))); // storage is full: drop the older half
    }
    show();
  }

  function show() {
    const tiles = read().map((one) => {
      const item = imageButton({ src: one.picture, alt: one.name }, CONTINUE, () => choose(one));
      const drop = element("button", { type: "button", className: "drop", title: "Remove", ariaLabel: `Remove ${one.name}` }, "×");
      drop.addEventListener("click", () => {
        write(read().filter(({ name: other }) => other !== one.name));
        (find("[data-kept] .drop") ?? find("[data-do=keep]"))?.focus();
      });
      item.append(drop);
      return item;
    });
    find("[data-kept]").replaceChildren(...tiles);
    find("[data-tray]").hidden = !tiles.length;
  }

  function keep({ mu, picture }) {
    const kept = read();
    const last = Math.max(0, ...kept.map((one) => Number(one.name.split(" ").at(-1))));
    write([...kept, { vector: mu, picture, name: `kept image ${last + 1}` }].slice(-MOST_KEPT));
  }

  if (find("[data-kept]")) show();
  return { keep };
}
