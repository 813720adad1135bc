// Drives the built page in Chromium and prints what it saw as JSON; test_web.py judges it.
//   node browser.mjs '{"dist": FOLDER, "query": "?...", "picture": FILE, "second": FILE, "broken": FILE, "save": FILE}'
import { readFileSync } from "node:fs";
import { basename } from "node:path";
import { AXE, bytes, freshBrowser, painted, redrawn, serve, set, settled, TILES } from "./page.mjs";

const told = JSON.parse(process.argv[2]);
const seen = { errors: [], states: {} };

/** Does something and keeps the pictures and neighbours that follow. */
async function state(page, name, act) {
  await redrawn(page, act);
  seen.states[name] = {
    images: await bytes(page, TILES),
    scores: await page.$$eval("#neighbours b", (found) => found.map((b) => b.textContent)),
    names: await page.$$eval("#neighbours span", (found) => found.map((span) => span.textContent)),
    status: await page.textContent("#status"),
  };
}

/** Drops a file on an element, as from the desktop. */
async function drop(page, selector, file) {
  const transfer = await page.evaluateHandle(
    ([text, name]) => {
      const transfer = new DataTransfer();
      transfer.items.add(new File([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))], name, { type: "image/png" }));
      return transfer;
    },
    [readFileSync(file).toString("base64"), basename(file)],
  );
  await page.dispatchEvent(selector, "drop", { dataTransfer: transfer });
}

/** What the focus meets, from the top of the page on. */
async function tabStops(page) {
  const stops = [];
  await page.evaluate(() => document.activeElement.blur());
  for (let i = 0; i < 100; i++) {
    await page.keyboard.press("Tab");
    const stop = await page.evaluate(() => {
      const { activeElement: at } = document;
      return at === document.body ? null : at.getAttribute("aria-label") ?? (at.id || at.value);
    });
    if (stop === null || stop === stops[0]) break;
    stops.push(stop);
  }
  return stops;
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
  await page.addInitScript(() => {
    addEventListener("DOMContentLoaded", () => {
      globalThis.heard = [];
      const status = document.querySelector("#status");
      new MutationObserver(() => heard.push(status.textContent)).observe(status, { childList: true });
    });
  });
  await page.goto(server.url + told.query);
  await page.waitForSelector(TILES, { timeout: 120_000 });
  await settled(page);
  await painted(page);
  seen.heard = await page.evaluate(() => heard); // by a screen reader
  seen.isolated = await page.evaluate(() => crossOriginIsolated);
  seen.looks = await bytes(page, "#thumbnails canvas");
  seen.drawn_note = await page.isVisible("#drawn");
  seen.violations = { light: await audit(page) };
  seen.spoken = await page.locator("body").ariaSnapshot();
  seen.stops = await tabStops(page);

  await state(page, "first", () => set(page, "#seed", "9007199254740993"));
  await state(page, "picture", () => drop(page, "body", told.picture));
  await state(page, "nearest", () => page.check('[value="nearest"]', { force: true }));
  await state(page, "sample", () => page.check('[value="sample"]', { force: true }));
  await state(page, "query", () => page.check('[value="query"]', { force: true }));
  await state(page, "mixed", () => page.setInputFiles(input("to"), told.second));
  await state(page, "varied", () => set(page, "#truncation", "1"));
  await state(page, "shared", () => set(page, "#share", "0.25"));
  await state(page, "cleared", () => page.click(".clear"));
  await page.check('[name="slot"][value="to"]', { force: true });
  await state(page, "stored mixed in", () => page.click("#thumbnails button:nth-child(8)"));
  await page.check('[name="slot"][value="from"]', { force: true });
  await redrawn(page, () => page.click(".clear"));
  await page.focus("#thumbnails button:nth-child(5)");
  await state(page, "thumbnail", () => page.keyboard.press("Enter"));
  await page.focus("#neighbours li:nth-child(2) button");
  await state(page, "neighbour", () => page.keyboard.press("Enter"));
  await state(page, "slid", () => set(page, "#seed-slider", "5"));
  seen.seed = await page.inputValue("#seed");
  if (await page.isVisible("#invent")) await state(page, "invented", () => page.click("#invent"));

  await page.setInputFiles(input("from"), told.broken);
  await page.waitForSelector("#problem:not([hidden])");
  seen.problem = await page.textContent("#problem");

  // keyboard only: open the first picture, follow it
  await page.focus("#grid button");
  await page.keyboard.press("Enter");
  seen.dialog = await page.$eval("#viewer", (dialog) => dialog.open);
  await page.focus("#follow");
  await state(page, "followed", () => page.keyboard.press("Enter"));
  const waiting = page.waitForEvent("download");
  await page.click("#save");
  const download = await waiting;
  seen.download = download.suggestedFilename();
  await download.saveAs(told.save);
  // one picture of those that a stored picture gave, which Python can draw, too
  await state(page, "stored", () => page.click("#thumbnails button:nth-child(5)"));
  await page.click("#grid div:nth-child(3) button");
  const single = page.waitForEvent("download");
  await page.click("#save-one");
  await (await single).saveAs(told.single);
  await page.click("#close");

  // rounds: two pictures are picked, the second by keyboard, and the round after it; then back, and anew
  seen.more = [await page.textContent("#more"), await page.isDisabled("#more")];
  await page.click("#grid div:nth-child(3) .pick");
  await page.focus("#grid div:nth-child(6) .pick");
  await page.keyboard.press("Space");
  seen.more.push(await page.textContent("#more"));
  await state(page, "second round", () => page.click("#more"));
  seen.round = await page.textContent("#round");
  await page.click("#grid div:nth-child(9) .pick");
  await state(page, "third round", () => page.click("#more"));
  await state(page, "back once", () => page.click("#back"));
  await state(page, "other seed", () => set(page, "#seed-slider", "6"));
  await state(page, "same seed", () => set(page, "#seed-slider", "5"));
  await state(page, "back twice", () => page.click("#back"));
  seen.back = await page.isVisible("#back");

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
