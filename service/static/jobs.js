// Indexing jobs as they go on.

import { ask, complain, parsed } from "./asking.js";

document.documentElement.classList.add("js");

const STAGES = { looking: "Looking at the folder", training: "Training", indexing: "Indexing", publishing: "Putting it in use" };
const number = (value) => value.toLocaleString("en");

function left(seconds) {
  if (seconds < 90) return `about ${Math.max(1, Math.round(seconds))} s left`;
  return seconds < 5400 ? `about ${Math.round(seconds / 60)} min left` : `about ${(seconds / 3600).toFixed(1)} h left`;
}

function words(job) {
  const parts = [STAGES[job.stage] ?? job.stage];
  if (job.total) parts.push(`${number(job.done)} of ${number(job.total)}`);
  else if (job.done) parts.push(number(job.done));
  if (job.per_second) parts.push(`${number(Math.round(job.per_second))} a second`);
  if (job.seconds_left) parts.push(left(job.seconds_left));
  if (job.failed) parts.push(`${number(job.failed)} set aside`);
  return parts.join(" · ");
}

function update(card, job) {
  card.querySelector(".words").textContent = words(job);
  const bar = card.querySelector("progress");
  if (job.total) [bar.max, bar.value] = [job.total, job.done];
  else bar.removeAttribute("value");
  const stop = card.querySelector("[data-cancel]");
  if (stop && job.cancelling) Object.assign(stop, { disabled: true, textContent: "Stopping …" });
}

async function refresh() {
  const fresh = parsed(await (await ask(location.href)).text());
  document.querySelector("main").replaceWith(fresh.querySelector("main"));
  listen();
}

function listen() {
  for (const card of document.querySelectorAll("[data-events]")) {
    const events = new EventSource(card.dataset.events);
    events.addEventListener("progress", ({ data }) => card.isConnected && update(card, JSON.parse(data)));
    events.addEventListener("end", () => {
      events.close();
      if (card.isConnected) refresh().catch((error) => complain(error.message));
    });
    addEventListener("pagehide", () => events.close());
  }
}

async function start(form) {
  const said = form.querySelector(".said");
  const [root, prune] = [form.elements.root.value, form.elements.prune.checked];
  said.textContent = "Starting …";
  try {
    const headers = { "Content-Type": "application/json" };
    await ask(form.dataset.jobs, { method: "POST", headers, body: JSON.stringify({ root, prune }) });
    await refresh();
    document.querySelector("[data-events] h2")?.scrollIntoView({ block: "nearest" });
  } catch (error) {
    said.textContent = error.message;
  }
}

async function cancel(button) {
  Object.assign(button, { disabled: true, textContent: "Stopping …" });
  try {
    await ask(button.dataset.cancel, { method: "POST" });
  } catch (error) {
    complain(error.message);
  }
}

async function list(details) {
  if (!details.open || details.querySelector("ul")) return;
  const shown = document.createElement("ul");
  details.append(shown);
  try {
    const { failures, total } = await (await ask(`${details.dataset.failures}?limit=100`)).json();
    for (const { path, reason } of failures) {
      const item = Object.assign(document.createElement("li"), { textContent: path });
      item.append(Object.assign(document.createElement("span"), { textContent: reason }));
      shown.append(item);
    }
    if (total > failures.length) {
      shown.append(Object.assign(document.createElement("li"), { textContent: `and ${number(total - failures.length)} more` }));
    }
  } catch (error) {
    shown.remove();
    complain(error.message);
  }
}

document.addEventListener("submit", (event) => {
  if (!event.target.matches("[data-jobs]")) return;
  event.preventDefault();
  start(event.target);
});

document.addEventListener("click", ({ target }) => {
  const button = target.closest("[data-cancel]");
  if (button) cancel(button);
});

document.addEventListener("toggle", ({ target }) => target.matches?.(".failures") && list(target), true);

listen();
