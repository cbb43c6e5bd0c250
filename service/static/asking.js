// How scripts ask the server, and how they say what went wrong.

document.documentElement.classList.add("js");

// The path of the service: "/", or "/photos/" below the prefix of a proxy.
export const root = new URL("../", import.meta.url).pathname;

export async function ask(address, options = {}) {
  let response;
  try {
    response = await fetch(address, options);
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new Error("The server can't be reached. Is simile still running?");
  }
  // A session that has ended leads to the page that asks for the key.
  const signIn = new URL(response.url || location.href).pathname === `${root}signin`;
  if (response.status === 401 || signIn) {
    location.assign(`${root}signin?next=${encodeURIComponent(location.pathname + location.search)}`);
    await new Promise(() => {}); // nothing more is done here: this page is being left
  }
  if (!response.ok) throw Object.assign(new Error(await reason(response)), { status: response.status, response });
  return response;
}

export const json = (body, method = "POST") => ({ method, headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

export async function askJson(address, options) {
  return (await ask(address, options)).json();
}

export async function askPage(address, options) {
  return parsed(await (await ask(address, options)).text());
}

// What the server sent as a document.
export function parsed(text) {
  return new DOMParser().parseFromString(text, "text/html");
}

// A function that does `work`, which says itself what went wrong: one at a time. What is asked for while one is under
// way is done once, after it: only the newest matters.
export function newest(work) {
  let [running, again] = [false, false];
  return async function run() {
    again = running;
    if (running) return;
    running = true;
    await work();
    running = false;
    if (again) run();
  };
}

// The words of a problem: of a document for programs, or of a page that shows it.
async function reason(response) {
  const text = await response.text();
  if (response.headers.get("content-type")?.startsWith("text/html")) {
    const said = parsed(text).querySelector(".problem p");
    said?.querySelector("strong")?.remove();
    return said?.textContent.trim() || `The server answered ${response.status}.`;
  }
  try {
    return JSON.parse(text).detail;
  } catch {
    return `The server answered ${response.status}.`;
  }
}

export function complain({ message }) {
  document.querySelector(".problem")?.remove();
  const text = element("p", {}, element("strong", { textContent: "That did not work." }), ` ${message}`);
  const box = element("div", { className: "problem", role: "alert" }, text);
  const before = document.querySelector(".search, .wide-bar, main > h1");
  if (before) before.after(box);
  else document.querySelector("main").prepend(box);
  scrollTo({ top: 0 });
}

export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// A list item with an image that is a button.
export function imageButton(image, title, act) {
  const button = element("button", { type: "button", className: "frame", title }, element("img", image));
  button.addEventListener("click", act);
  return element("li", {}, button);
}

export function toggleKeys() {
  const dialog = document.querySelector("dialog.keys");
  if (dialog?.open) dialog.close();
  else dialog?.showModal();
}

// Files that are dropped anywhere on the page, as long as `accepts` says so.
export function onDrop(accepts, take) {
  const { classList } = document.documentElement;
  const isDrag = (event) => accepts() && event.dataTransfer?.types.includes("Files");
  document.addEventListener("dragover", (event) => {
    if (!isDrag(event)) return;
    event.preventDefault();
    classList.add("dropping");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) classList.remove("dropping"); // it left the window
  });
  document.addEventListener("drop", (event) => {
    classList.remove("dropping");
    if (!isDrag(event)) return;
    event.preventDefault();
    take([...event.dataTransfer.files]);
  });
}

// Times of a person's own clock: the server writes them in UTC.
export function localTimes(within) {
  const short = { day: "numeric", month: "long", hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
  for (const time of within.querySelectorAll("time[datetime]")) {
    const year = "years" in time.dataset ? { year: "numeric" } : {};
    time.textContent = new Date(time.dateTime).toLocaleString("en-GB", { ...short, ...year }).replace(" at ", ", ");
  }
}
