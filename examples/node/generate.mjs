// node generate.mjs BUNDLE [ROW] [SEED] [OUT.png]: eight pictures that follow stored instance ROW, side by side.
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import ort from "onnxruntime-node";
import { Pipeline } from "../web/pipeline.js";
import { encodePng } from "./png.mjs";

const [bundle, row = "0", seed = "0", out = "pictures.png"] = process.argv.slice(2);
const N = 8;

const pipeline = await Pipeline.load(ort, async (name) => new Uint8Array(await readFile(join(bundle, name))));
const embedding = pipeline.stored(Number(row)); // or: await pipeline.embed(rgb) with toInput of ../web/picture.js
const side = pipeline.model.resolution;
const sheet = new Uint8Array(side * side * N * 3);

const request = { n: N, seed: BigInt(seed), truncation: 0.7, condition: "query" };
for await (const { start, images } of pipeline.generate(embedding, request)) {
  for (let line = 0; line * side * 3 < images.length; line++) {
    const [picture, y] = [start + Math.floor(line / side), line % side];
    sheet.set(images.subarray(line * side * 3, (line + 1) * side * 3), (y * N + picture) * side * 3);
  }
}
await writeFile(out, encodePng(sheet, side * N, side));

const near = pipeline.search(embedding).map(({ id, score }) => `${id} (${score.toFixed(3)})`);
console.log(`wrote ${out}; nearest stored instances: ${near.join(", ")}`);
