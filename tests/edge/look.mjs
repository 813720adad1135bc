// node tests/edge/look.mjs DIST CHROMIUM OUT [PICTURE] [SECOND]: the built page as a visitor sees it, as PNG files:
// light (docs/images/web.png), mixed, viewer, dark, phone.
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { freshBrowser, painted, redrawn, serve, set, settled } from "./page.mjs";

const [dist, chromium, out, picture = "examples/photos/oranges.jpg", second = "examples/photos/green-apples.jpg"] =
  process.argv.slice(2);
mkdirSync(out, { recursive: true });
const server = await serve(dist);
const { page, close } = await freshBrowser(chromium, { viewport: { width: 1240, height: 860 }, colorScheme: "light" });
const shot = async (name, options = {}) => {
  await painted(page);
  await page.evaluate(() => Promise.allSettled(document.getAnimations().map((animation) => animation.finished)));
  await page.screenshot({ path: join(out, `${name}.png`), ...options });
};
try {
  await page.goto(`${server.url}?backend=wasm`);
  await settled(page);
  await redrawn(page, () => page.setInputFiles('[data-slot="from"] input', picture));
  await page.evaluate(() => document.activeElement.blur());
  await shot("light");
  await redrawn(page, () => page.setInputFiles('[data-slot="to"] input', second));
  await shot("mixed", { fullPage: true });
  await redrawn(page, () => set(page, "#truncation", "1"));
  await page.emulateMedia({ colorScheme: "dark" });
  await shot("dark", { fullPage: true });
  await page.click("#grid button");
  await shot("viewer");
  await page.keyboard.press("Escape");
  await page.setViewportSize({ width: 390, height: 844 });
  await page.emulateMedia({ colorScheme: "light" });
  await shot("phone", { fullPage: true });
} finally {
  await close();
  server.stop();
}
