// The models, off the page's thread. The page sends { id, method, argument }; answers are { id, result } or
// { id, error }, with { id, partial } in between where a method has something to show early.
import { mix, Pipeline } from "./pipeline.js";
import { centreSquare, toInput } from "./picture.js";

const MAX_PIXELS = 1 << 26; // as in Python

/** @type {Pipeline} */
let pipeline;
/** @type {Promise<{ data: Uint8Array }> | undefined} */
let thumbnails;
let newest = 0; // id of the last request to generate; older ones stop at their next batch
let queue = Promise.resolve(); // sessions run one at a time

const methods = {
  /** Load runtime and bundle. Tells the page what it got. */
  async load({ bundle, backend, precision }, /** @type {(value: any) => void} */ partial) {
    const adapter = backend === "wasm" ? null : await navigator.gpu?.requestAdapter().catch(() => null);
    if (backend === "webgpu" && !adapter) throw new Error("This browser offers no WebGPU adapter.");
    const provider = adapter ? "webgpu" : "wasm";
    const ort = await import(`./ort/ort.${provider}.min.js`);
    const threads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency || 1, 4) : 1;
    const compiled = new URL(`./ort/ort-wasm-simd-threaded${provider === "webgpu" ? ".asyncify" : ""}`, import.meta.url).href;
    Object.assign(ort.env.wasm, { numThreads: threads, wasmPaths: { mjs: `${compiled}.js`, wasm: `${compiled}.wasm` } });
    const usual = adapter ? (adapter.features.has("shader-f16") ? ["fp16", "fp32"] : ["fp32"]) : PRECISIONS;
    pipeline = await Pipeline.load(ort, reader(new URL(bundle, import.meta.url)), {
      precisions: precision ? [precision] : [...usual, ...PRECISIONS],
      session: { executionProviders: provider === "webgpu" ? ["webgpu", "wasm"] : ["wasm"] },
      onProgress: (done, total) => partial({ done, total }),
    });
    const { manifest, labelNames } = pipeline.bundle;
    return { manifest, labelNames, provider, threads };
  },

  /** What stored instances look like: uint8 [T, T, 3] each, or without thumbnails [R, R, 3], drawn without noise. */
  async looks({ rows }) {
    const { thumbnail_size } = pipeline.bundle.manifest.bank;
    if (thumbnail_size === null) return pipeline.portraits(rows);
    thumbnails ??= pipeline.bundle.array("bank/thumbnails.npy");
    const { data } = await thumbnails;
    const length = thumbnail_size ** 2 * 3;
    return rows.map((/** @type {number} */ row) => data.slice(row * length, (row + 1) * length));
  },

  /** A picture file -> its embedding, and the encoder's input to show. */
  async embed({ file }) {
    const size = pipeline.model.preprocessing.size;
    const picture = await decode(file, size);
    return { embedding: await pipeline.embed(picture), picture };
  },

  /** A stored instance. */
  async stored({ row }) {
    const { ids, labels } = pipeline.bank;
    return { embedding: pipeline.stored(row).slice(), id: Number(ids[row]), label: labels ? Number(labels[row]) : null };
  },

  /** Pictures for one embedding, or for a mixture of two, sent in batches. */
  async generate({ from, to, share, ...request }, /** @type {(value: any) => void} */ partial, /** @type {number} */ id) {
    const embedding = to ? mix(from, to, share) : from;
    const started = performance.now();
    partial({ neighbours: pipeline.search(embedding) });
    for await (const images of pipeline.generate(embedding, request, 4)) {
      if (id !== newest) return { stopped: true };
      partial(images);
      await new Promise((resume) => setTimeout(resume)); // let newer requests in
      if (id !== newest) return { stopped: true };
    }
    return { seconds: (performance.now() - started) / 1000 };
  },
};

const PRECISIONS = ["fp16", "int8", "fp32"];

/** Fetches files of a bundle, counting bytes as they arrive. @param {URL} root */
function reader(root) {
  return async (/** @type {string} */ name, onBytes = (/** @type {number} */ _) => {}) => {
    const response = await fetch(new URL(name, root));
    if (!response.ok || !response.body) throw new Error(`${name} cannot be fetched (${response.status}).`);
    const parts = [];
    for (let stream = response.body.getReader(); ; ) {
      const { done, value } = await stream.read();
      if (done) break;
      parts.push(value);
      onBytes(value.length);
    }
    return new Uint8Array(await new Blob(parts).arrayBuffer());
  };
}

/** Decode a picture file to the encoder's input, upright, transparency on white. @param {Blob} file @param {number} size */
async function decode(file, size) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { imageOrientation: "from-image", colorSpaceConversion: "none" });
  } catch {
    throw new Error("This file cannot be read as a picture. Try a JPEG, PNG, WebP, GIF or BMP.");
  }
  const { width, height } = bitmap;
  if (width * height > MAX_PIXELS) throw new Error(`${width} × ${height} pixels are too many: 67 million at most.`);
  const { side, left, top } = centreSquare(width, height);
  const context = new OffscreenCanvas(side, side).getContext("2d", { willReadFrequently: true });
  if (!context) throw new Error("This browser cannot draw off screen.");
  context.fillStyle = "white";
  context.fillRect(0, 0, side, side);
  context.drawImage(bitmap, -left, -top);
  bitmap.close();
  return toInput(context.getImageData(0, 0, side, side).data, side, size);
}

self.addEventListener("message", ({ data: { id, method, argument } }) => {
  if (method === "generate") newest = id;
  const run = async () => {
    if (method === "generate" && id !== newest) return self.postMessage({ id, result: { stopped: true } });
    try {
      const partial = (/** @type {any} */ value) => self.postMessage({ id, partial: value });
      self.postMessage({ id, result: await methods[method](argument, partial, id) });
    } catch (error) {
      self.postMessage({ id, error: error instanceof Error ? error.message : String(error) });
    }
  };
  const needsSession = !(method === "stored" || (method === "looks" && pipeline.bundle.manifest.bank.thumbnail_size));
  if (!needsSession) run();
  else queue = queue.then(run);
});
