// Keys and quick steps for the review of copies. Without this file its links and forms do the same, page by page.

import { element, parsed, toggleKeys } from "./asking.js";

const UNDO = "simile-undo"; // answers of this tab that can be taken back, the newest last
const BLINK = 550; // milliseconds that each image is shown

let running = null; // the step under way: a newer one ends it
let blinking = 0;

const still = () => matchMedia("(prefers-reduced-motion: reduce)").matches;
const answersGiven = () => JSON.parse(sessionStorage.getItem(UNDO) ?? "[]");
const remember = (answers) => sessionStorage.setItem(UNDO, JSON.stringify(answers.slice(-200)));

function say(text) {
  document.querySelector(".toast")?.remove();
  const toast = element("p", { className: "toast", role: "alert" }, text);
  document.body.append(toast);
  setTimeout(() => toast.remove(), 4000);
}

function show(text) {
  const fresh = parsed(text);
  const differs = document.querySelector("#difference")?.checked;
  const opened = document.querySelector(".tune")?.open;
  stopBlinking();
  document.querySelector("main").replaceWith(fresh.querySelector("main"));
  const checkbox = document.querySelector("#difference");
  if (checkbox) checkbox.checked = differs ?? false;
  const tune = document.querySelector(".tune");
  if (tune && opened !== undefined) tune.open = opened;
  arrived();
}

// An answer leads to an address that knows how to take it back: noted, so that "u" works later too.
function arrived() {
  const form = document.querySelector("form.undo");
  if (!form) return;
  const answers = answersGiven();
  const answer = { action: form.getAttribute("action"), undo: form.dataset.undo };
  const last = answers.at(-1);
  if (last?.undo !== answer.undo || last?.action !== answer.action) remember([...answers, answer]);
}

async function step(address, options = {}, { replace = false } = {}) {
  running?.abort();
  const mine = (running = new AbortController());
  document.querySelector("main").setAttribute("aria-busy", "true");
  try {
    const response = await fetch(address, { ...options, signal: mine.signal });
    const text = await response.text();
    if (mine.signal.aborted) return;
    history[replace ? "replaceState" : "pushState"](null, "", response.url);
    show(text);
    scrollTo({ top: 0 });
    document.querySelector("#case-heading")?.focus({ preventScroll: true });
  } catch (error) {
    if (mine.signal.aborted) return;
    document.querySelector("main").removeAttribute("aria-busy");
    say(error instanceof TypeError ? "The server can't be reached. Is simile still running?" : error.message);
  }
}

const send = (action, fields) => step(action, { method: "POST", body: new URLSearchParams(fields) });

function undo() {
  const answers = answersGiven();
  const last = answers.pop();
  if (!last) return say("There is no answer of this visit to undo.");
  remember(answers);
  send(last.action, { answer: "undo", undo: last.undo });
}

function stopBlinking() {
  clearInterval(blinking);
  blinking = 0;
  document.querySelector(".case")?.classList.remove("blinking");
  document.querySelector(".over")?.classList.remove("lit");
}

async function blink() {
  const over = document.querySelector(".over");
  if (!over) return;
  if (blinking) {
    if (still() && !over.classList.contains("lit")) return over.classList.add("lit");
    return stopBlinking();
  }
  blinking = -1;
  document.querySelector("#difference").checked = false;
  document.querySelector(".case").classList.add("blinking");
  over.src ||= over.dataset.src;
  await over.decode().catch(() => say("The other image can't be laid on this one."));
  if (blinking !== -1 || !over.isConnected) return;
  over.classList.add("lit");
  // Where motion is unwelcome nothing blinks by itself: the key turns it over.
  if (!still()) blinking = setInterval(() => over.classList.toggle("lit"), BLINK);
}

const OWN = { b: blink, u: undo, "?": toggleKeys };

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (event.target.matches("input:not([type=checkbox]), textarea, select")) return;
  if (document.querySelector("dialog[open]") && event.key !== "?") return;
  if (event.repeat && !event.key.startsWith("Arrow") && event.key !== "j") return;
  if (OWN[event.key]) {
    event.preventDefault();
    return OWN[event.key]();
  }
  const target = [...document.querySelectorAll("[data-key]")].find((one) =>
    one.dataset.key.split(" ").includes(event.key),
  );
  if (!target) return;
  event.preventDefault();
  if (document.querySelector("main[aria-busy=true]") && target.closest(".answers")) return; // meant for what is not shown yet
  target.click();
});

document.addEventListener("click", (event) => {
  const own = event.target.closest("button[data-key]");
  if (own && OWN[own.dataset.key]) return OWN[own.dataset.key]();
  const link = event.target.closest("main a[href]");
  if (!link || link.target || link.hasAttribute("download") || event.ctrlKey || event.metaKey || event.shiftKey) return;
  if (new URL(link.href).pathname !== location.pathname) return;
  event.preventDefault();
  step(link.href);
});

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.method === "dialog") return;
  event.preventDefault();
  if (form.classList.contains("undo")) return undo();
  const fields = new FormData(form, event.submitter);
  if (form.method === "get") return step(`${form.getAttribute("action")}?${new URLSearchParams(fields)}`);
  send(form.getAttribute("action"), fields);
});

document.addEventListener("change", ({ target }) => {
  if (target.name === "threshold") target.form.requestSubmit();
  if (target.id === "difference") stopBlinking();
});

addEventListener("popstate", () => step(location.href, {}, { replace: true }));
arrived();
