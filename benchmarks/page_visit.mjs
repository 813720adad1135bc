// node page_visit.mjs DIST CHROMIUM [VISITS]: first visits to a built page (examples/web/build.mjs), each with an
// empty cache. Prints JSON: seconds from opening the page to the first picture, seconds for 16 pictures of another
// seed, and what was transferred until all was drawn.
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";

const { chromium } = createRequire(new URL("../examples/package.json", import.meta.url))("playwright-core");
const [dist, executablePath, visits = "3"] = process.argv.slice(2);
const tiles = "#grid button:not([disabled]) canvas";
const settled = (page) =>
  page.waitForFunction(() => / pictures in /.test(document.querySelector("#status").textContent), null, { timeout: 120_000, polling: 10 });

async function visit(url) {
  const profile = mkdtempSync(join(tmpdir(), "chromium-"));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath,
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
  });
  const bytes = { bundle: 0, runtime: 0, page: 0 };
  const counted = [];
  context.on("requestfinished", (request) => {
    const path = new URL(request.url()).pathname;
    const kind = path.startsWith("/bundle/") ? "bundle" : path.startsWith("/ort/") ? "runtime" : "page";
    counted.push(request.sizes().then((sizes) => (bytes[kind] += sizes.responseBodySize)));
  });
  try {
    const page = context.pages()[0];
    const began = performance.now();
    await page.goto(`${url}?backend=wasm`);
    await page.waitForSelector(tiles, { timeout: 120_000 });
    const first = (performance.now() - began) / 1000;
    await settled(page);
    await page.waitForFunction(() => document.querySelector("#thumbnails canvas").width > 1);
    await Promise.all(counted);
    const transferred = { ...bytes };
    const again = [];
    for (const seed of ["1", "2", "3"]) {
      const start = performance.now();
      await page.evaluate((seed) => {
        document.querySelector("#status").textContent = "asking";
        const control = document.querySelector("#seed");
        control.value = seed;
        control.dispatchEvent(new Event("input", { bubbles: true }));
      }, seed);
      await settled(page);
      again.push((performance.now() - start) / 1000);
    }
    return { first, again, transferred, precision: await page.textContent("#facts") };
  } finally {
    await context.close();
    rmSync(profile, { recursive: true, force: true });
  }
}

const server = spawn("node", [new URL("../examples/web/serve.mjs", import.meta.url).pathname, dist, "0"]);
const [url] = await new Promise((resolve) => server.stdout.once("data", (data) => resolve(String(data).split("\n"))));
try {
  const seen = [];
  for (let i = 0; i < Number(visits); i++) seen.push(await visit(url));
  console.log(JSON.stringify(seen));
} finally {
  server.kill();
}
