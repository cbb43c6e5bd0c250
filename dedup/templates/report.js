// Decisions by keyboard, and the plan that follows from them. Without this script the report is there to be read.

const meta = JSON.parse(document.querySelector("#meta").textContent);
const cards = [...document.querySelectorAll(".card")].map((node) => {
  const data = JSON.parse(node.querySelector("script").textContent);
  const others = [...node.querySelectorAll(".other")];
  const text = data.files.map((file) => file.path).join("\n").toLowerCase();
  return { node, data, others, text, asked: ["pixels", "near"].includes(data.tier) };
});
const questions = cards.flatMap((card) =>
  card.asked ? card.others.map((node) => ({ card, node, place: Number(node.dataset.place) })) : [],
);
const TIERS = ["bytes", "pixels", "near"];
const STORE = `simile-report ${meta.home} ${meta.written}`; // of this report alone: answers to an older one are older
const bar = document.querySelector("#bar");
const find = (name) => bar.querySelector(`[name="${name}"]`);

// Decisions by the two hashes, the smaller first: { same, keep }. Those of the home come first, those of this page win.
const key = (one, two) => (one < two ? `${one} ${two}` : `${two} ${one}`);
const known = new Map(meta.decisions.map((said) => [key(said.first_sha256, said.second_sha256), { same: said.same, keep: said.keep_sha256 }]));
const decisions = new Map(known);
const past = [];
let answered = meta.written; // when the last answer was given
let here = -1;

function stored() {
  try {
    return JSON.parse(localStorage.getItem(STORE)) ?? { answered, said: [] };
  } catch {
    return { answered, said: [] }; // a browser may keep nothing for files
  }
}

function store() {
  try {
    localStorage.setItem(STORE, JSON.stringify({ answered, said: [...decisions] }));
  } catch {
    // then they live as long as the page
  }
}

const pairOf = ({ card, place }) => key(card.data.files[0].sha256, card.data.files[place].sha256);
const saidOf = (question) => decisions.get(pairOf(question));

// Which file of a group stays: the one at the top, unless somebody chose another one.
function keeperOf({ data }) {
  const [first, ...others] = data.files;
  const at = others.findIndex((file) => {
    const said = decisions.get(key(first.sha256, file.sha256));
    return said?.same && said.keep === file.sha256 && file.sha256 !== first.sha256;
  });
  return at + 1;
}

const matches = (data, one, two) =>
  data.tier !== "near" || one === 0 || two === 0 || data.matches.some(([a, b]) => (a === one && b === two) || (a === two && b === one));

// Which files of a group would go. Nothing goes for a file that it was not compared with.
function removalsOf(card, { withBytes, withOpen }) {
  const { data } = card;
  const keeper = keeperOf(card);
  const goes = (place) => {
    if (data.tier === "similar" || place === keeper || data.files[place].fixed || data.files[keeper].fixed || !matches(data, place, keeper)) return false;
    if (data.tier === "bytes") return withBytes;
    const said = decisions.get(key(data.files[0].sha256, data.files[place || keeper].sha256));
    return said ? said.same : withOpen;
  };
  const kept = data.files[keeper];
  return data.files.flatMap((file, place) =>
    goes(place)
      ? [{
          path: file.path, sha256: file.sha256, keep_path: kept.path, keep_sha256: kept.sha256,
          tier: data.tier, group: data.id,
          reason: data.files[place || keeper].reason || "decided by a user",
        }]
      : [],
  );
}

// What the home said itself is not told to it again: there, people may have thought better of it since.
const isNews = ([pair, said]) => {
  const before = known.get(pair);
  return !before || before.same !== said.same || (before.keep ?? null) !== (said.keep ?? null);
};

function planOf(options) {
  const steps = new Map(cards.flatMap((card) => removalsOf(card, options)).map((line) => [line.path, line]));
  const removals = [...steps.values()].flatMap((line) => {
    let [step, tier] = [line, line.tier];
    const met = new Set([line.path]);
    while (steps.has(step.keep_path)) {
      if (met.has(step.keep_path)) return []; // a circle keeps nothing: none of it goes
      met.add(step.keep_path);
      step = steps.get(step.keep_path);
      tier = TIERS[Math.max(TIERS.indexOf(tier), TIERS.indexOf(step.tier))];
    }
    return [{ ...line, tier, keep_path: step.keep_path, keep_sha256: step.keep_sha256 }];
  });
  return {
    simile_plan: 1,
    created_at: answered, // not when it is downloaded: what the home was told between the two is newer
    home: meta.home,
    removals,
    decisions: [...decisions].filter(isNews).map(([pair, said]) => {
      const [first_sha256, second_sha256] = pair.split(" ");
      return { first_sha256, second_sha256, same: said.same, keep_sha256: said.keep ?? null };
    }),
  };
}

const chosen = () => ({ withBytes: find("with-bytes").checked, withOpen: find("with-open").checked });

function download() {
  const text = JSON.stringify(planOf(chosen()), null, 1);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = `simile-plan-${new Date().toISOString().replace(/[-:]|\.\d+Z/g, "").replace("T", "-")}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function paint(card) {
  const { data, node } = card;
  const keeper = keeperOf(card);
  const going = new Set(removalsOf(card, { withBytes: true, withOpen: true }).map((line) => line.path));
  node.querySelectorAll("[data-place]").forEach((section) => {
    const place = Number(section.dataset.place);
    const said = place && card.asked ? decisions.get(key(data.files[0].sha256, data.files[place].sha256)) : undefined;
    const removed = going.has(data.files[place].path);
    const kept = !removed && place === keeper && data.tier !== "similar";
    section.classList.toggle("is-kept", kept);
    section.classList.toggle("is-removed", removed);
    section.querySelector(".frame:not(.differs) .fate").textContent = removed
      ? said || !card.asked || (place === 0 && keeper) ? "would be removed" : "would be removed, if the same"
      : kept ? "kept" : "stays";
    section.querySelector("[data-do=same]")?.setAttribute("aria-pressed", String(Boolean(said?.same)));
    section.querySelector("[data-do=different]")?.setAttribute("aria-pressed", String(said?.same === false));
    section.querySelector("[data-do=swap]")?.setAttribute("aria-pressed", String(place > 0 && place === keeper));
  });
}

function count() {
  const decided = questions.filter(saidOf).length;
  const files = planOf(chosen()).removals.length;
  const bold = (number) => Object.assign(document.createElement("b"), { textContent: number.toLocaleString("en") });
  document.querySelector("#progress").replaceChildren(
    bold(decided), ` of ${questions.length.toLocaleString("en")} decided · `, bold(files), ` file${files === 1 ? "" : "s"} in the plan`,
  );
}

function changed(touched) {
  touched.forEach(paint);
  count();
}

function heard(touched) {
  answered = new Date().toISOString().replace("Z", "+00:00");
  changed(touched);
  store();
}

const isOpen = (card) => questions.some((question) => question.card === card && !saidOf(question));

function filter() {
  const tiers = new Set([...bar.querySelectorAll("[name=tier]:checked")].map((box) => box.value));
  const words = find("text").value.trim().toLowerCase();
  const most = Number(find("distance").value);
  const state = find("state").value;
  let any = false;
  for (const card of cards) {
    const fits = tiers.has(card.data.tier) && Number(card.node.dataset.distance) <= most
      && card.text.includes(words)
      && (state === "all" || (card.asked && (state === "open") === isOpen(card)));
    card.node.hidden = !fits;
    any ||= fits;
  }
  bar.querySelector("output").textContent = most.toPrecision(3);
  document.querySelector("#none").hidden = any || cards.length === 0;
}

function go(at) {
  document.querySelector(".other.here")?.classList.remove("here");
  here = at;
  const { node } = questions[at];
  node.classList.add("here");
  node.focus({ preventScroll: true });
  node.scrollIntoView({ block: "center" });
}

function step(by) {
  for (let at = here + by; at >= 0 && at < questions.length; at += by) {
    if (!questions[at].card.node.hidden) return go(at);
  }
}

function onward() {
  const order = [...questions.keys()].map((at) => (at + Math.max(here, 0)) % questions.length);
  const next = order.find((at) => !questions[at].card.node.hidden && !saidOf(questions[at]));
  if (next !== undefined) go(next);
}

function answer(asked, said) {
  past.push({ at: here, before: asked.map((question) => [pairOf(question), saidOf(question)]) });
  for (const question of asked) decisions.set(pairOf(question), said(question));
  heard(new Set(asked.map((question) => question.card)));
}

function undo() {
  const last = past.pop();
  if (!last) return;
  for (const [pair, said] of last.before) said ? decisions.set(pair, said) : decisions.delete(pair);
  heard(new Set(cards.filter((card) => card.asked)));
  if (last.at >= 0) go(last.at);
}

const waiting = () => questions.filter((question) => question.card === questions[here]?.card && !saidOf(question));

// Only one picture of a group is kept: whoever chooses another one drops the choice before.
function swap(question) {
  const { card, place } = question;
  const file = card.data.files[place];
  const back = saidOf(question)?.keep === file.sha256;
  const rivals = questions.filter((one) => one.card === card && one !== question && saidOf(one)?.keep === card.data.files[one.place].sha256);
  answer([question, ...rivals], (one) => ({ same: true, keep: one === question && !back ? file.sha256 : card.data.files[0].sha256 }));
}

const keys = () => document.querySelector("dialog").showModal();
const one = (does) => () => (here < 0 ? step(1) : does(questions[here]));
const ACTIONS = {
  same: one((question) => { answer([question], () => ({ same: true, keep: saidOf(question)?.keep ?? null })); onward(); }),
  different: one((question) => { answer([question], () => ({ same: false, keep: null })); onward(); }),
  swap: one(swap),
  export: download,
  keys,
};
const KEYS = {
  y: ACTIONS.same, n: ACTIONS.different, k: ACTIONS.swap, e: download, u: undo, "?": keys,
  Y: () => { if (waiting().length) { answer(waiting(), () => ({ same: true, keep: null })); onward(); } },
  N: () => { if (waiting().length) { answer(waiting(), () => ({ same: false, keep: null })); onward(); } },
  j: () => step(1), ArrowDown: () => step(1), ArrowUp: () => step(-1),
  d: () => document.body.classList.toggle("hide-differences"),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (event.target.matches("input:not([type=checkbox]), select")) return;
  if (document.querySelector("dialog[open]")) return;
  if (!KEYS[event.key] || (event.repeat && !/^(j|Arrow)/.test(event.key))) return;
  event.preventDefault();
  KEYS[event.key]();
});

document.addEventListener("click", (event) => {
  const section = event.target.closest(".other[tabindex]");
  if (section) {
    document.querySelector(".other.here")?.classList.remove("here");
    here = questions.findIndex((question) => question.node === section);
    section.classList.add("here");
  }
  const action = event.target.closest("[data-do]")?.dataset.do;
  if (action) ACTIONS[action]();
});

bar.addEventListener("input", () => {
  filter();
  count();
});

const far = Math.max(0, ...cards.map(({ node }) => Number(node.dataset.distance))) || 1;
Object.assign(find("distance"), { max: far, value: far });
const kept = stored();
answered = kept.answered;
for (const [pair, said] of kept.said) decisions.set(pair, said);
bar.hidden = false;
document.querySelectorAll(".answers").forEach((row) => (row.hidden = false));
cards.forEach((card) => card.node.classList.toggle("many", card.data.files.length > 2));
changed(cards);
filter();
