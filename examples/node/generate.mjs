// node generate.mjs BUNDLE [PHOTO or ROW] [SEED] [OUT.png]: eight pictures that follow a photo, or a stored instance,
// side by side.
import { existsSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import ort from "onnxruntime-node";
import { claim, marked } from "../web/mark.js";
import { area, toInput } from "../web/picture.js";
import { Pipeline } from "../web/pipeline.js";
import { encodePng } from "./png.mjs";

const [bundle, row = "0", seed = "0", out = "pictures.png"] = process.argv.slice(2);
const N = 8;

const pipeline = await Pipeline.load(ort, async (name) => new Uint8Array(await readFile(join(bundle, name))));
const embedding = existsSync(row) ? await pipeline.embed(await read(row)) : pipeline.stored(Number(row));
const side = pipeline.model.resolution;
const sheet = new Uint8Array(side * side * N * 3);

const request = { n: N, seed: BigInt(seed), truncation: 0.7, condition: "query" };
for await (const { start, images } of pipeline.generate(embedding, request)) {
  for (let line = 0; line * side * 3 < images.length; line++) {
    const [picture, y] = [start + Math.floor(line / side), line % side];
    sheet.set(images.subarray(line * side * 3, (line + 1) * side * 3), (y * N + picture) * side * 3);
  }
}
// says that it is generated, and from what: icgan prove draws it again (docs/origin.md)
const origin = { ...request, source: await pipeline.source("onnxruntime-node"), first: 0 };
const png = new Blob([encodePng(sheet, side * N, side)]);
const file = await marked(png, claim(origin, { columns: N, gap: 0, left: 0 }));
await writeFile(out, new Uint8Array(await file.arrayBuffer()));

const near = pipeline.search(embedding).map(({ id, score }) => `${id} (${score.toFixed(3)})`);
console.log(`wrote ${out}; nearest stored instances: ${near.join(", ")}`);

/** A photo -> the encoder's input: upright, on white, in sRGB. @param {string} file */
async function read(file) {
  const { default: sharp } = await import("sharp");
  const upright = await sharp(file).rotate().flatten({ background: "white" }).toColourspace("srgb").png().toBuffer();
  const { width, height } = await sharp(upright).metadata();
  const { size, crop } = pipeline.model.preprocessing;
  const seen = area(width, height, crop);
  const cut = sharp(upright).extract(seen).ensureAlpha();
  return toInput(new Uint8Array(await cut.raw().toBuffer()), seen.width, size, seen.height);
}
