// Indexing jobs as they go on.

import { ask, askJson, askPage, complain, element, json, localTimes } from "./asking.js";

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

const cards = () => [...document.querySelectorAll(".job")];
const running = () => document.querySelector("[data-events]");

// The cards as the server has them now. What a person is choosing, has opened or has the focus on stays.
async function refresh() {
  const fresh = await askPage(location.href);
  const focused = document.activeElement?.closest(".job")?.dataset.job;
  const opened = cards().filter((card) => !("events" in card.dataset) && card.querySelector("details[open]"));
  document.querySelector(".jobs-so-far").replaceWith(fresh.querySelector(".jobs-so-far"));
  for (const old of opened) {
    const [now, details] = [cards().find(({ dataset }) => dataset.job === old.dataset.job), old.querySelector("details")];
    now?.querySelector("details")?.replaceWith(details);
  }
  const button = document.querySelector("[data-jobs] button");
  if (button) button.disabled = Boolean(running());
  cards().find(({ dataset }) => dataset.job === focused)?.querySelector("h2").focus({ preventScroll: true });
  listen();
}

// Said aloud by screen readers: the list itself is quiet while its numbers run.
function announce(job) {
  const card = cards().find(({ dataset }) => dataset.job === job);
  const said = ["h2", ".state", ".words"].map((part) => card?.querySelector(part)?.textContent ?? "");
  document.querySelector("#job-news").textContent = `${said[0]}: ${said[1]}, ${said[2]}`;
}

function listen() {
  localTimes(document);
  for (const card of document.querySelectorAll("[data-events]")) {
    const events = new EventSource(card.dataset.events);
    events.addEventListener("progress", ({ data }) => card.isConnected ? update(card, JSON.parse(data)) : events.close());
    events.addEventListener("end", async () => {
      events.close();
      if (!card.isConnected) return;
      await refresh().then(() => announce(card.dataset.job), complain);
    });
    addEventListener("pagehide", () => events.close());
  }
}

async function start(form) {
  const said = form.querySelector(".said");
  const [root, prune] = [form.elements.root.value, form.elements.prune.checked];
  said.textContent = "Starting …";
  try {
    await ask(form.dataset.jobs, json({ root, prune }));
    await refresh();
    said.textContent = "";
    running()?.querySelector("h2").focus();
  } catch (error) {
    said.textContent = error.message;
    if (error.status === 409) await refresh(); // another one runs, which this page has not seen yet
  }
}

async function cancel(button) {
  Object.assign(button, { disabled: true, textContent: "Stopping …" });
  button.closest(".job").querySelector("h2").focus({ preventScroll: true });
  await ask(button.dataset.cancel, { method: "POST" }).catch(complain);
}

const lineOf = ({ path, reason }) => element("li", {}, path, element("span", {}, reason));

// The next files that were set aside, and a button for those after them.
async function list(details) {
  const shown = details.querySelector("ul");
  const [more, before] = [details.querySelector("[data-more]"), shown.children.length];
  more.disabled = true;
  try {
    const address = `${details.dataset.failures}?limit=100&offset=${before}`;
    const { failures, total } = await askJson(address);
    shown.append(...failures.map(lineOf));
    more.textContent = `Show more of ${number(total)}`;
    more.hidden = !failures.length || shown.children.length >= total;
  } catch (error) {
    complain(error);
  }
  more.disabled = false;
}

document.addEventListener("submit", (event) => {
  if (!event.target.matches("[data-jobs]")) return;
  event.preventDefault();
  start(event.target);
});

document.addEventListener("click", ({ target }) => {
  const button = target.closest("[data-cancel]");
  if (button) cancel(button);
  const more = target.closest(".failures [data-more]");
  if (more) list(more.parentElement);
});

const isNews = (target) => target.matches?.(".failures[open]") && !target.querySelector("li");
document.addEventListener("toggle", ({ target }) => isNews(target) && list(target), true);

// Whoever comes back to the page sees what was begun elsewhere meanwhile.
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && document.querySelector(".jobs-so-far") && !running()) refresh().catch(complain);
});

listen();
