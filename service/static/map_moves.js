// Pointer, wheel, key and button handlers of the map.

const STILL = 4; // pixels within which a press is a click
const STEP = 80; // pixels of an arrow key
const NEAR = 1.5; // factor of a key or a button

export function listen(map) {
  const { plane, root } = map;
  const { canvas } = plane;
  const mark = root.querySelector(".mark");
  const pointers = new Map();
  let [start, moved, selecting, always] = [null, false, false, false];

  const changed = () => {
    map.redraw();
    map.settled();
  };
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };

  function drawMark([x, y]) {
    const [left, top] = [Math.min(x, start[0]), Math.min(y, start[1])];
    Object.assign(mark.style, { left: `${left}px`, top: `${top}px`, width: `${Math.abs(x - start[0])}px`, height: `${Math.abs(y - start[1])}px` });
    mark.hidden = false;
  }

  function select([x, y]) {
    const [one, other] = [plane.toPlane(...start), plane.toPlane(x, y)];
    const range = (axis) => [Math.min(one[axis], other[axis]), Math.max(one[axis], other[axis])];
    const [[left, right], [bottom, top]] = [range(0), range(1)];
    map.choose(map.points.within(left, bottom, right, top));
  }

  function pinch() {
    const [[oneX, oneY], [otherX, otherY]] = [...pointers.values()];
    return { apart: Math.hypot(oneX - otherX, oneY - otherY), x: (oneX + otherX) / 2, y: (oneY + otherY) / 2 };
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, place(event));
    [start, moved] = [place(event), pointers.size > 1];
    selecting = pointers.size === 1 && (event.shiftKey || always);
    map.point(-1);
  });

  canvas.addEventListener("pointermove", (event) => {
    const now = place(event);
    const before = pointers.get(event.pointerId);
    if (!before) {
      if (event.pointerType !== "touch") map.point(plane.rowAt(map.points, ...now));
      canvas.style.cursor = map.under >= 0 ? "pointer" : "";
      return;
    }
    if (!moved && Math.hypot(now[0] - start[0], now[1] - start[1]) < STILL) return;
    moved = true;
    if (selecting) {
      drawMark(now);
      return;
    }
    const was = pointers.size > 1 ? pinch() : null;
    pointers.set(event.pointerId, now);
    if (was) {
      const is = pinch();
      plane.zoom(is.apart / Math.max(was.apart, 1), is.x, is.y);
      plane.move(is.x - was.x, is.y - was.y);
    } else plane.move(now[0] - before[0], now[1] - before[1]);
    changed();
  });

  function ended(event) {
    if (!pointers.delete(event.pointerId) || event.type === "pointercancel") {
      mark.hidden = true;
      return;
    }
    const now = place(event);
    if (selecting && moved) select(now);
    else if (!moved) {
      const row = plane.rowAt(map.points, ...now);
      if (row >= 0) location.assign(map.pictureOf(row));
      else map.choose(null);
    }
    mark.hidden = true;
    selecting = false;
  }
  canvas.addEventListener("pointerup", ended);
  canvas.addEventListener("pointercancel", ended);
  canvas.addEventListener("pointerleave", () => pointers.size || map.point(-1));

  canvas.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      const lines = event.deltaMode === 1 ? 16 : 1;
      plane.zoom(Math.exp(-event.deltaY * lines * 0.0016), ...place(event));
      map.point(-1);
      changed();
    },
    { passive: false },
  );

  function middle() {
    const [x, y] = plane.toPlane(plane.width / 2, plane.height / 2);
    return map.points.nearest(x, y, (0.5 * plane.height) / plane.view.scale);
  }

  const acts = {
    in: () => plane.zoom(NEAR),
    out: () => plane.zoom(1 / NEAR),
    fit: () => map.fit(),
    pictures: (button) => {
      plane.withPictures = !plane.withPictures;
      button.setAttribute("aria-pressed", String(plane.withPictures));
    },
    clear: () => map.choose(null),
    select: (button) => {
      always = !always;
      button.setAttribute("aria-pressed", String(always));
    },
  };
  const keys = {
    ArrowLeft: () => plane.move(STEP, 0),
    ArrowRight: () => plane.move(-STEP, 0),
    ArrowUp: () => plane.move(0, STEP),
    ArrowDown: () => plane.move(0, -STEP),
    "+": acts.in,
    "=": acts.in,
    "-": acts.out,
    0: acts.fit,
    s: () => map.choose(map.points.within(...plane.sight())),
    Escape: acts.clear,
  };

  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Enter") {
      const row = map.under >= 0 ? map.under : middle();
      if (row >= 0) location.assign(map.pictureOf(row));
      return;
    }
    if (!keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
    map.under = -1; // the view has moved
    map.point(middle(), true);
    changed();
  });
  canvas.addEventListener("blur", () => map.point(-1));

  document.addEventListener("click", ({ target }) => {
    const button = target.closest("[data-do], button[data-cluster]");
    if (!button) return;
    if (button.dataset.do) acts[button.dataset.do](button);
    else showCluster(map, Number(button.dataset.cluster));
    changed();
  });
}

// Selects a cluster, and zooms to it, without its outermost 2 %.
function showCluster(map, cluster) {
  const { points, plane } = map;
  const rows = [...points.cluster.keys()].filter((row) => points.cluster[row] === cluster);
  const middle = (values) => {
    const sorted = rows.map((row) => values[row]).sort((one, other) => one - other);
    return [sorted[Math.floor(sorted.length * 0.02)], sorted[Math.ceil(sorted.length * 0.98) - 1]];
  };
  const [[left, right], [bottom, top]] = [middle(points.x), middle(points.y)];
  plane.show(left, bottom, right, top);
  map.choose(rows);
}
