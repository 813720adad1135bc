// Drives the built page in Chromium and prints what it saw as JSON; test_web.py judges it.
//   node browser.mjs '{"dist": FOLDER, "query": "?...", "picture": FILE, "second": FILE, "broken": FILE, "shots": FOLDER|null}'
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";

const need = createRequire(new URL("../../examples/package.json", import.meta.url));
const { chromium } = need("playwright-core");
const AXE = readFileSync(need.resolve("axe-core/axe.min.js"), "utf8");
const FLAGS = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync",
];
const told = JSON.parse(process.argv[2]);
const seen = { errors: [], states: {} };

async function serve() {
  const server = spawn("node", [new URL("../../examples/web/serve.mjs", import.meta.url).pathname, told.dist, "0"]);
  const [line] = await new Promise((resolve) => server.stdout.once("data", (data) => resolve(String(data).split("\n"))));
  return { url: line, stop: () => server.kill() };
}

const tiles = "#grid button:not([disabled]) canvas";
/** Waits until the pictures asked for are all drawn. */
const settled = (page) => page.waitForFunction(() => / pictures in /.test(document.querySelector("#status").textContent), null, { timeout: 120_000 });

/** Does something and keeps the pictures and neighbours that follow. */
async function state(page, name, act) {
  await page.evaluate(() => (document.querySelector("#status").textContent = "asking"));
  await act();
  await settled(page);
  seen.states[name] = {
    images: await page.$$eval(tiles, (canvases) =>
      canvases.map((canvas) => {
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        return btoa(Array.from(data.filter((_, i) => i % 4 !== 3), (byte) => String.fromCharCode(byte)).join(""));
      }),
    ),
    scores: await page.$$eval("#neighbours b", (found) => found.map((b) => b.textContent)),
  };
}

const input = (slot) => `[data-slot="${slot}"] input`;
const set = (page, selector, value) =>
  page.$eval(selector, (control, value) => {
    control.value = value;
    control.dispatchEvent(new Event("input", { bubbles: true }));
  }, value);
const shot = async (page, name) => {
  if (!told.shots) return;
  await page.evaluate(() => Promise.all(document.getAnimations().map((animation) => animation.finished)));
  await page.screenshot({ path: join(told.shots, `${name}.png`) });
};
const audit = (page) =>
  page.evaluate(AXE).then(() =>
    page.evaluate(async () => (await axe.run()).violations.map((v) => `${v.id}: ${v.nodes.map((n) => n.target).join(" ")}`)),
  );

const profile = mkdtempSync(join(tmpdir(), "chromium-"));
const server = await serve();
const context = await chromium.launchPersistentContext(profile, {
  executablePath: told.chromium, args: FLAGS, viewport: { width: 1240, height: 960 }, colorScheme: "light",
});
try {
  const page = context.pages()[0];
  page.on("pageerror", (error) => seen.errors.push(error.message));
  page.on("console", (message) => message.type() === "error" && seen.errors.push(message.text()));
  const began = Date.now();
  await page.goto(server.url + told.query);
  await page.waitForSelector(tiles, { timeout: 120_000 });
  seen.first_picture_seconds = (Date.now() - began) / 1000;
  await settled(page);
  seen.isolated = await page.evaluate(() => crossOriginIsolated);
  seen.facts = await page.textContent("#facts");
  await page.waitForFunction(() => document.querySelector("#thumbnails canvas").width > 1);
  await shot(page, "light");
  seen.violations = { light: await audit(page) };

  await state(page, "stored", () => set(page, "#seed", "9007199254740993"));
  await state(page, "picture", () => page.setInputFiles(input("from"), told.picture));
  await state(page, "nearest", () => page.check('[value="nearest"]', { force: true }));
  await state(page, "sample", () => page.check('[value="sample"]', { force: true }));
  await state(page, "query", () => page.check('[value="query"]', { force: true }));
  await state(page, "mixed", () => page.setInputFiles(input("to"), told.second));
  await state(page, "varied", () => set(page, "#truncation", "1"));
  await shot(page, "mixed");

  await page.setInputFiles(input("from"), told.broken);
  await page.waitForSelector("#problem:not([hidden])");
  seen.problem = await page.textContent("#problem");

  // keyboard only: open the first picture, follow it
  await page.focus("#grid button");
  await page.keyboard.press("Enter");
  seen.dialog = await page.$eval("#viewer", (dialog) => dialog.open);
  await shot(page, "viewer");
  await page.focus("#follow");
  await state(page, "followed", () => page.keyboard.press("Enter"));
  const download = page.waitForEvent("download");
  await page.click("#save");
  seen.download = (await download).suggestedFilename();

  await page.emulateMedia({ colorScheme: "dark" });
  await shot(page, "dark");
  seen.violations.dark = await audit(page);
  await page.setViewportSize({ width: 390, height: 844 });
  await shot(page, "phone");
  seen.violations.phone = await audit(page);
  seen.overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);

  server.stop();
  await page.reload();
  await settled(page);
  seen.offline = await page.$$eval(tiles, (canvases) => canvases.length);
} finally {
  server.stop();
  await context.close();
  rmSync(profile, { recursive: true, force: true });
}
console.log(JSON.stringify(seen));
