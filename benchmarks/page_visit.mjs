// node page_visit.mjs DIST CHROMIUM [VISITS]: first visits to a built page (examples/web/build.mjs), each with an
// empty cache. Prints JSON: seconds from opening the page to the first picture, seconds for 16 pictures of another
// seed, and what was transferred until all was drawn.
import { freshBrowser, painted, redrawn, serve, set, settled, TILES } from "../tests/edge/page.mjs";

const [dist, executablePath, visits = "3"] = process.argv.slice(2);

async function visit(url) {
  const { context, page, close } = await freshBrowser(executablePath);
  const bytes = { bundle: 0, runtime: 0, page: 0 };
  const counted = [];
  context.on("requestfinished", (request) => {
    const path = new URL(request.url()).pathname;
    const kind = path.startsWith("/bundle/") ? "bundle" : path.startsWith("/ort/") ? "runtime" : "page";
    counted.push(request.sizes().then((sizes) => (bytes[kind] += sizes.responseBodySize)));
  });
  try {
    const began = performance.now();
    await page.goto(`${url}?backend=wasm`);
    await page.waitForSelector(TILES, { timeout: 120_000 });
    const first = (performance.now() - began) / 1000;
    await settled(page);
    await painted(page);
    await Promise.all(counted);
    const transferred = { ...bytes };
    const again = [];
    for (const seed of ["1", "2", "3"]) {
      const start = performance.now();
      await redrawn(page, () => set(page, "#seed", seed));
      again.push((performance.now() - start) / 1000);
    }
    return { first, again, transferred, precision: await page.textContent("#facts") };
  } finally {
    await close();
  }
}

const { url, stop } = await serve(dist);
try {
  const seen = [];
  for (let i = 0; i < Number(visits); i++) seen.push(await visit(url));
  console.log(JSON.stringify(seen));
} finally {
  stop();
}
