// Decodes files with the page's own code and prints what comes out as JSON; test_decode.py judges it.
//   node decode.mjs '{"files": [...], "size": S, "chromium": PATH}'   in Chromium: RGB bytes in base64, or the error
//   node decode.mjs '{"files": [...], "pixels": FILE}'                in Node: orientation, and the pixels in sRGB
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { toSrgb } from "../../examples/web/colour.js";
import { facts } from "../../examples/web/container.js";
import { freshBrowser, serve } from "./page.mjs";

const { files, size, chromium, pixels } = JSON.parse(process.argv[2]);
const base64 = (/** @type {Uint8Array} */ bytes) => Buffer.from(bytes).toString("base64");

if (pixels) {
  const found = [];
  for (const file of files) {
    const { format, orientation, profile } = await facts(new Uint8Array(readFileSync(file)));
    found.push({ format, orientation, pixels: base64(toSrgb(new Uint8Array(readFileSync(pixels)), profile)) });
  }
  console.log(JSON.stringify(found));
} else {
  const { url, stop } = await serve(fileURLToPath(new URL("../../examples/web", import.meta.url)));
  const { page, close } = await freshBrowser(chromium);
  try {
    await page.goto(`${url}/picture.js`);
    const found = await page.evaluate(
      async ({ texts, size, code }) => {
        const { decode } = await import(code);
        const seen = [];
        for (const text of texts) {
          const blob = new Blob([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))]);
          try {
            const rgb = await decode(blob, size);
            seen.push({ pixels: btoa(Array.from(rgb, (byte) => String.fromCharCode(byte)).join("")) });
          } catch (error) {
            seen.push({ error: error.message });
          }
        }
        return seen;
      },
      { texts: files.map((file) => readFileSync(file).toString("base64")), size, code: `${url}/decode.js`.replace("//decode", "/decode") },
    );
    console.log(JSON.stringify(found));
  } finally {
    await close();
    stop();
  }
}
