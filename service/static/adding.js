// Adding images to the collection: a few at a time, each with what became of it.

import { ask, askPage, complain, element, onDrop, root } from "./asking.js";

const AT_ONCE = 2;
const TRIES = 6;

const form = () => document.querySelector(".adding");
const box = () => document.querySelector(".arrivals");
const waiting = [];
const count = { all: 0, done: 0, added: 0, known: 0, refused: 0 };
let working = 0;
let stopped = null;

const wait = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));

function line(name, words, className) {
  const item = element("li", { className }, element("span", {}, name), element("span", {}, ...words));
  box().querySelector("ul").prepend(item);
}

const linkTo = ({ image_id }) => element("a", { href: `${root}pictures/${image_id}` }, `image ${image_id}`);

function report() {
  const bar = box().querySelector("progress");
  [bar.max, bar.value] = [count.all, count.done];
  const parts = [`${count.done} of ${count.all}`, `${count.added} added`];
  if (count.known) parts.push(`${count.known} there already`);
  if (count.refused) parts.push(`${count.refused} refused`);
  box().querySelector(".status").textContent = parts.join(" · ");
  box().querySelector("[data-stop]").hidden = count.done === count.all;
}

// One image; when the server has too much to do, once more after the time it asks for.
async function send(file) {
  const body = new FormData();
  body.append("file", file, file.name);
  body.append("metadata", JSON.stringify({ name: file.name })); // its file is called by its content
  const address = `${form().dataset.images}?if_duplicate=${document.querySelector("#if-duplicate").value}`;
  for (let attempt = 1; ; attempt += 1) {
    try {
      const response = await ask(address, { method: "POST", body, signal: stopped.signal });
      return { created: response.status === 201, image: await response.json() };
    } catch (error) {
      const again = error.response?.headers.get("retry-after");
      if (![429, 503].includes(error.status) || attempt === TRIES || !again) throw error;
      await wait(Math.min(Number(again) || 1, 30));
    }
  }
}

async function add(file) {
  try {
    if (file.size > Number(form().dataset.maxBytes)) throw new Error("It is larger than what is allowed here.");
    const { created, image } = await send(file);
    count[created ? "added" : "known"] += 1;
    const near = image.duplicates?.[0];
    if (created) line(file.name, ["added as ", linkTo(image)], "added");
    else line(file.name, ["is there already: ", linkTo(image), near ? ` (${near.reason})` : ""], "known");
  } catch (error) {
    if (stopped.signal.aborted) return;
    count.refused += 1;
    line(file.name, [error.message.replace(`${file.name}: `, "")], "refused");
  }
}

async function work() {
  working += 1;
  while (waiting.length) {
    await add(waiting.shift());
    count.done += 1;
    report();
  }
  working -= 1;
  if (working === 0 && count.added) await refresh();
}

async function refresh() {
  const fresh = await askPage(location.href);
  for (const selector of ["#hits", ".wide-bar h1", ".more"]) {
    const [old, now] = [document.querySelector(selector), fresh.querySelector(selector)];
    if (old && now) old.replaceWith(now);
    else if (now && selector === "#hits") return location.reload(); // the first images of all
  }
  return undefined;
}

function take(files) {
  if (!files.length) return;
  if (count.done === count.all) {
    Object.assign(count, { all: 0, done: 0, added: 0, known: 0, refused: 0 });
    box().querySelector("ul").replaceChildren();
    stopped = new AbortController();
  }
  box().hidden = false;
  waiting.push(...files);
  count.all += files.length;
  report();
  while (working < Math.min(AT_ONCE, files.length)) work().catch(complain);
}

document.addEventListener("change", ({ target }) => {
  if (target.id !== "add") return;
  take([...target.files]);
  target.value = ""; // so that the same can be chosen again
});

document.addEventListener("click", ({ target }) => {
  if (!target.closest("[data-stop]")) return;
  stopped.abort();
  count.all -= waiting.length;
  waiting.length = 0;
});

onDrop(form, take);

addEventListener("beforeunload", (event) => {
  if (count.done < count.all) event.preventDefault(); // what waits would not be added
});

// The order by what is least like the rest is worked out behind the scenes: looked for again until it is there.
const pending = document.querySelector("[data-retry]");
if (pending) setTimeout(() => location.reload(), 1000 * Math.max(1, Number(pending.dataset.retry)));
