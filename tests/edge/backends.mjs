// What the built page draws of one picture, at two truncations, on the processor and on a software WebGPU adapter.
//   node backends.mjs '{"dist": FOLDER, "chromium": FILE, "picture": FILE}'
import { bytes, freshBrowser, painted, redrawn, serve, set, settled, SOFTWARE_GPU } from "./page.mjs";

const told = JSON.parse(process.argv[2]);
const server = await serve(told.dist);
const { page, close } = await freshBrowser(told.chromium, { gpu: SOFTWARE_GPU });
const seen = {};
try {
  await page.goto(server.url + "bundle/manifest.json"); // a page of this origin, for only such have WebGPU
  seen.adapter = await page.evaluate(async () => Boolean(await navigator.gpu?.requestAdapter()));
  for (const backend of seen.adapter ? ["wasm", "webgpu"] : ["wasm"]) {
    await page.goto(`${server.url}?backend=${backend}`);
    await Promise.race([settled(page), page.waitForSelector("#problem:not([hidden])", { timeout: 120_000 })]);
    await painted(page);
    await redrawn(page, () => page.setInputFiles('[data-slot="from"] input', told.picture));
    const first = await bytes(page);
    await redrawn(page, () => set(page, "#truncation", 0.4));
    const [facts, problem] = [await page.textContent("#facts"), await page.textContent("#problem")];
    const fallback = await page.textContent("#fallback");
    seen[backend] = { facts, problem, fallback, 0.7: first, 0.4: await bytes(page) };
  }
} finally {
  server.stop();
  await close();
}
console.log(JSON.stringify(seen));
