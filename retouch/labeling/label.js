"use strict";
// Label images by hand; a ridge classifier on their features suggests which ones to label next.
// Names and paths are only ever set as text, never as HTML.

const DATA = JSON.parse(document.getElementById("data").textContent);
const N = DATA.paths.length, D = DATA.width;
const X = readHalf(DATA.features);  // Float64Array [N D]
const SHOWN = 200;  // images per page of the grid; the map shows all images that have positions
const HUES = 10;  // colors of classes on the map
const STRENGTH = 0.01;  // of the ridge penalty, relative to the mean squared error

const classes = [];  // names
const labels = new Int32Array(N).fill(-1);
let chosen = -1;  // the class that a click assigns
let counts = [];  // labeled images of each class
let scores = null;  // Float64Array [N C], as soon as two classes have images
let order = Array.from({length: N}, (_, i) => i);  // the images to show, in this order
let first = 0;  // index in the order of the first image on this page
let unsaved = false;

const element = (id) => document.getElementById(id);

// ---- features: float16, little endian, in base64

function readHalf(text) {
  const raw = atob(text), found = new Float64Array(raw.length / 2);
  for (let i = 0; i < found.length; i++) {
    const bits = raw.charCodeAt(2 * i) | (raw.charCodeAt(2 * i + 1) << 8);
    const exponent = (bits >> 10) & 31, fraction = bits & 1023;
    const size = exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : (fraction / 1024) * 2 ** -14;
    found[i] = bits & 32768 ? -size : size;
  }
  return found;
}

// ---- ridge regression onto one-hot labels: minimize (1/n) |X W - Y|^2 + s |W|^2, both centered

function ridge(rows, targets, C) {
  const n = rows.length, mean = new Float64Array(D), share = new Float64Array(C);
  for (let r = 0; r < n; r++) {
    for (let j = 0; j < D; j++) mean[j] += X[rows[r] * D + j] / n;
    share[targets[r]] += 1 / n;
  }
  const A = new Float64Array(D * D), B = new Float64Array(D * C);
  for (let r = 0; r < n; r++) {
    for (let j = 0; j < D; j++) {
      const x = X[rows[r] * D + j] - mean[j];
      for (let k = 0; k <= j; k++) A[j * D + k] += x * (X[rows[r] * D + k] - mean[k]) / n;
      for (let c = 0; c < C; c++) B[j * C + c] += x * ((targets[r] === c) - share[c]) / n;
    }
  }
  for (let j = 0; j < D; j++) A[j * D + j] += STRENGTH;
  const W = solve(A, B, C), found = new Float64Array(N * C);
  for (let i = 0; i < N; i++) {
    for (let c = 0; c < C; c++) {
      let sum = share[c];
      for (let j = 0; j < D; j++) sum += (X[i * D + j] - mean[j]) * W[j * C + c];
      found[i * C + c] = sum;
    }
  }
  return found;
}

// A W = B by Cholesky, A = L L^T; the lower half of A becomes L, and B becomes W
function solve(A, B, C) {
  for (let j = 0; j < D; j++) {
    for (let i = j; i < D; i++) {
      let sum = A[i * D + j];
      for (let k = 0; k < j; k++) sum -= A[i * D + k] * A[j * D + k];
      A[i * D + j] = i === j ? Math.sqrt(sum) : sum / A[j * D + j];
    }
  }
  for (let c = 0; c < C; c++) {
    for (let i = 0; i < D; i++) {
      for (let k = 0; k < i; k++) B[i * C + c] -= A[i * D + k] * B[k * C + c];
      B[i * C + c] /= A[i * D + i];
    }
    for (let i = D - 1; i >= 0; i--) {
      for (let k = i + 1; k < D; k++) B[i * C + c] -= A[k * D + i] * B[k * C + c];
      B[i * C + c] /= A[i * D + i];
    }
  }
  return B;
}

// the class of an image with the highest score, and its margin over the second
function guess(i) {
  const C = classes.length;
  let best = -1, top = -Infinity, second = -Infinity;
  for (let c = 0; c < C; c++) {
    const score = counts[c] ? scores[i * C + c] : -Infinity;
    if (score > top) { second = top; top = score; best = c; } else if (score > second) second = score;
  }
  return {best, margin: top - second};
}

// ---- order

function learn() {
  const rows = [];
  for (let i = 0; i < N; i++) if (labels[i] >= 0) rows.push(i);
  counts = classes.map((_, c) => rows.filter((i) => labels[i] === c).length);
  const several = counts.filter((n) => n > 0).length > 1;
  scores = several ? ridge(rows, rows.map((i) => labels[i]), classes.length) : null;
}

function sort() {
  const by = element("order").value, all = Array.from({length: N}, (_, i) => i);
  if (by === "labeled") order = all.filter((i) => labels[i] >= 0);
  else if (by === "map") order = all.slice(0, DATA.places.length);
  else {
    order = all.filter((i) => labels[i] < 0);
    if (scores && by === "uncertain") {
      const margin = Float64Array.from(all, (i) => guess(i).margin);
      order.sort((a, b) => margin[a] - margin[b] || a - b);
    } else if (scores && by.startsWith("class")) {
      const c = Number(by.slice(5)), C = classes.length;
      order.sort((a, b) => scores[b * C + c] - scores[a * C + c] || a - b);
    }
  }
  first = 0;
}

// ---- what is shown

function show() {
  const map = element("order").value === "map";
  element("map").replaceChildren(...(map ? order.map(placed) : []));
  const cells = map ? [] : order.slice(first, first + SHOWN).map((i) => {
    const item = document.createElement("li");
    item.append(thumbnail(i));
    return item;
  });
  element("grid").replaceChildren(...cells);
  const last = map ? order.length : first + cells.length;
  element("where").textContent = order.length ? (first + 1) + " to " + last + " of " + order.length : "no images";
  element("back").disabled = first === 0;
  element("next").disabled = last >= order.length;
}

function thumbnail(i) {
  const button = document.createElement("button"), image = document.createElement("i");
  const per = DATA.across ** 2, place = i % per;
  image.className = "sheet" + Math.floor(i / per);
  const percent = (k) => (100 * k) / (DATA.across - 1) + "%";
  image.style.backgroundPosition = percent(place % DATA.across) + " " + percent(Math.floor(place / DATA.across));
  button.type = "button";
  button.dataset.image = i;
  button.title = DATA.paths[i];
  button.append(image, document.createElement("span"));
  mark(button);
  return button;
}

function placed(i) {
  const button = thumbnail(i), [x, y] = DATA.places[i];
  button.style.left = x / 10 + "%";
  button.style.top = y / 10 + "%";
  return button;
}

function mark(button) {
  const i = Number(button.dataset.image), name = DATA.paths[i].split("/").pop();
  const labeled = labels[i] >= 0, of = labeled ? labels[i] : scores ? guess(i).best : -1;
  const said = of < 0 ? "" : labeled ? classes[of] : classes[of] + "?";
  button.toggleAttribute("data-labeled", labeled);
  button.dataset.hue = of < 0 ? "" : of % HUES;
  button.lastChild.textContent = said;
  button.setAttribute("aria-label", name + (said ? ", " + said : ""));
}

function showClasses() {
  element("classes").replaceChildren(...classes.map((name, c) => {
    const button = document.createElement("button"), key = document.createElement("kbd");
    const number = document.createElement("small");
    key.textContent = c < 9 ? String(c + 1) : "";
    button.dataset.hue = c % HUES;
    number.textContent = String(counts[c]);
    button.type = "button";
    button.append(key, name, number);
    button.setAttribute("aria-pressed", String(c === chosen));
    button.addEventListener("click", () => { chosen = c; showClasses(); });
    return button;
  }));
  const views = [["uncertain", "most uncertain first"], ...classes.map((name, c) => ["class" + c, "most similar to " + name]),
    ["labeled", "labeled"], ...(DATA.places.length ? [["map", "map: similar images are close"]] : [])];
  const before = element("order").value;
  element("order").replaceChildren(...views.map(([value, text]) => {
    const option = document.createElement("option");
    option.value = value;
    option.textContent = text;
    return option;
  }));
  element("order").value = views.some(([value]) => value === before) ? before : "uncertain";
  const done = counts.reduce((sum, one) => sum + one, 0);
  element("save").disabled = !done;
  if (classes.length) {
    const missing = classes.filter((_, c) => !counts[c]);
    element("status").textContent = done + " of " + N + " labeled. " + (scores
      ? "Guesses have a question mark. Sort again to see what to label next."
      : "To get guesses, label images of two classes" + (missing.length ? "; none yet: " + missing.join(", ") : "") + ".");
  }
}

// the next image in a direction, in the grid or on the map: the nearest one within 45 degrees of the direction
function beside(button, [right, down]) {
  const middle = (one) => { const box = one.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]; };
  const [x, y] = middle(button);
  let best = null, least = Infinity;
  for (const one of element("images").querySelectorAll("button")) {
    const [u, v] = middle(one), ahead = (u - x) * right + (v - y) * down, aside = Math.abs((u - x) * down + (v - y) * right);
    if (ahead >= 1 && aside <= ahead && ahead + aside < least) { best = one; least = ahead + aside; }
  }
  return best;
}

// ---- actions

function give(button, c) {
  const i = Number(button.dataset.image);
  if (c < 0) {
    element("status").textContent = "Add a class first.";
    element("name").focus();
    return;
  }
  labels[i] = labels[i] === c ? -1 : c;
  unsaved = true;
  learn();
  for (const cell of element("images").querySelectorAll("button")) mark(cell);
  showClasses();
}

function addClass(name) {
  name = name.normalize("NFC").trim().split(/\s+/).join(" ");  // as when class names are read from labels.csv
  if (!name) return;
  chosen = classes.indexOf(name);
  if (chosen < 0) chosen = classes.push(name) - 1;
  learn();
  showClasses();
}

const cell = (text) => '"' + text.replaceAll('"', '""') + '"';

function csv() {
  const lines = ["path,label"];
  for (let i = 0; i < N; i++) if (labels[i] >= 0) lines.push(cell(DATA.paths[i]) + "," + cell(classes[labels[i]]));
  return lines.join("\n") + "\n";
}

element("form").addEventListener("submit", (event) => {
  event.preventDefault();
  addClass(element("name").value);
  element("name").value = "";
});
element("order").addEventListener("change", () => { sort(); show(); });
element("sort").addEventListener("click", () => { sort(); show(); });
element("back").addEventListener("click", () => { first = Math.max(0, first - SHOWN); show(); scrollTo(0, 0); });
element("next").addEventListener("click", () => { first += SHOWN; show(); scrollTo(0, 0); });
element("images").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) give(button, chosen);
});
element("images").addEventListener("keydown", (event) => {
  const button = event.target.closest("button");
  if (!button || event.ctrlKey || event.metaKey || event.altKey) return;
  const way = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
  if (way) {
    event.preventDefault();
    beside(button, way)?.focus();
  } else if (/^[1-9]$/.test(event.key) && Number(event.key) <= classes.length) {
    give(button, Number(event.key) - 1);
  }
});
element("save").addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([csv()], {type: "text/csv"}));
  link.download = "labels.csv";
  link.click();
  unsaved = false;
});
addEventListener("beforeunload", (event) => { if (unsaved) event.preventDefault(); });

learn();
showClasses();
show();
