// Visits the built page on a software WebGPU adapter and prints what it saw as JSON; test_webgpu.py judges it.
//   node webgpu.mjs '{"dist": FOLDER, "chromium": FILE, "picture": FILE}'
import { bytes, freshBrowser, painted, redrawn, serve, settled, SOFTWARE_GPU } from "./page.mjs";

const told = JSON.parse(process.argv[2]);
const server = await serve(told.dist);
// without a service worker, which would fetch past the routes below
const { context, page, close } = await freshBrowser(told.chromium, { gpu: SOFTWARE_GPU, serviceWorkers: "block" });

/** What the page says and shows once it has drawn, or given up. */
async function visit(query) {
  const page = await context.newPage();
  await page.goto(server.url + query);
  await Promise.race([settled(page), page.waitForSelector("#problem:not([hidden])", { timeout: 120_000 })]);
  const text = (selector) => page.textContent(selector);
  const said = { facts: await text("#facts"), fallback: await text("#fallback"), problem: await text("#problem") };
  said.told = await page.isVisible("#fallback");
  return { page, said };
}

/** Bytes of GPU memory held after loading and drawing once, and after the release, three times over. */
const memory = (page) =>
  page.evaluate(async () => {
    let held = 0;
    const { createBuffer } = GPUDevice.prototype;
    const { destroy } = GPUBuffer.prototype;
    const alive = new Set();
    GPUDevice.prototype.createBuffer = function (description) {
      const buffer = createBuffer.call(this, description);
      alive.add(buffer);
      held += buffer.size;
      return buffer;
    };
    GPUBuffer.prototype.destroy = function () {
      if (alive.delete(this)) held -= this.size;
      return destroy.call(this);
    };
    const { Pipeline } = await import("/pipeline.js");
    const ort = await import("/ort/ort.webgpu.min.js");
    const compiled = new URL("/ort/ort-wasm-simd-threaded.asyncify", location.href).href;
    ort.env.wasm.wasmPaths = { mjs: `${compiled}.js`, wasm: `${compiled}.wasm` };
    const read = async (name) => new Uint8Array(await (await fetch(`/bundle/${name}`)).arrayBuffer());
    const counts = [];
    for (let round = 0; round < 3; round++) {
      const pipeline = await Pipeline.load(ort, read, { session: { executionProviders: ["webgpu", "wasm"] } });
      await pipeline.portraits([0, 1]);
      const during = held;
      await pipeline.release();
      counts.push([during, held]);
    }
    return counts;
  });

const seen = {};
try {
  await page.goto(server.url + "bundle/manifest.json"); // a page of this origin, for only such have WebGPU
  seen.adapter = await page.evaluate(async () => {
    const adapter = await navigator.gpu?.requestAdapter();
    return adapter && { half: adapter.features.has("shader-f16"), buffers: adapter.limits.maxStorageBuffersPerShaderStage };
  });
  if (seen.adapter) {
    const gpu = await visit("?backend=webgpu");
    await painted(gpu.page);
    await redrawn(gpu.page, () => gpu.page.setInputFiles('[data-slot="from"] input', told.picture));
    seen.gpu = { ...gpu.said, images: await bytes(gpu.page) };
    await gpu.page.close();
    seen.unasked = (await visit("")).said;
    seen.memory = await memory(page);

    await context.route("**/ort.webgpu.min.js", (route) =>
      route.fulfill({
        contentType: "text/javascript",
        body: 'export const env = { wasm: {} }; export const InferenceSession = { create() { throw new Error("no shader\\ntoday"); } };',
      }),
    );
    seen.refused = (await visit("?backend=webgpu")).said;
  }
  await context.route("**/worker.js", async (route) => {
    const response = await route.fetch();
    await route.fulfill({ response, body: `WebAssembly.validate = () => false;\n${await response.text()}` });
  });
  seen.neither = (await visit("")).said;
} finally {
  server.stop();
  await close();
}
console.log(JSON.stringify(seen));
