// Tiles of 256 thumbnails each: fetched when the map is zoomed in; the last ones used are cached.

import { ask } from "./asking.js";

export const PER_TILE = 256;
const COLUMNS = 16;
const KEPT = 48; // tiles of 768 x 768 pixels: 110 MB
const TOGETHER = 4; // parallel requests

export class Tiles {
  constructor(address, layout, tag, side, onArrival) {
    Object.assign(this, { address, layout, tag, side, onArrival });
    this.known = new Map(); // from number to image; null while it is being fetched, or after a failure
    this.wanted = [];
    this.underway = 0;
  }

  // Returns the tile of a place, if it is loaded, and the position of the thumbnail in it.
  find(place) {
    const number = Math.floor(place / PER_TILE);
    const picture = this.known.get(number);
    const cell = place % PER_TILE;
    return picture ? [picture, (cell % COLUMNS) * this.side, Math.floor(cell / COLUMNS) * this.side] : null;
  }

  // Requests these tiles, in order; earlier requests that are not among them are dropped.
  need(numbers) {
    for (const number of numbers) {
      const picture = this.known.get(number);
      if (picture) {
        this.known.delete(number); // moves it to the end, as the last one used
        this.known.set(number, picture);
      }
    }
    this.wanted = numbers.filter((number) => !this.known.has(number));
    this.next();
  }

  next() {
    while (this.underway < TOGETHER && this.wanted.length) this.fetch(this.wanted.shift());
  }

  async fetch(number) {
    this.known.set(number, null);
    this.underway++;
    try {
      const asked = new URLSearchParams({ layout: this.layout, map: this.tag });
      const response = await ask(`${this.address}/tiles/${number}?${asked}`);
      this.known.set(number, await createImageBitmap(await response.blob()));
      this.forget();
    } catch (error) {
      if (error.status === 503) this.known.delete(number); // requested again when the view moves
    }
    this.underway--;
    this.next();
    this.onArrival();
  }

  forget() {
    for (const [number, picture] of this.known) {
      if (this.known.size <= KEPT) return;
      if (!picture) continue;
      picture.close();
      this.known.delete(number);
    }
  }
}
