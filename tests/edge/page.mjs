// What every program that visits the built page needs: a server for it, Debian's Chromium with an empty profile,
// and how to tell that everything asked for is drawn.
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const need = createRequire(new URL("../../examples/package.json", import.meta.url));
const { chromium } = need("playwright-core");
export const AXE = readFileSync(need.resolve("axe-core/axe.min.js"), "utf8");
const FLAGS = [
  "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
  "--disable-sync",
];
const NO_GPU = ["--disable-gpu"];
/** WebGPU computed on the processor, by SwiftShader. */
export const SOFTWARE_GPU = [
  "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan", "--use-vulkan=swiftshader",
];

/** Serves a folder on a free port. @param {string} folder */
export async function serve(folder) {
  const server = spawn("node", [fileURLToPath(new URL("../../examples/web/serve.mjs", import.meta.url)), folder, "0"]);
  const [url] = await new Promise((resolve) => server.stdout.once("data", (data) => resolve(String(data).split("\n"))));
  return { url, stop: () => server.kill() };
}

/**
 * A browser that has never seen the page.
 * @param {string} executablePath @param {string[]} flags more of Chromium's, `gpu`: those of its graphics
 */
export async function freshBrowser(executablePath, { gpu = NO_GPU, ...options } = {}, flags = []) {
  const profile = mkdtempSync(join(tmpdir(), "chromium-"));
  const args = [...FLAGS, ...gpu, ...flags];
  const context = await chromium.launchPersistentContext(profile, { executablePath, args, ...options });
  const close = async () => {
    await context.close();
    rmSync(profile, { recursive: true, force: true });
  };
  return { context, page: context.pages()[0], close };
}

/** Pictures that have been drawn. */
export const TILES = "#grid button:not([disabled]) canvas";

/** The RGB bytes of canvases, in base64. */
export const bytes = (page, selector = TILES) =>
  page.$$eval(selector, (canvases) =>
    canvases.map((canvas) => {
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      return btoa(Array.from(data.filter((_, i) => i % 4 !== 3), (byte) => String.fromCharCode(byte)).join(""));
    }),
  );

/** Waits until the pictures asked for are all drawn. */
export const settled = (page) =>
  page.waitForFunction(() => / pictures in /.test(document.querySelector("#status").textContent), null, { timeout: 120_000, polling: 10 });

/** Does something that changes the pictures, and waits until they are drawn. */
export async function redrawn(page, act) {
  await page.evaluate(() => (document.querySelector("#status").textContent = "asking"));
  await act();
  await settled(page);
}

/** Types or drags a control to a value. */
export const set = (page, selector, value) =>
  page.$eval(selector, (control, value) => {
    control.value = value;
    control.dispatchEvent(new Event("input", { bubbles: true }));
  }, value);

/** Waits until every stored instance on the page has its picture. */
export const painted = (page) =>
  page.waitForFunction(() => [...document.querySelectorAll("canvas[data-row]")].every((canvas) => canvas.width !== 300));
