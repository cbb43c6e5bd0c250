// Tiles of 256 thumbnails each: fetched when a part of the plane is seen from near, the last ones kept.

import { ask } from "./asking.js";

export const PER_TILE = 256;
const COLUMNS = 16;
const KEPT = 48; // tiles of 768 x 768 pixels: 110 MB
const TOGETHER = 4; // asked for at a time

export class Tiles {
  constructor(address, layout, tag, side, onArrival) {
    Object.assign(this, { address, layout, tag, side, onArrival });
    this.known = new Map(); // number to image; null while it is on its way, or could not be had
    this.wanted = [];
    this.underway = 0;
  }

  // The tile with a place, if it is here, and where in it the thumbnail lies.
  find(place) {
    const number = Math.floor(place / PER_TILE);
    const picture = this.known.get(number);
    const cell = place % PER_TILE;
    return picture ? [picture, (cell % COLUMNS) * this.side, Math.floor(cell / COLUMNS) * this.side] : null;
  }

  // These are needed now, the most needed first; what was needed before and is no more is forgotten.
  need(numbers) {
    for (const number of numbers) {
      const picture = this.known.get(number);
      if (picture) {
        this.known.delete(number); // and to the end, as the last that was used
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
      if (error.status === 503) this.known.delete(number); // asked for again as soon as something moves
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
