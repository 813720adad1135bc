// node --test package.test.js: the package by itself; with BUNDLE=FOLDER and onnxruntime-node also a bundle.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { area, breed, BundleError, centreSquare, drawRank, mix, noise, parseNpy, Pipeline, toInput } from "./index.js";

test("the same seed is the same noise, whatever the width, and within its bound", () => {
  const long = noise(7n, 3, 0.5, 64);
  assert.deepEqual(noise(7n, 3, 0.5, 16), long.subarray(0, 16));
  assert.notDeepEqual(noise(7n, 4, 0.5, 64), long);
  assert.ok(long.every((value) => Math.abs(value) <= 1));
  assert.ok(drawRank(7n, 3, 5) >= 0 && drawRank(7n, 3, 5) < 5);
});

test("a picture of one colour stays it, and its middle square is in the middle", () => {
  const { side, left, top } = centreSquare(30, 20);
  assert.deepEqual([side, left, top], [20, 5, 0]);
  const rgba = new Uint8Array(20 * 20 * 4).fill(200);
  assert.deepEqual(toInput(rgba, 20, 8), new Uint8Array(8 * 8 * 3).fill(200));
});

test("a squeezed picture is all of it: left half and right half stay halves", () => {
  assert.deepEqual(area(30, 20, "squeeze"), { width: 30, height: 20, left: 0, top: 0 });
  assert.deepEqual(area(30, 20, "centre-short-side"), { width: 20, height: 20, left: 5, top: 0 });
  const rgba = Uint8Array.from({ length: 32 * 8 * 4 }, (_, at) => (at % 128 < 64 ? 0 : 255));
  const found = toInput(rgba, 32, 8, 8);
  for (let row = 0; row < 8; row++) {
    assert.deepEqual([...found.slice(row * 24, row * 24 + 9)], Array(9).fill(0));
    assert.deepEqual([...found.slice(row * 24 + 15, row * 24 + 24)], Array(9).fill(255));
  }
});

test("a mixture has unit length and lies between", () => {
  const between = mix(Float32Array.of(1, 0), Float32Array.of(0, 1), 0.5);
  assert.ok(Math.abs(between[0] - Math.SQRT1_2) < 1e-6 && Math.abs(between[1] - Math.SQRT1_2) < 1e-6);
});

test("what is no .npy file and no bundle is refused by name", async () => {
  assert.throws(() => parseNpy(new Uint8Array(16), "ids.npy"), /ids\.npy: not \.npy 1\.0/);
  const read = async () => new TextEncoder().encode('{"format": "other"}');
  await assert.rejects(Pipeline.load({}, read), BundleError);
});

test("children are normal and bounded, take after their parents, and are the same for the same seed", () => {
  const parents = [0, 1, 2].map((sample) => {
    const embedding = Float32Array.from([0, 1, 2], (axis) => Number(axis === sample));
    return { noise: noise(1n, sample, null, 400), embedding, label: sample };
  });
  const settings = { n: 40, seed: 5n, generation: 1, truncation: null };
  const family = breed(parents, settings);
  assert.deepEqual(family.slice(0, 3), parents);
  assert.deepEqual(breed(parents, settings), family);
  assert.notDeepEqual(breed(parents, { ...settings, seed: 6n })[3], family[3]);
  assert.notDeepEqual(breed(parents, { ...settings, generation: 2 })[3], family[3]);
  const numbers = family.slice(3).flatMap(({ noise }) => [...noise]);
  const square = numbers.reduce((sum, value) => sum + value * value, 0) / numbers.length;
  assert.ok(Math.abs(square - 1) < 0.1, `variance ${square}`);
  const likeness = (a, b) => a.noise.reduce((sum, value, at) => sum + value * b.noise[at], 0) / 400;
  assert.ok(family.slice(3).every((child) => Math.max(...parents.map((parent) => likeness(child, parent))) > 0.3));
  assert.ok(family.every(({ embedding }) => Math.abs(Math.hypot(...embedding) - 1) < 1e-5));
  const near = breed([{ ...parents[0], noise: noise(1n, 0, 0.5, 400) }], { ...settings, truncation: 0.5 });
  assert.ok(near.every((child) => child.noise.every((value) => Math.abs(value) <= 1)));
  assert.equal(breed(parents, { ...settings, n: 2 }).length, 2);
  assert.throws(() => breed([], settings), /parents: none/);
});

const folder = process.env.BUNDLE;
test("a bundle draws the same pictures for the same seed, and finds an instance itself", { skip: !folder }, async () => {
  const { default: ort } = await import("onnxruntime-node");
  const pipeline = await Pipeline.load(ort, async (name) => new Uint8Array(await readFile(`${folder}/${name}`)));
  const embedding = pipeline.stored(0);
  assert.equal(pipeline.search(embedding)[0].row, 0);
  const drawn = [];
  const latents = [];
  for (const batch of [2, 3]) {
    const pictures = [];
    const request = { n: 3, seed: 1n, truncation: 0.7, condition: "query" };
    for await (const each of pipeline.generate(embedding, request, batch)) {
      pictures.push(...each.images);
      if (batch === 2) latents.push(...each.latents);
    }
    drawn.push(pictures);
  }
  const side = pipeline.model.resolution;
  assert.equal(drawn[0].length, 3 * side * side * 3);
  assert.ok(drawn[0].every((level, at) => Math.abs(level - drawn[1][at]) <= 1));
  const again = [];
  for await (const { images } of pipeline.draw(latents)) again.push(...images);
  assert.ok(again.every((level, at) => Math.abs(level - drawn[0][at]) <= 1));
  await assert.rejects(pipeline.draw([{ ...latents[0], noise: new Float32Array(1) }]).next(), /latent 0: noise of 1 numbers/);
  await pipeline.release();
});
