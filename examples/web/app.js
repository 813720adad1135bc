// The page: what is asked for is kept in `wish`; any change asks the worker again, and only the newest answer
// is drawn.
import { claim, marked } from "./mark.js";

const QUERY = new URLSearchParams(location.search); // ?bundle=, ?backend=wasm|webgpu, ?precision=
const MAX_SEED = 2n ** 63n - 1n;
const SHOWN = 18; // thumbnails at a time

/** @typedef {{ embedding: Float32Array, row?: number, name: string }} Instance */

const $ = (/** @type {string} */ selector) => /** @type {any} */ (document.querySelector(selector));
const slots = { from: $('[data-slot="from"]'), to: $('[data-slot="to"]') };

/** @typedef {{ parents: any[] | null, generation: number }} Round whose children are drawn: of nobody in the first */

/** @type {{ from: Instance | null, to: Instance | null, share: number, seed: bigint, truncation: number, condition: string, n: number } & Round} */
const wish = { from: null, to: null, share: 0.5, seed: 0n, truncation: 0.7, condition: "query", n: 16, parents: null, generation: 0 };
/** @type {Round[]} the rounds before this one */
const rounds = [];
/** @type {WeakMap<Element, any>} of a tile: the latent that its picture was drawn from */
const latents = new WeakMap();
/** @type {any} */
let model;
/** @type {any} what draws, as claims name it */
let source;
/** @type {WeakMap<Element, any>} of a tile: how its picture was drawn, null for a mixture of two */
const origins = new WeakMap();
/** @type {any} */
let bank;
/** @type {Map<number, Promise<Uint8Array>>} what stored instances look like: RGB [looksSide, looksSide, 3] by row */
const looks = new Map();
let looksSide = 0;
/** @type {string[] | null} */
let labelNames = null;

// ---- worker ----------------------------------------------------------------------------------------------

const worker = { post: (/** @type {any} */ _) => {}, calls: new Map(), last: 0 };

function startWorker() {
  const thread = new Worker("worker.js", { type: "module" });
  worker.post = (message) => thread.postMessage(message);
  thread.addEventListener("message", ({ data }) => {
    const call = worker.calls.get(data.id);
    if ("partial" in data) return call.partial(data.partial);
    worker.calls.delete(data.id);
    if ("error" in data) call.reject(new Error(data.error));
    else call.resolve(data.result);
  });
  // a browser without workers of this kind, or one that could not fetch a part of it
  thread.addEventListener("error", () => {
    $("#status").textContent = "";
    showProblem("The models could not be started. Load the page again; if that does not help, this browser is too old for it: Chrome and Edge from 91, Firefox from 114 and Safari from 16.4 on run it.");
  });
}

/** @returns {Promise<any>} */
function ask(/** @type {string} */ method, argument = {}, partial = (/** @type {any} */ _) => {}) {
  const id = ++worker.last;
  return new Promise((resolve, reject) => {
    worker.calls.set(id, { resolve, reject, partial });
    worker.post({ id, method, argument });
  });
}

// ---- drawing ---------------------------------------------------------------------------------------------

/** RGB bytes [side, side, 3] onto a canvas. */
function paint(/** @type {HTMLCanvasElement} */ canvas, /** @type {Uint8Array} */ rgb, /** @type {number} */ side) {
  canvas.width = canvas.height = side;
  const image = new ImageData(side, side);
  for (let from = 0, to = 0; from < rgb.length; from += 3, to += 4) {
    image.data.set([rgb[from], rgb[from + 1], rgb[from + 2], 255], to);
  }
  canvas.getContext("2d")?.putImageData(image, 0, 0);
}

/**
 * Shows stored instances on canvases: their thumbnails, or what the model draws of them where the bundle has none.
 * @param {[HTMLCanvasElement, number][]} places canvases and rows of the bank
 */
function paintStored(places) {
  const rows = places.map(([_, row]) => row).filter((row, index, all) => !looks.has(row) && all.indexOf(row) === index);
  const asked = rows.length ? ask("looks", { rows }).catch((error) => (showProblem(error.message), [])) : Promise.resolve([]);
  rows.forEach((row, index) => looks.set(row, asked.then((pictures) => pictures[index])));
  for (const [canvas, row] of places) {
    canvas.dataset.row = String(row);
    looks.get(row)?.then((picture) => picture && canvas.dataset.row === String(row) && paint(canvas, picture, looksSide));
  }
}

function titleOf(/** @type {{ id: number, label: number | null, name: string }} */ { id, label, name }) {
  return name || (label !== null && labelNames?.[label]?.replaceAll(/[-_]/g, " ")) || `no. ${id}`;
}

/** Make `n` empty tiles, keeping those that are there. */
function layTiles() {
  const grid = $("#grid");
  grid.style.setProperty("--columns", String(Math.min(Math.ceil(Math.sqrt(wish.n)), 6)));
  while (grid.children.length > wish.n) grid.lastElementChild.remove();
  while (grid.children.length < wish.n) {
    const number = grid.children.length + 1;
    const tile = Object.assign(document.createElement("button"), { type: "button", disabled: true });
    tile.setAttribute("aria-label", `Generated picture ${number}`);
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = model.resolution;
    tile.append(canvas);
    tile.addEventListener("click", () => openViewer(tile));
    const pick = Object.assign(document.createElement("button"), { type: "button", className: "pick", textContent: "♥" });
    pick.setAttribute("aria-label", `Pick picture ${number}`);
    pick.addEventListener("click", () => setPicked(pick, pick.getAttribute("aria-pressed") !== "true"));
    const place = document.createElement("div");
    place.append(tile, pick);
    grid.append(place);
  }
  showRound();
}

/** The tiles, each beside the button that picks it. */
const tiles = () => [...$("#grid").children].map((place) => /** @type {HTMLElement} */ (place.firstElementChild));
const picked = () => tiles().filter((tile) => tile.nextElementSibling?.getAttribute("aria-pressed") === "true");

function setPicked(/** @type {Element} */ pick, /** @type {boolean} */ on) {
  pick.setAttribute("aria-pressed", String(on));
  showRound();
}

/** What can be done with what is picked. */
function showRound() {
  const count = picked().length;
  $("#more").disabled = count === 0;
  $("#more").textContent = count > 1 ? `More like these ${count}` : "More like this";
  $("#back").hidden = rounds.length === 0;
  $("#round").textContent = wish.generation
    ? `Round ${wish.generation}: what you picked, and its children.`
    : "Pick pictures with ♥, and get more of their kind.";
}

/** Another round; nothing stays picked, but what was picked is drawn first. */
function setRound(/** @type {Round} */ round) {
  Object.assign(wish, round);
  for (const tile of tiles()) tile.nextElementSibling?.setAttribute("aria-pressed", "false");
  showRound();
}

/** Something else is followed: rounds begin anew. */
function endRounds() {
  rounds.length = 0;
  setRound({ parents: null, generation: 0 });
}

/** Say so where nothing stored is like the picture. */
function showOutside(/** @type {number} */ score, /** @type {number | null} */ limit) {
  $("#outside").hidden = limit === null;
  if (limit === null) return;
  $("#outside").textContent =
    `This is less like any stored picture (${score.toFixed(2)}) than 99 % of them are to each other (${limit.toFixed(2)}): ` +
    "the model has not learnt such pictures, and draws what it knows.";
}

function showNeighbours(/** @type {{ row: number, id: number, score: number, label: number | null, name: string }[]} */ found) {
  const list = $("#neighbours");
  const shown = JSON.stringify(found);
  if (list.dataset.shown === shown) return; // the focus stays where it is
  list.dataset.shown = shown;
  const places = found.map((instance) => {
    const { row, score } = instance;
    const button = Object.assign(document.createElement("button"), { type: "button" });
    const name = titleOf(instance);
    const bar = document.createElement("i");
    bar.style.setProperty("--score", String(Math.max(score, 0)));
    const canvas = document.createElement("canvas");
    button.append(
      canvas,
      Object.assign(document.createElement("span"), { textContent: name, title: name }),
      Object.assign(document.createElement("b"), { textContent: score.toFixed(3) }),
      bar,
    );
    button.addEventListener("click", () => chooseStored(row));
    return { button, canvas, row };
  });
  list.replaceChildren(
    ...places.map(({ button }) => {
      const item = document.createElement("li");
      item.append(button);
      return item;
    }),
  );
  paintStored(places.map(({ canvas, row }) => [canvas, row]));
}

function showProblem(/** @type {string} */ text) {
  $("#problem").textContent = text;
  $("#problem").hidden = !text;
}

// ---- generating ------------------------------------------------------------------------------------------

async function generate() {
  if (!wish.from) return;
  layTiles();
  const places = tiles();
  const { from, to, ...request } = wish;
  const began = performance.now();
  $("#status").textContent = "Drawing…";
  const pixels = model.resolution ** 2 * 3;
  const result = await ask(
    "generate",
    { ...request, from: from.embedding, to: to?.embedding },
    ({ neighbours, outside, start, images, latents: drawnFrom }) => {
      if (neighbours) {
        showOutside(neighbours[0].score, outside);
        return showNeighbours(neighbours);
      }
      for (let at = 0; at * pixels < images.length; at++) {
        const tile = places[start + at];
        latents.set(tile, drawnFrom[at]);
        origins.set(tile, to || request.parents ? null : { ...request, request, source, first: start + at, n: 1 });
        paint(/** @type {any} */ (tile.firstElementChild), images.subarray(at * pixels, (at + 1) * pixels), model.resolution);
        /** @type {any} */ (tile).disabled = false;
      }
      performance.mark("first-picture");
    },
  );
  if (result.stopped) return;
  const seconds = (performance.now() - began) / 1000;
  $("#status").textContent = `${request.n} pictures in ${seconds.toFixed(seconds < 1 ? 2 : 1)} s`;
  $("#save").disabled = false;
}

/** Draw again soon; a failure is shown, not thrown. */
function changed() {
  generate().catch((error) => showProblem(error.message));
}

// ---- instances -------------------------------------------------------------------------------------------

function setInstance(/** @type {"from" | "to"} */ slot, /** @type {Instance | null} */ instance, paintSlot = (/** @type {any} */ _) => {}) {
  showProblem("");
  wish[slot] = instance;
  endRounds();
  const place = slots[slot];
  place.classList.toggle("empty", !instance);
  place.querySelector(".name").textContent = instance?.name ?? "nothing yet";
  if (instance) paintSlot(place.querySelector("canvas"));
  $("#mix-field").hidden = slots.to.querySelector(".clear").hidden = !wish.to;
  markThumbnails();
  changed();
}

async function followStored(/** @type {number} */ row, /** @type {"from" | "to"} */ slot = "from") {
  const stored = await ask("stored", { row });
  setInstance(slot, { embedding: stored.embedding, row, name: titleOf(stored) }, (canvas) => paintStored([[canvas, row]]));
}

let invented = 0; // so many instances of the seed were drawn

/** Follow the next instance that the bundle's prior draws from the seed. */
async function invent() {
  try {
    const { embedding, look } = await ask("invent", { seed: wish.seed, sample: invented });
    setInstance("from", { embedding, name: `invented, no. ${invented++}` }, (canvas) => paint(canvas, look, model.resolution));
  } catch (error) {
    showProblem(error instanceof Error ? error.message : String(error));
  }
}

/** A click on a stored instance follows it or mixes it in, as the switch below the stored pictures says. */
const chooseStored = (/** @type {number} */ row) => followStored(row, $('[name="slot"]:checked').value);

async function followFile(/** @type {Blob} */ file, /** @type {"from" | "to"} */ slot = "from", name = /** @type {any} */ (file).name || "a picture") {
  try {
    const { embedding, picture } = await ask("embed", { file });
    setInstance(slot, { embedding, name }, (canvas) => {
      delete canvas.dataset.row;
      paint(canvas, picture, model.preprocessing.size);
    });
  } catch (error) {
    showProblem(`${name}: ${/** @type {Error} */ (error).message}`);
  }
}

function markThumbnails() {
  for (const button of $("#thumbnails").children) {
    const row = Number(button.dataset.row);
    button.setAttribute("aria-pressed", String(row === wish.from?.row || row === wish.to?.row));
  }
}

/** Show some stored pictures, spread over the whole bank. */
function layThumbnails(/** @type {number} */ offset) {
  const step = Math.max(Math.floor(bank.count / SHOWN), 1);
  const rows = Array.from({ length: Math.min(SHOWN, bank.count) }, (_, index) => (offset + index * step) % bank.count);
  const buttons = rows.map((row) => {
    const button = Object.assign(document.createElement("button"), { type: "button" });
    button.dataset.row = String(row);
    button.setAttribute("aria-label", `Stored picture ${row + 1}`);
    button.append(document.createElement("canvas"));
    button.addEventListener("click", () => chooseStored(row));
    return button;
  });
  $("#thumbnails").replaceChildren(...buttons);
  paintStored(buttons.map((button, index) => [/** @type {HTMLCanvasElement} */ (button.firstChild), rows[index]]));
  markThumbnails();
}

// ---- downloads -------------------------------------------------------------------------------------------

function download(/** @type {HTMLCanvasElement} */ canvas, /** @type {string} */ name, /** @type {string | null} */ claimed) {
  canvas.toBlob(async (blob) => {
    const file = await marked(/** @type {Blob} */ (blob), claimed);
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(file), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  });
}

function downloadSheet() {
  const drawn = [...$("#grid").querySelectorAll("canvas")];
  const side = model.resolution;
  const columns = Math.ceil(Math.sqrt(drawn.length));
  const sheet = document.createElement("canvas");
  sheet.width = columns * (side + 2) - 2;
  sheet.height = Math.ceil(drawn.length / columns) * (side + 2) - 2;
  const context = /** @type {CanvasRenderingContext2D} */ (sheet.getContext("2d"));
  context.fillStyle = "white";
  context.fillRect(0, 0, sheet.width, sheet.height);
  drawn.forEach((tile, index) => context.drawImage(tile, (index % columns) * (side + 2), Math.floor(index / columns) * (side + 2)));
  download(sheet, `icgan-seed-${wish.seed}.png`, sheetClaim(drawn, { columns, gap: 2, left: 0 }));
}

/** What a sheet claims; nothing while a part of it still shows what was asked for before. */
function sheetClaim(/** @type {HTMLElement[]} */ canvases, /** @type {any} */ sheet) {
  const drawn = canvases.map((canvas) => origins.get(/** @type {Element} */ (canvas.parentElement)));
  const whole = drawn.every((origin) => origin && origin.request === drawn[0].request);
  return whole ? claim({ ...drawn[0], n: drawn.length }, sheet) : null;
}

/** @type {any} how the picture in the viewer was drawn */
let viewed = null;

function openViewer(/** @type {HTMLElement} */ tile) {
  viewed = origins.get(tile) ?? null;
  const viewer = $("#viewer");
  const canvas = viewer.querySelector("canvas");
  canvas.width = canvas.height = model.resolution;
  canvas.getContext("2d").drawImage(tile.firstElementChild, 0, 0);
  $("#viewer-title").textContent = tile.getAttribute("aria-label");
  viewer.showModal();
}

// ---- controls --------------------------------------------------------------------------------------------

function connectControls() {
  const show = () => {
    $("#truncation-value").textContent = wish.truncation.toFixed(2);
    $("#share-value").textContent = `${Math.round((1 - wish.share) * 100)} : ${Math.round(wish.share * 100)}`;
  };
  const on = (/** @type {string} */ selector, /** @type {(control: any) => void} */ change) =>
    $(selector).addEventListener("input", (/** @type {any} */ event) => {
      change(event.target);
      show();
      changed();
    });
  const setSeed = (/** @type {bigint} */ seed) => {
    wish.seed = seed;
    $("#seed").value = String(seed);
    $("#seed-slider").value = String(seed);
  };
  on("#truncation", (control) => (wish.truncation = Number(control.value)));
  on("#share", (control) => {
    wish.share = Number(control.value);
    endRounds();
  });
  on("#count", (control) => (wish.n = Number(control.value)));
  on("#condition", (control) => {
    wish.condition = control.value;
    endRounds();
  });
  on("#seed-slider", (control) => setSeed(BigInt(control.value)));
  $("#seed").addEventListener("input", () => {
    const text = $("#seed").value;
    const good = /^\d+$/.test(text) && BigInt(text) <= MAX_SEED;
    $("#seed").setCustomValidity(good ? "" : "A whole number from 0 to 2^63 - 1");
    if (!good) return;
    wish.seed = BigInt(text);
    $("#seed-slider").value = text;
    changed();
  });
  $("#dice").addEventListener("click", () => {
    setSeed(BigInt(Math.floor(Math.random() * 1000)));
    changed();
  });
  $("#more").addEventListener("click", () => {
    rounds.push({ parents: wish.parents, generation: wish.generation });
    setRound({ parents: picked().map((tile) => latents.get(tile)), generation: wish.generation + 1 });
    changed();
  });
  $("#back").addEventListener("click", () => {
    setRound(/** @type {Round} */ (rounds.pop()));
    changed();
  });
  $("#invent").addEventListener("click", invent);
  $("#others").addEventListener("click", () => layThumbnails(Math.floor(Math.random() * bank.count)));
  $("#save").addEventListener("click", downloadSheet);
  $("#close").addEventListener("click", () => $("#viewer").close());
  $("#save-one").addEventListener("click", () => download($("#viewer canvas"), `icgan-seed-${viewed?.seed ?? wish.seed}.png`, viewed && claim(viewed, { columns: 1, gap: 0, left: 0 })));
  $("#follow").addEventListener("click", () => {
    $("#viewer").close();
    $("#viewer canvas").toBlob((/** @type {Blob} */ blob) => followFile(blob, "from", "a generated picture"));
  });
  slots.to.querySelector(".clear").addEventListener("click", () => setInstance("to", null));
  show();
}

/** Pictures from the file dialog, dropped anywhere, or pasted. */
function connectFiles() {
  for (const [name, slot] of Object.entries(slots)) {
    const input = slot.querySelector("input");
    input.addEventListener("change", () => {
      if (input.files[0]) followFile(input.files[0], /** @type {"from" | "to"} */ (name));
      input.value = "";
    });
  }
  const slotAt = (/** @type {any} */ event) => (slots.to.contains(event.target) ? "to" : "from");
  const mark = (/** @type {string} */ over) => {
    for (const [name, slot] of Object.entries(slots)) slot.classList.toggle("over", name === over);
  };
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    mark(slotAt(event));
  });
  document.addEventListener("dragleave", () => mark(""));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    mark("");
    const file = event.dataTransfer?.files[0];
    if (file) followFile(file, slotAt(event));
  });
  document.addEventListener("paste", (event) => {
    const file = event.clipboardData?.files[0];
    if (file) followFile(file);
  });
}

function connectTheme() {
  const root = document.documentElement;
  root.dataset.theme = localStorage.getItem("theme") ?? "";
  $("#theme").addEventListener("click", () => {
    const dark = getComputedStyle(root).colorScheme === "dark" || (!root.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
    root.dataset.theme = dark ? "light" : "dark";
    localStorage.setItem("theme", root.dataset.theme);
  });
}

// ---- start -----------------------------------------------------------------------------------------------

/** The service worker keeps everything for offline use; without one (or on plain http) the page still works. */
async function keepOffline() {
  if (!navigator.serviceWorker || navigator.serviceWorker.controller) return;
  try {
    await navigator.serviceWorker.register("sw.js");
    const controlled = new Promise((resolve) => navigator.serviceWorker.addEventListener("controllerchange", resolve));
    await Promise.race([controlled, new Promise((resolve) => setTimeout(resolve, 2000))]);
    if (!crossOriginIsolated && navigator.serviceWorker.controller) location.reload(); // it adds the headers that threads need
  } catch {
    // private windows may refuse storage
  }
}

async function start() {
  connectTheme();
  await keepOffline();
  startWorker();
  const options = { bundle: QUERY.get("bundle") ?? "bundle/", backend: QUERY.get("backend"), precision: QUERY.get("precision") };
  const { manifest, labelNames: names, source: drawnBy, provider, threads, fallback } = await ask("load", options, ({ done, total }) => {
    $("#progress").value = done / total;
    $("#status").textContent =
      done < total ? `Loading ${(done / 1e6).toFixed(1)} of ${(total / 1e6).toFixed(1)} MB` : "Preparing the models…";
  });
  ({ model, bank } = manifest);
  labelNames = names;
  source = drawnBy;
  looksSide = bank.thumbnail_size ?? model.resolution;
  $("#drawn").hidden = bank.thumbnail_size !== null;
  $("#invent").hidden = !manifest.files["prior/prior.json"];
  const where = provider === "webgpu" ? "WebGPU" : threads > 1 ? `${threads} threads` : "1 thread";
  $("#facts").textContent = `${model.name} · ${model.resolution} × ${model.resolution} px · ${where} on your device`;
  $("#fallback").hidden = !fallback;
  if (fallback) $("#fallback").textContent = `WebGPU is offered here but could not run the models, so the processor draws (${fallback}).`;
  $("#licence").textContent = `Weights: ${model.licence.weights}. Stored pictures: ${bank.licence}.`;
  $("#progress").hidden = true;
  connectControls();
  connectFiles();
  await followStored(0);
  layThumbnails(0);
}

start().catch((error) => {
  $("#status").textContent = "";
  showProblem(error.message);
});
