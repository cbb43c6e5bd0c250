// Drop, paste and choose search without loading the page anew. Without this file the form does the same.

const html = document.documentElement;
html.classList.add("js");

let running = null; // the search under way: a newer one ends it

function say(status) {
  document.querySelector("main").setAttribute("aria-busy", String(Boolean(status)));
  document.querySelector(".status").textContent = status;
}

function complain(detail) {
  document.querySelector(".problem")?.remove();
  const strong = Object.assign(document.createElement("strong"), { textContent: "That did not work." });
  const text = document.createElement("p");
  text.append(strong, ` ${detail}`);
  const box = Object.assign(document.createElement("div"), { className: "problem" });
  box.setAttribute("role", "alert");
  box.append(text);
  document.querySelector(".search").after(box);
  scrollTo({ top: 0 });
}

function show(page) {
  const fresh = new DOMParser().parseFromString(page, "text/html");
  document.querySelector("main").replaceWith(fresh.querySelector("main"));
  document.querySelector("footer").replaceWith(fresh.querySelector("footer"));
  document.title = fresh.title;
}

async function answerTo(file) {
  const form = new FormData();
  form.append("file", file, file.name || "pasted picture");
  const response = await fetch("/", { method: "POST", body: form, signal: running.signal });
  const text = await response.text();
  const isPage = response.headers.get("content-type")?.startsWith("text/html");
  if (!isPage) throw new Error(JSON.parse(text).detail);
  return text;
}

async function search(file) {
  const maxBytes = document.querySelector(".search")?.dataset.maxBytes;
  if (!maxBytes) return; // nothing is indexed, and the page says so
  if (file.size > Number(maxBytes)) {
    return complain(`${file.name} is larger than the ${Number(maxBytes).toLocaleString("en")} bytes allowed here.`);
  }
  running?.abort();
  const mine = (running = new AbortController());
  say("Searching…");
  try {
    const page = await answerTo(file);
    history.pushState({ page }, "", "/");
    show(page);
    scrollTo({ top: 0 });
    document.querySelector("#query-heading")?.focus({ preventScroll: true });
  } catch (error) {
    if (mine.signal.aborted) return;
    say("");
    complain(error instanceof TypeError ? "The server can't be reached. Is simile still running?" : error.message);
  }
}

const draggedFiles = (event) => event.dataTransfer?.types.includes("Files");

document.addEventListener("change", ({ target }) => {
  if (target.type === "file" && target.files.length) search(target.files[0]);
});

document.addEventListener("submit", (event) => {
  const [file] = event.target.elements.file.files;
  event.preventDefault();
  search(file);
});

document.addEventListener("dragover", (event) => {
  if (!draggedFiles(event)) return;
  event.preventDefault();
  html.classList.add("dropping");
});

document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) html.classList.remove("dropping"); // it left the window
});

document.addEventListener("drop", (event) => {
  html.classList.remove("dropping");
  if (!draggedFiles(event)) return;
  event.preventDefault();
  if (event.dataTransfer.files.length) search(event.dataTransfer.files[0]);
});

document.addEventListener("paste", (event) => {
  const [file] = event.clipboardData?.files ?? [];
  if (!file) return;
  event.preventDefault();
  search(file);
});

// Answers to uploads live in the history itself: there is no address to ask for them again.
addEventListener("popstate", ({ state }) => (state?.page ? show(state.page) : location.reload()));
if (history.state?.page) show(history.state.page);
