// Paints square pixels with pointer, touch or keys. The value is a PNG as a data: address, or "".
const canvas = element.querySelector("canvas");
const cursor = element.querySelector(".abd-cursor");
const color = element.querySelector("input[type=color]");
const eraser = element.querySelector("input[type=checkbox]");
const said = element.querySelector("[aria-live]");
const brush = canvas.getContext("2d");
let place = [canvas.width - 1, canvas.height - 1];
let last = null;

const show = () => {
  cursor.style.left = `${(100 * place[0]) / canvas.width}%`;
  cursor.style.top = `${(100 * place[1]) / canvas.height}%`;
};
const paint = ([x, y], erase) => {
  brush.fillStyle = color.value;
  erase ? brush.clearRect(x, y, 1, 1) : brush.fillRect(x, y, 1, 1);
};
const line = (from, to, erase) => {
  const steps = Math.max(Math.abs(to[0] - from[0]), Math.abs(to[1] - from[1]), 1);
  for (let step = 0; step <= steps; step++)
    paint(from.map((start, axis) => Math.round(start + ((to[axis] - start) * step) / steps)), erase);
};
const finish = () => {
  const used = brush.getImageData(0, 0, canvas.width, canvas.height).data.some((level, i) => i % 4 === 3 && level);
  const value = used ? canvas.toDataURL("image/png") : "";
  if (value === props.value) return;
  props.value = value;
  trigger("input");
};
const under = (event) => {
  const box = canvas.getBoundingClientRect();
  const along = (at, start, length, count) => Math.min(count - 1, Math.max(0, Math.floor(((at - start) / length) * count)));
  return [along(event.clientX, box.left, box.width, canvas.width), along(event.clientY, box.top, box.height, canvas.height)];
};
canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  last = place = under(event);
  paint(place, eraser.checked);
  show();
});
canvas.addEventListener("pointermove", (event) => {
  if (!last) return;
  place = under(event);
  line(last, place, eraser.checked);
  last = place;
  show();
});
for (const kind of ["pointerup", "pointercancel"])
  canvas.addEventListener(kind, () => {
    if (!last) return;
    last = null;
    finish();
  });
canvas.addEventListener("keydown", (event) => {
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const erases = ["Delete", "Backspace"].includes(event.key);
  if (steps[event.key]) {
    const [right, down] = steps[event.key];
    place = [
      Math.min(canvas.width - 1, Math.max(0, place[0] + right)),
      Math.min(canvas.height - 1, Math.max(0, place[1] + down)),
    ];
    show();
  } else if (event.key === " " || event.key === "Enter" || erases) {
    paint(place, erases || eraser.checked);
    finish();
  } else return;
  event.preventDefault();
  const painted = brush.getImageData(place[0], place[1], 1, 1).data[3] ? "painted" : "not painted";
  said.textContent = `column ${place[0] + 1}, row ${place[1] + 1}, ${painted}`;
});
element.querySelector("button").addEventListener("click", () => {
  brush.clearRect(0, 0, canvas.width, canvas.height);
  finish();
});

// The image that is asked about lies under the paint.
const follow = () => {
  const image = document.querySelector("#clean img");
  if (image) canvas.style.backgroundImage = `url("${image.src}")`;
};
const answers = document.querySelector("#try .abd-answers");
if (answers) new MutationObserver(follow).observe(answers, { subtree: true, childList: true, attributeFilter: ["src"] });
follow();
show();
if (props.value) {
  const before = new Image();
  before.onload = () => brush.drawImage(before, 0, 0);
  before.src = props.value;
}
