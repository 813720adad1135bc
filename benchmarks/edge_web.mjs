// node edge_web.mjs FOLDER TASK.json CHROMIUM: the task's graph on onnxruntime-web in headless Chromium; prints
// JSON. FOLDER is a built page (examples/web/build.mjs), whose runtime and bundle are used.
import { copyFileSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { freshBrowser, serve } from "../tests/edge/page.mjs";

const [folder, task, executablePath] = process.argv.slice(2);
const told = JSON.parse(readFileSync(task, "utf8"));
copyFileSync(new URL("edge_measure.mjs", import.meta.url), join(folder, "measure.mjs"));
writeFileSync(join(folder, "measure.html"), "<!doctype html><title>measure</title>");

const { url, stop } = await serve(folder);
const { page, close } = await freshBrowser(executablePath);
try {
  await page.goto(`${url}measure.html`);
  const found = await page.evaluate(async (told) => {
    const ort = await import("./ort/ort.wasm.min.js"); // .js, as the page has it
    const compiled = new URL("./ort/ort-wasm-simd-threaded", location.href).href;
    const wasmPaths = { mjs: `${compiled}.js`, wasm: `${compiled}.wasm` };
    Object.assign(ort.env.wasm, { numThreads: told.threads, wasmPaths });
    const { measure } = await import("./measure.mjs");
    const model = new Uint8Array(await (await fetch(`./bundle/${told.file}`)).arrayBuffer());
    return measure(ort, model, { ...told, session: { executionProviders: ["wasm"] } });
  }, told);
  console.log(JSON.stringify(found));
} finally {
  await close();
  stop();
}
