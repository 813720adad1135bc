// node edge_web.mjs FOLDER TASK.json CHROMIUM: the task's graph on onnxruntime-web in headless Chromium; prints
// JSON. FOLDER is a built page (examples/web/build.mjs), whose runtime and bundle are used.
import { spawn } from "node:child_process";
import { copyFileSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const { chromium } = createRequire(new URL("../examples/package.json", import.meta.url))("playwright-core");
const [folder, task, executablePath] = process.argv.slice(2);
const told = JSON.parse(readFileSync(task, "utf8"));
copyFileSync(new URL("edge_measure.mjs", import.meta.url), join(folder, "measure.mjs"));
writeFileSync(join(folder, "measure.html"), "<!doctype html><title>measure</title>");

const server = spawn("node", [new URL("../examples/web/serve.mjs", import.meta.url).pathname, folder, "0"]);
const [url] = await new Promise((resolve) => server.stdout.once("data", (data) => resolve(String(data).split("\n"))));
const browser = await chromium.launch({
  executablePath,
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"],
});
try {
  const page = await browser.newPage();
  await page.goto(`${url}measure.html`);
  const found = await page.evaluate(async (told) => {
    const ort = await import("./ort/ort.wasm.min.mjs");
    Object.assign(ort.env.wasm, { numThreads: told.threads, wasmPaths: new URL("./ort/", location.href).href });
    const { measure } = await import("./measure.mjs");
    const model = new Uint8Array(await (await fetch(`./bundle/${told.file}`)).arrayBuffer());
    return measure(ort, model, { ...told, session: { executionProviders: ["wasm"] } });
  }, told);
  console.log(JSON.stringify(found));
} finally {
  await browser.close();
  server.kill();
}
