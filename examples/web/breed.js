// The next generation: pictures between those that were picked, each with something new, from latents alone.
import { noise, philoxWords, rankOf, uniform } from "./noise.js";
import { mix } from "./vectors.js";

/**
 * What the generator drew a picture from.
 * @typedef {{ noise: Float32Array, embedding: Float32Array, label: number }} Latent
 */

const NEW = 0.4; // share of a child's noise that no parent had; with the rest the sum of squares is 1
const SAMPLES = 1n << 32n; // of the seed for each generation: none meets another's, nor what the seed itself draws

/**
 * Latents of a generation: the parents themselves, then their children. A child has each number of its noise from
 * one of two parents, an embedding between theirs, and a part of fresh noise, so that noise stays normal.
 * @param {Latent[]} parents at least one
 * @param {{ n: number, seed: bigint, generation: number, truncation: number | null }} settings `generation` from 1;
 *   `truncation` bounds the noise as it does for `noise`
 * @returns {Latent[]} n of them; the same for the same parents and settings
 */
export function breed(parents, { n, seed, generation, truncation }) {
  if (!parents.length) throw new RangeError("parents: none, expected at least one picture");
  if (!(Number.isInteger(generation) && generation >= 1)) throw new RangeError(`generation ${generation} is not 1 or more`);
  const width = parents[0].noise.length;
  const bound = truncation === null ? Infinity : 2 * truncation;
  const kept = Math.sqrt(1 - NEW * NEW);
  const children = Array.from({ length: Math.max(n - parents.length, 0) }, (_, child) => {
    const sample = SAMPLES * BigInt(generation) + BigInt(child);
    const fresh = noise(seed, sample, truncation, width);
    const choices = philoxWords(seed, sample, 2 * width + 3).slice(width); // words that the noise leaves
    const [one, other] = [choices[width], choices[width + 1]].map((word) => parents[rankOf(word, parents.length)]);
    const mixed = fresh.map((value, index) => {
      const from = choices[index] >> 63n ? one : other;
      return Math.min(Math.max(kept * from.noise[index] + NEW * value, -bound), bound);
    });
    return { noise: mixed, embedding: mix(one.embedding, other.embedding, uniform(choices[width + 2])), label: one.label };
  });
  return [...parents.slice(0, n), ...children];
}
