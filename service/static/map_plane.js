// Draws the points of a map. Dots are drawn pixel by pixel, which takes some milliseconds for 50,000 of them on any
// machine. When zoomed in, thumbnails are drawn over them, each in a cell of a grid that moves with the plane.

import { PER_TILE } from "./map_tiles.js";
import { hex } from "./map_colours.js";

const MOST_FOR_PICTURES = 6000; // with more visible points there are only dots
const SMALLEST = 26; // of a thumbnail, in CSS pixels
const LARGEST = 84;
const NEAREST = 4000; // largest zoom factor

export class Plane {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false });
    this.view = { x: 0, y: 0, scale: 1 }; // centre, and CSS pixels for one unit of the plane
    this.cells = new Map(); // from grid cell to the row whose thumbnail is there
    this.cell = 0; // side of a cell; 0 if there are only dots
    this.withPictures = true;
  }

  resize() {
    const ratio = Math.min(devicePixelRatio || 1, 2);
    const { clientWidth: width, clientHeight: height } = this.canvas;
    Object.assign(this, { ratio, width, height });
    this.canvas.width = Math.max(1, Math.round(width * ratio));
    this.canvas.height = Math.max(1, Math.round(height * ratio));
    this.image = this.context.createImageData(this.canvas.width, this.canvas.height);
    this.words = new Uint32Array(this.image.data.buffer);
  }

  // Zooms so that a rectangle of the plane fills the canvas.
  show(left, bottom, right, top) {
    const across = Math.min(this.width / Math.max(right - left, 1e-6), this.height / Math.max(top - bottom, 1e-6));
    this.view = { x: (left + right) / 2, y: (bottom + top) / 2, scale: this.bounded(across * 0.94) };
  }

  bounded(scale) {
    const least = Math.min(this.width, this.height) / 4;
    return Math.max(least, Math.min(scale, least * NEAREST));
  }

  toPlane(x, y) {
    const { view } = this;
    return [view.x + (x - this.width / 2) / view.scale, view.y - (y - this.height / 2) / view.scale];
  }

  toPage(x, y) {
    const { view } = this;
    return [(x - view.x) * view.scale + this.width / 2, this.height / 2 - (y - view.y) * view.scale];
  }

  sight() {
    const [left, top] = this.toPlane(0, 0);
    const [right, bottom] = this.toPlane(this.width, this.height);
    return [left, bottom, right, top];
  }

  zoom(factor, x = this.width / 2, y = this.height / 2) {
    const [atX, atY] = this.toPlane(x, y);
    const scale = this.bounded(this.view.scale * factor);
    this.view = { x: atX - (x - this.width / 2) / scale, y: atY + (y - this.height / 2) / scale, scale };
  }

  move(x, y) {
    const { view } = this;
    this.view = { ...view, x: view.x - x / view.scale, y: view.y + y / view.scale };
  }

  // The row at a position on the page: of the thumbnail there, or of the nearest dot.
  rowAt(points, x, y) {
    const [atX, atY] = this.toPlane(x, y);
    if (this.cell) {
      const row = this.cells.get(this.key(atX, atY));
      if (row !== undefined) return row;
    }
    return points.nearest(atX, atY, 10 / this.view.scale);
  }

  // colours: of each row; chosen: bytes, 1 for a selected row, or null; ground, faint: colours as numbers.
  draw(points, colours, chosen, tiles, { ground, faint }) {
    this.words.fill(ground);
    const seen = this.dots(points, colours, chosen, faint);
    this.context.putImageData(this.image, 0, 0);
    this.cells.clear();
    this.cell = 0;
    if (this.withPictures && seen <= MOST_FOR_PICTURES) this.pictures(points, colours, chosen, tiles);
  }

  dots(points, colours, chosen, faint) {
    const [width, height, scale] = [this.canvas.width, this.canvas.height, this.view.scale * this.ratio];
    const near = Math.sqrt((width * height) / Math.max(points.count, 1)) * 0.12;
    const radius = Math.max(1, Math.min(5, near * Math.sqrt(this.view.scale / (Math.min(this.width, this.height) / 2)))) * this.ratio;
    const stamp = stampOf(radius, width);
    const edge = Math.ceil(radius) + 1;
    const [left, top] = [width / 2 - this.view.x * scale, height / 2 + this.view.y * scale];
    const { x, y, count } = points;
    const { words } = this;
    let seen = 0;
    for (let pass = chosen ? 0 : 1; pass < 2; pass++) { // selected rows last, on top
      for (let row = 0; row < count; row++) {
        const across = (x[row] * scale + left) | 0;
        const down = (top - y[row] * scale) | 0;
        if (across < edge || down < edge || across >= width - edge || down >= height - edge) continue;
        if (chosen && chosen[row] !== pass) continue;
        seen++;
        const colour = chosen && !pass ? faint : colours[row];
        const at = down * width + across;
        for (let step = 0; step < stamp.length; step++) words[at + stamp[step]] = colour;
      }
    }
    return seen;
  }

  pictures(points, colours, chosen, tiles) {
    const { context, ratio } = this;
    const rows = points.within(...this.sight());
    const room = Math.sqrt((this.width * this.height) / Math.max(rows.length, 1));
    this.cell = Math.round(Math.max(SMALLEST, Math.min(LARGEST, room)) / 4) * 4;
    rows.sort((one, other) => one - other); // a cell shows the same image wherever the plane is moved
    for (const row of rows) {
      const key = this.key(points.x[row], points.y[row]);
      if (points.place[row] >= 0 && !this.cells.has(key)) this.cells.set(key, row);
    }
    const size = (this.cell - 3) * ratio;
    const needed = new Set();
    for (const [key, row] of this.cells) {
      const [x, y] = this.corner(key);
      needed.add(Math.floor(points.place[row] / PER_TILE));
      const found = tiles.find(points.place[row]);
      context.globalAlpha = chosen && !chosen[row] ? 0.25 : 1;
      context.fillStyle = hex(colours[row]);
      context.fillRect((x + 1) * ratio, (y + 1) * ratio, size + ratio, size + ratio);
      if (found) {
        const [picture, left, top] = found;
        context.drawImage(picture, left, top, tiles.side, tiles.side, (x + 2) * ratio, (y + 2) * ratio, size - ratio, size - ratio);
      }
    }
    context.globalAlpha = 1;
    tiles.need([...needed]);
  }

  key(x, y) {
    const side = this.cell / this.view.scale;
    return `${Math.floor(x / side)},${Math.floor(y / side)}`;
  }

  corner(key) {
    const [across, up] = key.split(",").map(Number);
    const side = this.cell / this.view.scale;
    return this.toPage(across * side, (up + 1) * side);
  }
}

const stamps = new Map();

// The pixels of a disc, as offsets from its centre in an image of this width.
function stampOf(radius, width) {
  const key = `${radius.toFixed(1)} ${width}`;
  if (!stamps.has(key)) {
    const found = [];
    const reach = Math.ceil(radius);
    for (let down = -reach; down <= reach; down++) {
      for (let across = -reach; across <= reach; across++) {
        if (Math.hypot(across, down) <= radius) found.push(down * width + across);
      }
    }
    if (stamps.size > 64) stamps.clear();
    stamps.set(key, Int32Array.from(found));
  }
  return stamps.get(key);
}
