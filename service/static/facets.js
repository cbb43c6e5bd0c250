// Below the filters: how many images there are with each value. A click on a value adds it to the filters.

import { askJson, element, root } from "./asking.js";

const OF_SEARCH = ["image_id", "positive_id", "negative_id", "text", "within", "verify", "distinct", "diversity", "group_by", "box", "combine", "sort", "cursor"];
const SHOWN_VALUES = 8;

// The address of what is shown, from which each value leads on.
function current() {
  const address = new URL(document.querySelector("[data-search]")?.dataset.search ?? location.href, location);
  for (const name of ["cursor", "limit"]) address.searchParams.delete(name);
  return address;
}

function link({ value, count, where }) {
  const address = current();
  address.searchParams.append("where", where);
  const number = element("span", { className: "soft" }, count.toLocaleString("en"));
  const made = element("a", { href: address.href, title: where }, `${value} `, number);
  made.dataset.refines = "";
  return element("li", {}, made);
}

function list({ name, values, value_count: total }, number) {
  const rest = total - values.length;
  const more = rest > 0 ? [element("li", { className: "soft" }, `and ${rest.toLocaleString("en")} more`)] : [];
  const heading = element("h3", { id: `facet-${number}` }, name);
  const items = element("ul", { className: "chips" }, ...values.map(link), ...more);
  items.setAttribute("aria-labelledby", heading.id);
  return element("div", {}, heading, items);
}

async function load(place) {
  const query = new URLSearchParams(current().search);
  for (const name of OF_SEARCH) query.delete(name);
  query.set("limit", SHOWN_VALUES);
  const { facets, total } = await askJson(`${root}v1/facets?${query}`);
  // A value that all images have does not narrow them down.
  const useful = facets.filter(({ values }) => values.length > 1 || values[0]?.count < total);
  place.replaceChildren(...useful.map(list));
  place.hidden = !useful.length;
  document.getElementById("group-fields")?.replaceChildren(...facets.map(({ name }) => element("option", { value: name })));
}

document.addEventListener(
  "toggle",
  ({ target }) => {
    const place = target.querySelector?.(".facets");
    if (target.open && place) load(place).catch(() => {}); // the filters work without the counts
  },
  true, // it does not bubble
);
