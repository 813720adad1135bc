// Drives the built page in Chromium and prints what it saw as JSON; test_web.py judges it.
//   node browser.mjs '{"dist": FOLDER, "query": "?...", "picture": FILE, "second": FILE, "broken": FILE}'
import { AXE, freshBrowser, redrawn, serve, set, settled, TILES } from "./page.mjs";

const told = JSON.parse(process.argv[2]);
const seen = { errors: [], states: {} };

/** Does something and keeps the pictures and neighbours that follow. */
async function state(page, name, act) {
  await redrawn(page, act);
  seen.states[name] = {
    images: await page.$$eval(TILES, (canvases) =>
      canvases.map((canvas) => {
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        return btoa(Array.from(data.filter((_, i) => i % 4 !== 3), (byte) => String.fromCharCode(byte)).join(""));
      }),
    ),
    scores: await page.$$eval("#neighbours b", (found) => found.map((b) => b.textContent)),
  };
}

const input = (slot) => `[data-slot="${slot}"] input`;
const audit = (page) =>
  page.evaluate(AXE).then(() =>
    page.evaluate(async () => (await axe.run()).violations.map((v) => `${v.id}: ${v.nodes.map((n) => n.target).join(" ")}`)),
  );

const server = await serve(told.dist);
const { page, close } = await freshBrowser(told.chromium, { viewport: { width: 1240, height: 960 }, colorScheme: "light" });
try {
  page.on("pageerror", (error) => seen.errors.push(error.message));
  page.on("console", (message) => message.type() === "error" && seen.errors.push(message.text()));
  const began = Date.now();
  await page.goto(server.url + told.query);
  await page.waitForSelector(TILES, { timeout: 120_000 });
  seen.first_picture_seconds = (Date.now() - began) / 1000;
  await settled(page);
  seen.isolated = await page.evaluate(() => crossOriginIsolated);
  seen.facts = await page.textContent("#facts");
  await page.waitForFunction(() => document.querySelector("#thumbnails canvas").width > 1);
  seen.violations = { light: await audit(page) };

  await state(page, "stored", () => set(page, "#seed", "9007199254740993"));
  await state(page, "picture", () => page.setInputFiles(input("from"), told.picture));
  await state(page, "nearest", () => page.check('[value="nearest"]', { force: true }));
  await state(page, "sample", () => page.check('[value="sample"]', { force: true }));
  await state(page, "query", () => page.check('[value="query"]', { force: true }));
  await state(page, "mixed", () => page.setInputFiles(input("to"), told.second));
  await state(page, "varied", () => set(page, "#truncation", "1"));

  await page.setInputFiles(input("from"), told.broken);
  await page.waitForSelector("#problem:not([hidden])");
  seen.problem = await page.textContent("#problem");

  // keyboard only: open the first picture, follow it
  await page.focus("#grid button");
  await page.keyboard.press("Enter");
  seen.dialog = await page.$eval("#viewer", (dialog) => dialog.open);
  await page.focus("#follow");
  await state(page, "followed", () => page.keyboard.press("Enter"));
  const download = page.waitForEvent("download");
  await page.click("#save");
  seen.download = (await download).suggestedFilename();

  await page.emulateMedia({ colorScheme: "dark" });
  seen.violations.dark = await audit(page);
  await page.setViewportSize({ width: 390, height: 844 });
  seen.violations.phone = await audit(page);
  seen.overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);

  server.stop();
  await page.reload();
  await settled(page);
  seen.offline = await page.$$eval(TILES, (canvases) => canvases.length);
} finally {
  server.stop();
  await close();
}
console.log(JSON.stringify(seen));
