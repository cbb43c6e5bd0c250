// The page of the map: moving, zooming, colours, selection, and the tooltip of the pointer.

import { ask, askJson, complain, element, json, root } from "./asking.js";
import { PALETTE, RAMP, GREY, byNumber, byShare, channels, packed } from "./map_colours.js";
import { Plane } from "./map_plane.js";
import { fetchPoints } from "./map_points.js";
import { Tiles } from "./map_tiles.js";
import { listen } from "./map_moves.js";

const LISTED = 60; // images of a selection that are listed
const ASKED = 32; // most images in one query
const number = (value) => value.toLocaleString("en");

class MapPage {
  constructor(root) {
    this.root = root;
    this.at = root.dataset;
    this.find = (selector) => root.querySelector(selector);
    this.plane = new Plane(this.find("canvas"));
    this.tiles = new Tiles(this.at.map, this.at.layout, this.at.tag, Number(this.at.side), () => this.redraw());
    this.chosen = null; // a byte for each row; null without a selection
    this.under = -1; // the row under the pointer, or in the middle
  }

  async open() {
    this.learnColours();
    this.plane.resize();
    const colour = document.querySelector("[name=colour]");
    const asked = new URLSearchParams(location.search).get("colour");
    if ([...colour.options].some((one) => one.value === asked && !one.disabled)) colour.value = asked;
    await this.load(colour.value);
    this.restoreView();
    this.find(".loading").remove();
    this.paint(colour.value);
    colour.addEventListener("change", () => this.recolour(colour.value).catch(complain));
    new ResizeObserver(() => this.resized()).observe(this.plane.canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      this.learnColours();
      this.redraw();
    });
    listen(this);
  }

  async load(colour) {
    this.label = colour.startsWith("label:") ? colour.slice(6) : null;
    this.points = await fetchPoints(this.at.map, this.at.layout, this.label);
  }

  async recolour(colour) {
    const label = colour.startsWith("label:") ? colour.slice(6) : null;
    if (label && label !== this.label) {
      const before = this.points.count;
      await this.load(colour);
      if (this.points.count !== before) this.choose(null);
    }
    this.paint(colour);
    this.remember({ colour: colour === "cluster" ? null : colour });
  }

  paint(colour) {
    const { points } = this;
    const named = colour.startsWith("label:");
    if (named) this.colours = byNumber(points.label, 255);
    else if (colour === "cluster") this.colours = byNumber(points.cluster, 65535);
    else this.colours = byShare(points[colour]);
    this.showLegend(colour, named);
    this.redraw();
  }

  showLegend(colour, named) {
    const ramp = this.find(".legend");
    ramp.hidden = named || colour === "cluster";
    const [low, high] = ramp.querySelectorAll("span");
    [low.textContent, high.textContent] = colour === "error" ? ["reconstructed well", "badly"] : ["thin", "thick"];
    ramp.querySelector("i").style.background = `linear-gradient(to right, ${RAMP.join(",")})`;
    const names = this.find(".names");
    names.hidden = !named;
    names.replaceChildren(...(named ? this.labelNames() : []));
    for (const dot of this.root.querySelectorAll("li[data-cluster] .dot")) {
      const cluster = Number(dot.closest("li").dataset.cluster);
      dot.style.background = colour === "cluster" ? PALETTE[cluster % PALETTE.length] : "none";
    }
  }

  labelNames() {
    const option = document.querySelector("[name=colour]").selectedOptions[0];
    const names = JSON.parse(option.dataset.names);
    const item = (name, colour) => {
      const dot = element("i", { className: "dot" });
      dot.style.background = colour;
      return element("li", {}, dot, ` ${name}`);
    };
    const made = names.map((name, at) => item(name, PALETTE[at]));
    return this.points.label.includes(255) ? [...made, item("others", GREY)] : made;
  }

  learnColours() {
    const probe = document.createElement("canvas").getContext("2d");
    const read = (colour) => {
      probe.fillStyle = colour; // as #rrggbb
      return packed(channels(probe.fillStyle));
    };
    const { backgroundColor, borderTopColor } = getComputedStyle(this.find(".plane"));
    this.grounds = { ground: read(backgroundColor), faint: read(borderTopColor) };
  }

  resized() {
    const { width, height } = this.plane;
    this.plane.resize();
    if (!width || !height) this.plane.show(-1, -1, 1, 1);
    this.redraw();
  }

  redraw() {
    if (this.drawing || !this.colours) return;
    this.drawing = requestAnimationFrame(() => {
      this.drawing = 0;
      this.plane.draw(this.points, this.colours, this.chosen, this.tiles, this.grounds);
      if (!this.seen) performance.mark("map seen"); // benchmarks/latent/map.py reads it
      this.seen = true;
    });
  }

  fit() {
    this.plane.show(...this.bounds());
  }

  bounds() {
    const { x, y } = this.points;
    return [Math.min, Math.max].flatMap((of) => [x, y].map((values) => values.reduce((one, other) => of(one, other), of === Math.min ? 1 : -1)));
  }

  restoreView() {
    const [x, y, scale] = location.hash.slice(1).split(",").map(Number);
    this.fit();
    if (scale > 0 && Math.abs(x) < 9 && Math.abs(y) < 9) this.plane.view = { x, y, scale: this.plane.bounded(scale) };
  }

  // The view is in the address: going back from an image shows the same view.
  settled() {
    clearTimeout(this.settling);
    this.settling = setTimeout(() => {
      const { x, y, scale } = this.plane.view;
      history.replaceState(null, "", `#${x.toFixed(4)},${y.toFixed(4)},${scale.toFixed(1)}`);
    }, 250);
  }

  remember(given) {
    const address = new URL(location.href);
    for (const [name, value] of Object.entries(given)) {
      if (value === null) address.searchParams.delete(name);
      else address.searchParams.set(name, value);
    }
    history.replaceState(null, "", address);
  }

  name(row) {
    const cluster = this.points.cluster[row];
    const said = cluster === 65535 ? "no cluster" : this.root.querySelector(`button[data-cluster="${cluster}"]`)?.textContent.trim();
    return `Image ${this.points.ids[row]}, ${said ?? `cluster ${cluster + 1}`}`;
  }

  pictureOf(row) {
    return `${this.at.picture}/${this.points.ids[row]}`;
  }

  // Shows the tooltip of a row beside its point.
  point(row, spoken) {
    const tip = this.find(".tip");
    if (row !== this.under) {
      this.under = row;
      tip.hidden = row < 0;
      if (row >= 0) {
        tip.querySelector("img").src = `${this.at.thumbnail}/${this.points.ids[row]}/thumbnail?side=96`;
        tip.querySelector("span").textContent = this.name(row);
      }
    }
    if (row < 0) return;
    const [x, y] = this.plane.toPage(this.points.x[row], this.points.y[row]);
    const [right, low] = [x > this.plane.width - 140, y > this.plane.height - 160];
    tip.style.transform = `translate(${Math.round(x + (right ? -132 : 14))}px, ${Math.round(y + (low ? -150 : 14))}px)`;
    if (spoken) this.find("[data-spoken]").textContent = this.name(row);
  }

  choose(rows) {
    const box = this.find(".chosen");
    this.chosen = null;
    if (rows?.length) {
      this.chosen = new Uint8Array(this.points.count);
      for (const row of rows) this.chosen[row] = 1;
      this.list(box, rows);
    }
    box.hidden = !this.chosen;
    this.redraw();
  }

  list(box, rows) {
    const ids = rows.map((row) => this.points.ids[row]);
    const step = Math.max(1, ids.length / LISTED); // evenly spread over the selection
    const some = Array.from({ length: Math.min(LISTED, ids.length) }, (_, at) => ids[Math.floor(at * step)]);
    box.querySelector("h2").textContent = `${number(ids.length)} selected${ids.length > some.length ? `, ${some.length} shown here` : ""}`;
    box.querySelector(".some").replaceChildren(...some.map((id) => this.tile(id)));
    const asked = new URLSearchParams(some.slice(0, ASKED).map((id) => ["positive_id", id]));
    box.querySelector("[data-like]").href = `${this.at.search}?${asked}`;
  }

  tile(id) {
    const image = element("img", { loading: "lazy", src: `${this.at.thumbnail}/${id}/thumbnail?side=96`, alt: `Image ${id}` });
    return element("li", {}, element("a", { className: "frame", href: `${this.at.picture}/${id}` }, image));
  }
}

async function wait(address, layout, isDone, say) {
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, 1000));
    try {
      const found = await askJson(`${address}?layout=${layout}`);
      if (isDone(found)) return;
      const { stage, done, total } = found.computing ?? { stage: "waiting" };
      say(total ? `${stage}: ${number(done)} of ${number(total)}` : `${stage} …`);
    } catch (error) {
      if (error.status !== 503 || error.response?.headers.get("retry-after") === "30") throw error;
      say(error.message);
    }
  }
}

async function make(button) {
  const said = button.parentElement.querySelector(".said");
  const { make: layout, method: clusters = "kmeans" } = button.dataset;
  const address = `${root}v1/map`;
  button.disabled = true;
  said.textContent = "starting …";
  try {
    await ask(address, json({ layout, clusters }));
    await wait(address, layout, (found) => !found.computing, (words) => (said.textContent = words));
    location.assign(`${root}map?layout=${layout}`);
  } catch (error) {
    said.textContent = error.message;
    button.disabled = false;
  }
}

const box = document.querySelector("[data-map]");
if (box) new MapPage(box).open().catch(complain);

const waiting = document.querySelector("[data-wait]");
if (waiting) {
  const said = waiting.querySelector("[role=status]");
  wait(waiting.dataset.wait, waiting.dataset.layout, () => true, (words) => (said.textContent = words)).then(() => location.reload(), (error) => (said.textContent = error.message));
}

document.addEventListener("click", ({ target }) => {
  const button = target.closest("[data-make]");
  if (button) make(button);
});
