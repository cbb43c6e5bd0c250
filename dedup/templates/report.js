// Decisions by keyboard, and the plan that follows from them. Without this script the report can still be read.

const meta = JSON.parse(document.querySelector("#meta").textContent);
const cards = [...document.querySelectorAll(".card")].map((node) => {
  const data = JSON.parse(node.querySelector("script").textContent);
  const others = [...node.querySelectorAll(".other")];
  const text = data.files.map((file) => file.path).join("\n").toLowerCase();
  return { node, data, others, text, needsDecision: ["pixels", "near"].includes(data.tier) };
});
const questions = cards.flatMap((card) =>
  card.needsDecision ? card.others.map((node) => ({ card, node, place: Number(node.dataset.place) })) : [],
);
const TIERS = ["bytes", "pixels", "near"];
const STORAGE_KEY = `simile-report ${meta.home} ${meta.written}`; // decisions of other reports are not used
const bar = document.querySelector("#bar");
const find = (name) => bar.querySelector(`[name="${name}"]`);

// Decisions { same, keep } by the two hashes, the smaller hash first. This page's decisions replace the home's.
const makeKey = (first, second) => (first < second ? `${first} ${second}` : `${second} ${first}`);
const homeDecisions = new Map(
  meta.decisions.map((decision) => [
    makeKey(decision.first_sha256, decision.second_sha256), { same: decision.same, keep: decision.keep_sha256 },
  ]),
);
const decisions = new Map(homeDecisions);
const history = [];
let decidedAt = meta.written; // time of the last decision
let current = -1; // index in questions

function load() {
  try {
    return JSON.parse(localStorage.getItem(STORAGE_KEY)) ?? { answered: decidedAt, said: [] };
  } catch {
    return { answered: decidedAt, said: [] }; // some browsers store nothing for local files
  }
}

function store() {
  try {
    localStorage.setItem(STORAGE_KEY, JSON.stringify({ answered: decidedAt, said: [...decisions] }));
  } catch {
    // the decisions are lost when the page is closed
  }
}

const getPair = ({ card, place }) => makeKey(card.data.files[0].sha256, card.data.files[place].sha256);
const getDecision = (question) => decisions.get(getPair(question));

// The position of the group's kept file: the first file, unless another one was chosen.
function getKeptPlace({ data }) {
  const [first, ...others] = data.files;
  const index = others.findIndex((file) => {
    const decision = decisions.get(makeKey(first.sha256, file.sha256));
    return decision?.same && decision.keep === file.sha256 && file.sha256 !== first.sha256;
  });
  return index + 1;
}

const isMatch = (data, first, second) =>
  data.tier !== "near" || first === 0 || second === 0
  || data.matches.some(([a, b]) => (a === first && b === second) || (a === second && b === first));

const isCopy = (data) => TIERS.includes(data.tier); // similar images and shots of a series all stay

// Whether the file is better than the kept one in some respect: it is only removed if users decide so.
const isUndecided = (data, place, keptPlace) => data.undecided.some(([a, b]) => a === place && b === keptPlace);

// The lines of the plan for a group. A file is only removed for a file that it was compared with.
function makeRemovals(card, { withBytes, withOpen }) {
  const { data } = card;
  const keptPlace = getKeptPlace(card);
  const kept = data.files[keptPlace];
  const isRemoved = (place) => {
    if (!isCopy(data) || place === keptPlace || data.files[place].fixed || kept.fixed || !isMatch(data, place, keptPlace)) return false;
    if (data.tier === "bytes") return withBytes;
    const decision = decisions.get(makeKey(data.files[0].sha256, data.files[place || keptPlace].sha256));
    return decision ? decision.same : withOpen && !isUndecided(data, place, keptPlace);
  };
  return data.files.flatMap((file, place) =>
    isRemoved(place)
      ? [{
          path: file.path, sha256: file.sha256, keep_path: kept.path, keep_sha256: kept.sha256,
          tier: data.tier, group: data.id,
          reason: data.files[place || keptPlace].reason || "decided by a user",
          ...file.additions, // `apply` writes only what the kept file lacks
        }]
      : [],
  );
}

// The home's own decisions are left out of the plan: users may have changed them in the home since.
const isNew = ([pair, decision]) => {
  const before = homeDecisions.get(pair);
  return !before || before.same !== decision.same || (before.keep ?? null) !== (decision.keep ?? null);
};

function makePlan(options) {
  const steps = new Map(cards.flatMap((card) => makeRemovals(card, options)).map((line) => [line.path, line]));
  const removals = [...steps.values()].flatMap((line) => {
    let [step, tier] = [line, line.tier];
    const seen = new Set([line.path]);
    while (steps.has(step.keep_path)) {
      if (seen.has(step.keep_path)) return []; // a cycle keeps no file: remove none of it
      seen.add(step.keep_path);
      step = steps.get(step.keep_path);
      tier = TIERS[Math.max(TIERS.indexOf(tier), TIERS.indexOf(step.tier))];
    }
    return [{ ...line, tier, keep_path: step.keep_path, keep_sha256: step.keep_sha256 }];
  });
  return {
    simile_plan: 1,
    created_at: decidedAt, // not the time of the download: decisions in the home after this time are newer
    home: meta.home,
    removals,
    decisions: [...decisions].filter(isNew).map(([pair, decision]) => {
      const [first_sha256, second_sha256] = pair.split(" ");
      return { first_sha256, second_sha256, same: decision.same, keep_sha256: decision.keep ?? null };
    }),
  };
}

const getOptions = () => ({ withBytes: find("with-bytes").checked, withOpen: find("with-open").checked });

function download() {
  const text = JSON.stringify(makePlan(getOptions()), null, 1);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = `simile-plan-${new Date().toISOString().replace(/[-:]|\.\d+Z/g, "").replace("T", "-")}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function paint(card) {
  const { data, node } = card;
  const keptPlace = getKeptPlace(card);
  const removedPaths = new Set(makeRemovals(card, { withBytes: true, withOpen: true }).map((line) => line.path));
  node.querySelectorAll("[data-place]").forEach((section) => {
    const place = Number(section.dataset.place);
    const decision = place && card.needsDecision ? getDecision({ card, place }) : undefined;
    const isRemoved = removedPaths.has(data.files[place].path);
    const isKept = !isRemoved && place === keptPlace && isCopy(data);
    section.classList.toggle("is-kept", isKept);
    section.classList.toggle("is-removed", isRemoved);
    section.querySelector(".frame:not(.differs) .fate").textContent = isRemoved
      ? decision || !card.needsDecision || (place === 0 && keptPlace) ? "would be removed" : "would be removed, if the same"
      : isKept ? "kept" : "stays";
    section.querySelector("[data-do=same]")?.setAttribute("aria-pressed", String(Boolean(decision?.same)));
    section.querySelector("[data-do=different]")?.setAttribute("aria-pressed", String(decision?.same === false));
    section.querySelector("[data-do=swap]")?.setAttribute("aria-pressed", String(place > 0 && place === keptPlace));
  });
}

function showCounts() {
  const decided = questions.filter(getDecision).length;
  const files = makePlan(getOptions()).removals.length;
  const bold = (number) => Object.assign(document.createElement("b"), { textContent: number.toLocaleString("en") });
  document.querySelector("#progress").replaceChildren(
    bold(decided), ` of ${questions.length.toLocaleString("en")} decided · `, bold(files), ` file${files === 1 ? "" : "s"} in the plan`,
  );
}

function update(changedCards) {
  changedCards.forEach(paint);
  showCounts();
}

function saveDecisions(changedCards) {
  decidedAt = new Date().toISOString().replace("Z", "+00:00");
  update(changedCards);
  store();
}

const isOpen = (card) => questions.some((question) => question.card === card && !getDecision(question));

function filter() {
  const tiers = new Set([...bar.querySelectorAll("[name=tier]:checked")].map((box) => box.value));
  const text = find("text").value.trim().toLowerCase();
  const maxDistance = Number(find("distance").value);
  const state = find("state").value;
  let anyVisible = false;
  for (const card of cards) {
    const isVisible = tiers.has(card.data.tier) && Number(card.node.dataset.distance) <= maxDistance
      && card.text.includes(text)
      && (state === "all" || (card.needsDecision && (state === "open") === isOpen(card)));
    card.node.hidden = !isVisible;
    anyVisible ||= isVisible;
  }
  bar.querySelector("output").textContent = maxDistance.toPrecision(3);
  document.querySelector("#none").hidden = anyVisible || cards.length === 0;
}

function mark(index) {
  document.querySelector(".other.here")?.classList.remove("here");
  current = index;
  questions[index].node.classList.add("here");
}

function go(index) {
  mark(index);
  const { node } = questions[index];
  node.focus({ preventScroll: true });
  node.scrollIntoView({ block: "center" });
}

function step(by) {
  for (let index = current + by; index >= 0 && index < questions.length; index += by) {
    if (!questions[index].card.node.hidden) return go(index);
  }
}

function goToNextOpen() {
  const order = [...questions.keys()].map((index) => (index + Math.max(current, 0)) % questions.length);
  const next = order.find((index) => !questions[index].card.node.hidden && !getDecision(questions[index]));
  if (next !== undefined) go(next);
}

function decide(decided, makeDecision) {
  history.push({ index: current, before: decided.map((question) => [getPair(question), getDecision(question)]) });
  for (const question of decided) decisions.set(getPair(question), makeDecision(question));
  saveDecisions(new Set(decided.map((question) => question.card)));
}

function undo() {
  const last = history.pop();
  if (!last) return;
  for (const [pair, decision] of last.before) decision ? decisions.set(pair, decision) : decisions.delete(pair);
  saveDecisions(new Set(cards.filter((card) => card.needsDecision)));
  if (last.index >= 0) go(last.index);
}

// Decide all open pairs of the current group.
function decideGroup(same) {
  const open = questions.filter((question) => question.card === questions[current]?.card && !getDecision(question));
  if (!open.length) return;
  decide(open, () => ({ same, keep: null }));
  goToNextOpen();
}

// Keep this file instead, or the first one again. A group keeps one file, so other choices in it are replaced.
function swap(question) {
  const { card, place } = question;
  const file = card.data.files[place];
  const isUndo = getDecision(question)?.keep === file.sha256;
  const rivals = questions.filter(
    (other) => other.card === card && other !== question && getDecision(other)?.keep === card.data.files[other.place].sha256,
  );
  const first = card.data.files[0].sha256;
  decide([question, ...rivals], (other) => ({ same: true, keep: other === question && !isUndo ? file.sha256 : first }));
}

const showKeys = () => document.querySelector("dialog").showModal();
const onCurrent = (act) => () => (current < 0 ? step(1) : act(questions[current]));
const ACTIONS = {
  same: onCurrent((question) => {
    decide([question], () => ({ same: true, keep: getDecision(question)?.keep ?? null }));
    goToNextOpen();
  }),
  different: onCurrent((question) => {
    decide([question], () => ({ same: false, keep: null }));
    goToNextOpen();
  }),
  swap: onCurrent(swap),
  export: download,
  keys: showKeys,
};
const KEYS = {
  y: ACTIONS.same, n: ACTIONS.different, k: ACTIONS.swap, e: download, u: undo, "?": showKeys,
  Y: () => decideGroup(true), N: () => decideGroup(false),
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
  if (section) mark(questions.findIndex((question) => question.node === section));
  const action = event.target.closest("[data-do]")?.dataset.do;
  if (action) ACTIONS[action]();
});

bar.addEventListener("input", () => {
  filter();
  showCounts();
});

const maxDistance = Math.max(0, ...cards.map(({ node }) => Number(node.dataset.distance))) || 1;
Object.assign(find("distance"), { max: maxDistance, value: maxDistance });
const stored = load();
decidedAt = stored.answered;
for (const [pair, decision] of stored.said) decisions.set(pair, decision);
bar.hidden = false;
document.querySelectorAll(".answers").forEach((row) => (row.hidden = false));
cards.forEach((card) => card.node.classList.toggle("many", card.data.files.length > 2));
update(cards);
filter();
