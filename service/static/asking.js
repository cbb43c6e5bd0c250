// How scripts ask the server, and how they say what went wrong.

// What the server sent as a document. A session that has ended leads to the page that asks for the key.
export function parsed(text) {
  return new DOMParser().parseFromString(text, "text/html");
}

export async function ask(address, options = {}) {
  let response;
  try {
    response = await fetch(address, options);
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new Error("The server can't be reached. Is simile still running?");
  }
  const signIn = new URL(response.url || location.href).pathname === "/signin";
  if (response.status === 401 || signIn) {
    location.assign(`/signin?next=${encodeURIComponent(location.pathname + location.search)}`);
    await new Promise(() => {}); // nothing more is done here: this page is being left
  }
  if (!response.ok) throw Object.assign(new Error(await reason(response)), { status: response.status, response });
  return response;
}

// A function that does `work`, which says itself what went wrong: one at a time. What is asked for while one is under
// way is done once, after it: only the newest matters.
export function newest(work) {
  let [running, again] = [false, false];
  return async function run() {
    if (running) {
      again = true;
      return;
    }
    running = true;
    await work();
    running = false;
    if (again) {
      again = false;
      run();
    }
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

export function complain(detail) {
  document.querySelector(".problem")?.remove();
  const strong = Object.assign(document.createElement("strong"), { textContent: "That did not work." });
  const text = document.createElement("p");
  text.append(strong, ` ${detail}`);
  const box = Object.assign(document.createElement("div"), { className: "problem" });
  box.setAttribute("role", "alert");
  box.append(text);
  const before = document.querySelector(".search, .wide-bar, main > h1");
  if (before) before.after(box);
  else document.querySelector("main").prepend(box);
  scrollTo({ top: 0 });
}

// An address without the fields that say nothing.
export function addressOf(form) {
  const said = [...new FormData(form)].filter(([, value]) => value !== "");
  return `${form.getAttribute("action")}?${new URLSearchParams(said)}`;
}
