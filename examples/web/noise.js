// The noise contract (docs/noise.md) in plain JavaScript, for browsers and Node: the same seed gives the same
// noise as Python and C++. Tested against tests/golden/noise.json.

const WORD = (1n << 64n) - 1n;
const BELOW_ONE = 1 - 2 ** -53;
const DRAW_BLOCK = [1n, 0n, 0n, 1n]; // the counter of "sample" draws, which noise never reaches

/**
 * Noise of one generated picture.
 * @param {bigint | number} seed 0 .. 2^63 - 1; a number only up to 2^53
 * @param {bigint | number} sample which picture of the request, from 0
 * @param {number | null} truncation in (0, 1]; null: untruncated
 * @param {number} width dim_z of the manifest
 * @returns {Float32Array} of `width` values within ±2·truncation
 */
export function noise(seed, sample, truncation, width) {
  return Float32Array.from(philoxWords(seed, sample, width), (word) => gaussian(uniform(word), truncation));
}

/**
 * For condition "sample": which of the k nearest instances (0 = nearest) conditions a picture.
 * @param {bigint | number} seed
 * @param {bigint | number} sample
 * @param {number} k
 */
export function drawRank(seed, sample, k) {
  const [word] = philoxBlock(DRAW_BLOCK, [BigInt(seed), BigInt(sample)]);
  return rankOf(word, k);
}

/** A word as one of 0 .. k - 1. @param {bigint} word @param {number} k */
export function rankOf(word, k) {
  return Number(((word >> 11n) * BigInt(k)) >> 53n);
}

/**
 * The first `count` words of the stream with key (seed, sample): Philox4x64-10 from counter 1 on.
 * @param {bigint | number} seed
 * @param {bigint | number} sample
 * @param {number} count
 * @param {bigint} [top] the counter's most significant word; noise has 0
 * @returns {bigint[]}
 */
export function philoxWords(seed, sample, count, top = 0n) {
  const key = [BigInt(seed), BigInt(sample)];
  const blocks = Array.from({ length: Math.ceil(count / 4) }, (_, index) =>
    philoxBlock([BigInt(index + 1), 0n, 0n, top], key),
  );
  return blocks.flat().slice(0, count);
}

/** @param {bigint[]} counter four words @param {bigint[]} key two words @returns {bigint[]} four words */
function philoxBlock(counter, key) {
  let [c0, c1, c2, c3] = counter;
  let [k0, k1] = key;
  for (let round = 0; round < 10; round++) {
    const left = 0xd2e7470ee14c6c93n * c0;
    const right = 0xca5a826395121157n * c2;
    [c0, c1, c2, c3] = [(right >> 64n) ^ c1 ^ k0, right & WORD, (left >> 64n) ^ c3 ^ k1, left & WORD];
    k0 = (k0 + 0x9e3779b97f4a7c15n) & WORD;
    k1 = (k1 + 0xbb67ae8584caa73bn) & WORD;
  }
  return [c0, c1, c2, c3];
}

/** A word as a double in (0, 1). @param {bigint} word */
export function uniform(word) {
  return Math.min((Number(word >> 11n) + 0.5) * 2 ** -53, BELOW_ONE);
}

/**
 * A uniform as a standard normal truncated to ±2·truncation.
 * @param {number} u
 * @param {number | null} truncation
 */
export function gaussian(u, truncation) {
  if (truncation === null) return normalQuantile(u);
  const bound = 2 * Math.fround(truncation); // float32 on the wire
  const low = lowerTail(bound);
  const z = normalQuantile(low + u * (1 - low - low));
  return Math.min(Math.max(z, -bound), bound);
}

/**
 * Φ(-x) for 0 ≤ x ≤ 2. JavaScript has no erfc; this series for Φ(x) - 1/2 has positive terms only, so it
 * keeps all its digits.
 * @param {number} x
 */
function lowerTail(x) {
  let term = x;
  let sum = x;
  for (let odd = 3; term > 1e-18 * sum; odd += 2) {
    term *= (x * x) / odd;
    sum += term;
  }
  return 0.5 - (sum * Math.exp((-x * x) / 2)) / Math.sqrt(2 * Math.PI);
}

/**
 * Φ⁻¹(p) for p in (0, 1): algorithm AS 241, routine PPND16 (Wichura 1988), about 16 digits.
 * @param {number} p
 */
export function normalQuantile(p) {
  const q = p - 0.5;
  if (Math.abs(q) <= 0.425) return q * ratio(0.180625 - q * q, A, B);
  const distance = Math.sqrt(-Math.log(Math.min(p, 1 - p))); // from the nearer end
  return Math.sign(q) * (distance <= 5 ? ratio(distance - 1.6, C, D) : ratio(distance - 5, E, F));
}

/** Quotient of two polynomials by Horner's rule, coefficients from the constant up. */
function ratio(/** @type {number} */ x, /** @type {number[]} */ above, /** @type {number[]} */ below) {
  const horner = (/** @type {number[]} */ c) => c.reduceRight((value, next) => value * x + next);
  return horner(above) / horner(below);
}

// Coefficients of AS 241, PPND16: |p - 0.5| ≤ 0.425, then the near tail, then the far tail.
const A = [
  3.387132872796366608, 133.14166789178437745, 1971.5909503065514427, 13731.693765509461125,
  45921.953931549871457, 67265.770927008700853, 33430.575583588128105, 2509.0809287301226727,
];
const B = [
  1, 42.313330701600911252, 687.1870074920579083, 5394.1960214247511077,
  21213.794301586595867, 39307.89580009271061, 28729.085735721942674, 5226.495278852854561,
];
const C = [
  1.42343711074968357734, 4.6303378461565452959, 5.7694972214606914055, 3.64784832476320460504,
  1.27045825245236838258, 0.24178072517745061177, 0.0227238449892691845833, 0.00077454501427834140764,
];
const D = [
  1, 2.05319162663775882187, 1.6763848301838038494, 0.68976733498510000455,
  0.14810397642748007459, 0.0151986665636164571966, 0.00054759380849953445, 1.05075007164441684324e-9,
];
const E = [
  6.6579046435011037772, 5.4637849111641143699, 1.7848265399172913358, 0.29656057182850489123,
  0.026532189526576123093, 0.0012426609473880784386, 2.71155556874348757815e-5, 2.01033439929228813265e-7,
];
const F = [
  1, 0.59983220655588793769, 0.13692988092273580531, 0.0148753612908506148525,
  0.0007868691311456132591, 1.84631831751005468180e-5, 1.4215117583164458887e-7, 2.04426310338993978564e-15,
];
