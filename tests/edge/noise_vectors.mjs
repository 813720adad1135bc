// Prints what examples/web/noise.js computes for every golden case, as JSON; test_noise_languages.py compares.
import { readFileSync } from "node:fs";
import * as icgan from "../../examples/web/noise.js";

const cases = JSON.parse(readFileSync(process.argv[2], "utf8"));
const computed = cases.map(({ seed, sample, truncation, words, draw_rank }) => {
  const [s, j] = [BigInt(seed), BigInt(sample)];
  const drawn = icgan.philoxWords(s, j, words.length);
  return {
    words: drawn.map((word) => word.toString(16).padStart(16, "0")),
    z: drawn.map((word) => icgan.gaussian(icgan.uniform(word), truncation)),
    noise: Array.from(icgan.noise(s, j, truncation, words.length)),
    draw_rank: Object.fromEntries(Object.keys(draw_rank).map((k) => [k, icgan.drawRank(s, j, Number(k))])),
  };
});
console.log(JSON.stringify(computed));
