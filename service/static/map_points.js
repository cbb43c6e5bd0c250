// The points of a map: fetched as binary columns, and found by position.

import { ask } from "./asking.js";

const CELLS = 256; // on each side of the plane, which is from -1 to 1
const cellOf = (value) => Math.max(0, Math.min(CELLS - 1, Math.floor(((value + 1) / 2) * CELLS)));

export async function fetchPoints(address, layout, label) {
  const asked = new URLSearchParams(label ? { layout, label } : { layout });
  const response = await ask(`${address}/points?${asked}`, { headers: { Accept: "application/octet-stream" } });
  return new Points(await response.arrayBuffer());
}

export class Points {
  constructor(buffer) {
    const count = new Uint32Array(buffer, 0, 1)[0];
    let at = 8;
    const column = (Kind) => {
      const found = new Kind(buffer, at, count);
      at += found.byteLength;
      return found;
    };
    this.count = count;
    this.ids = column(Float64Array);
    this.x = column(Float32Array);
    this.y = column(Float32Array);
    this.place = column(Int32Array); // in the tiles; -1 for a newer image
    this.cluster = column(Uint16Array); // 65535: none
    this.density = column(Uint8Array); // 255: unknown, as in the next columns
    this.error = column(Uint8Array);
    this.label = column(Uint8Array);
    this.index();
  }

  // Rows by grid cell: cell c has rows[starts[c]] to rows[starts[c + 1]], exclusive.
  index() {
    const starts = new Int32Array(CELLS * CELLS + 1);
    const cells = new Int32Array(this.count);
    for (let row = 0; row < this.count; row++) {
      cells[row] = cellOf(this.y[row]) * CELLS + cellOf(this.x[row]);
      starts[cells[row] + 1]++;
    }
    for (let cell = 0; cell < CELLS * CELLS; cell++) starts[cell + 1] += starts[cell];
    const next = starts.slice();
    this.rows = new Int32Array(this.count);
    for (let row = 0; row < this.count; row++) this.rows[next[cells[row]]++] = row;
    this.starts = starts;
  }

  // Returns the rows within a rectangle of the plane.
  within(left, bottom, right, top) {
    const found = [];
    for (let down = cellOf(bottom); down <= cellOf(top); down++) {
      for (let at = this.starts[down * CELLS + cellOf(left)]; at < this.starts[down * CELLS + cellOf(right) + 1]; at++) {
        const row = this.rows[at];
        if (this.x[row] >= left && this.x[row] <= right && this.y[row] >= bottom && this.y[row] <= top) found.push(row);
      }
    }
    return found;
  }

  // Returns the row nearest to a point, at most `reach` away; -1 for none.
  nearest(x, y, reach) {
    let [best, least] = [-1, reach * reach];
    for (const row of this.within(x - reach, y - reach, x + reach, y + reach)) {
      const apart = (this.x[row] - x) ** 2 + (this.y[row] - y) ** 2;
      if (apart <= least) [best, least] = [row, apart];
    }
    return best;
  }
}
