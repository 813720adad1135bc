// The models, off the page's thread. The page sends { id, method, argument }; answers are { id, result } or
// { id, error }, with { id, partial } in between where a method has something to show early.
import { breed } from "./breed.js";
import { Pipeline } from "./pipeline.js";
import { decode } from "./decode.js";
import { mix } from "./vectors.js";

/** @type {Pipeline} */
let pipeline;
/** @type {Promise<{ data: Uint8Array }> | undefined} */
let thumbnails;
let newest = 0; // id of the last request to generate; older ones stop at their next batch
let queue = Promise.resolve(); // sessions run one at a time

const methods = {
  /** Load runtime and bundle. Tells the page what it got; `fallback` says why it is not WebGPU where that was offered. */
  async load({ bundle, backend, precision }, /** @type {(value: any) => void} */ partial) {
    if (!computes()) throw new Error(NEITHER);
    const adapter = backend === "wasm" ? null : await navigator.gpu?.requestAdapter().catch(() => null);
    if (backend === "webgpu" && !adapter) throw new Error("This browser offers no WebGPU adapter.");
    const open = async (/** @type {"webgpu" | "wasm"} */ provider) => {
      const ort = await import(`./ort/ort.${provider}.min.js`);
      const threads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency || 1, 4) : 1;
      const compiled = new URL(`./ort/ort-wasm-simd-threaded${provider === "webgpu" ? ".asyncify" : ""}`, import.meta.url).href;
      Object.assign(ort.env.wasm, { numThreads: threads, wasmPaths: { mjs: `${compiled}.js`, wasm: `${compiled}.wasm` } });
      const usual = provider === "webgpu" ? (adapter?.features.has("shader-f16") ? ["fp16", "fp32"] : ["fp32"]) : PRECISIONS;
      pipeline = await Pipeline.load(ort, reader(new URL(bundle, import.meta.url)), {
        precisions: precision ? [precision] : [...usual, ...PRECISIONS],
        session: { executionProviders: provider === "webgpu" ? ["webgpu", "wasm"] : ["wasm"] },
        onProgress: (done, total) => partial({ done, total }),
      });
      const { manifest, labelNames } = pipeline.bundle;
      const source = await pipeline.source(`onnxruntime-web ${provider}`);
      return { manifest, labelNames, source, provider, threads, fallback: null };
    };
    // an adapter in software takes the same processor a slower way
    if (!adapter || (adapter.info?.isFallbackAdapter && backend !== "webgpu")) return open("wasm");
    try {
      const opened = await open("webgpu");
      await firstRun(); // shaders are made, and may be refused, when they are first needed
      return opened;
    } catch (error) {
      await pipeline?.release().catch(() => {}); // a GPU that failed may fail at this, too
      return { ...(await open("wasm")), fallback: oneLine(error) };
    }
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
    const { size, crop } = pipeline.model.preprocessing;
    const picture = await decode(file, size, crop);
    return { embedding: await pipeline.embed(picture), picture };
  },

  /** A stored instance. */
  async stored({ row }) {
    const { ids, labels } = pipeline.bank;
    const label = labels ? Number(labels[row]) : null;
    return { embedding: pipeline.stored(row).slice(), id: Number(ids[row]), label, name: pipeline.nameOf(row) };
  },

  /** An instance that the bundle's prior draws, and what the model makes of it without noise: uint8 [R, R, 3]. */
  async invent({ seed, sample }) {
    const { embedding, label } = await pipeline.instance(seed, sample);
    const plain = { noise: new Float32Array(pipeline.model.dim_z), embedding, label: label ?? 0 };
    const { value } = await pipeline.draw([plain], 1).next();
    return { embedding, look: value?.images };
  },

  /** Pictures for one embedding, for a mixture of two, or of the generation after `parents`, sent in batches. */
  async generate({ from, to, share, parents, generation, ...request }, /** @type {(value: any) => void} */ partial, /** @type {number} */ id) {
    const embedding = to ? mix(from, to, share) : from;
    const started = performance.now();
    const neighbours = pipeline.search(parents ? parents[0].embedding : embedding);
    partial({ neighbours, outside: pipeline.isOutside(neighbours) ? pipeline.bundle.outsideBelow : null });
    const truncation = pipeline.towardsMean ? null : request.truncation;
    const drawn = parents
      ? pipeline.draw(breed(parents, { ...request, generation, truncation }), request.truncation, 4)
      : pipeline.generate(embedding, request, 4);
    for await (const images of drawn) {
      if (id !== newest) return { stopped: true };
      partial(images);
      await new Promise((resume) => setTimeout(resume)); // let newer requests in
      if (id !== newest) return { stopped: true };
    }
    return { seconds: (performance.now() - started) / 1000 };
  },
};

const PRECISIONS = ["fp16", "int8", "fp32"];
const NEITHER =
  "This page computes on your device, with WebGPU or with WebAssembly and its SIMD instructions, and this browser " +
  "offers neither. Chrome and Edge from 91, Firefox from 114 and Safari from 16.4 on do, unless they are told not to.";
// a function that returns i32x4.splat(0): valid only where there is SIMD. ONNX Runtime is such a module, on WebGPU, too
const SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 8, 1, 6, 0, 65, 0, 253, 17, 11];

/** Whether the browser runs ONNX Runtime at all. */
const computes = () => typeof WebAssembly === "object" && WebAssembly.validate(new Uint8Array(SIMD));

/** What ONNX Runtime says is long and names places in its sources. */
function oneLine(/** @type {unknown} */ error) {
  const text = (error instanceof Error ? error.message : String(error)).replace(/\s+/g, " ").trim();
  const said = text.split(/ERROR_MESSAGE: (?:\S+\.cc:\d+ )?/).at(-1) ?? text;
  return said.length > 160 ? `${said.slice(0, 160)}…` : said;
}

/** Each graph once: a grey picture, and what the model draws of the first stored instance. */
async function firstRun() {
  const side = pipeline.model.preprocessing.size;
  await pipeline.embed(new Uint8Array(side * side * 3).fill(128));
  await pipeline.portraits([0]);
}

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
