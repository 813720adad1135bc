// What a visitor of a page on any web server sees: node visit.mjs CHROMIUM URL [CHROMIUM'S ARGUMENTS] prints JSON.
import { freshBrowser } from "./page.mjs";

const [executablePath, url, ...flags] = process.argv.slice(2);
const seen = { errors: [] };
const { page, close } = await freshBrowser(executablePath, {}, flags);
page.on("console", (message) => message.type() === "error" && seen.errors.push(message.text()));
page.on("pageerror", (error) => seen.errors.push(error.message));
try {
  await page.goto(url);
  await page.waitForFunction(
    () => / pictures in /.test(document.querySelector("#status").textContent) || !document.querySelector("#problem").hidden,
    null,
    { timeout: 60_000, polling: 50 },
  );
  Object.assign(
    seen,
    await page.evaluate(() => ({
      secure: isSecureContext,
      problem: document.querySelector("#problem").hidden ? null : document.querySelector("#problem").textContent,
      drawn: document.querySelectorAll("#grid button:not([disabled]) canvas").length,
    })),
  );
} finally {
  await close();
}
console.log(JSON.stringify(seen));
