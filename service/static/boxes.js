// A box that is drawn on the query image. The event `box` has it as x,y,width,height in shares of the image.

const MIN_SIDE = 0.03; // of the image: less is a click

let start = null; // where the pointer went down, in pixels of the image
let [frame, drawn] = [null, false];

// The position in pixels of the image, which is shown whole within its frame.
function position({ clientX, clientY }) {
  const svg = frame.querySelector(".box");
  const { x, y } = new DOMPoint(clientX, clientY).matrixTransform(svg.getScreenCTM().inverse());
  const { width, height } = svg.viewBox.baseVal;
  return { x: Math.min(Math.max(x, 0), width), y: Math.min(Math.max(y, 0), height) };
}

function rectangle(end) {
  const [x, y] = [Math.min(start.x, end.x), Math.min(start.y, end.y)];
  return { x, y, width: Math.abs(end.x - start.x), height: Math.abs(end.y - start.y) };
}

function draw(shape) {
  const svg = frame.querySelector(".box");
  const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  for (const [name, value] of Object.entries(shape)) rect.setAttribute(name, value);
  rect.setAttribute("vector-effect", "non-scaling-stroke");
  svg.replaceChildren(rect);
}

document.addEventListener("pointerdown", (event) => {
  frame = event.button === 0 && event.isPrimary ? event.target.closest("[data-boxes]") : null;
  drawn = false;
  if (frame) start = position(event);
});

document.addEventListener("pointermove", (event) => {
  if (frame && event.isPrimary) draw(rectangle(position(event)));
});

document.addEventListener("pointerup", (event) => {
  if (!frame || !event.isPrimary) return;
  const { width, height } = frame.querySelector(".box").viewBox.baseVal;
  const shape = rectangle(position(event));
  const shares = [shape.x / width, shape.y / height, shape.width / width, shape.height / height];
  drawn = Math.min(shares[2], shares[3]) >= MIN_SIDE;
  if (drawn) document.dispatchEvent(new CustomEvent("box", { detail: shares.map((share) => share.toFixed(4)).join(",") }));
  frame = null;
});

document.addEventListener("pointercancel", () => (frame = null));
document.addEventListener("dragstart", (event) => event.target.closest?.("[data-boxes]") && event.preventDefault());
// The end of a box is no click on the image.
document.addEventListener(
  "click",
  (event) => {
    if (!drawn) return;
    event.preventDefault();
    event.stopPropagation();
    drawn = false;
  },
  true,
);
