// Rows of numbers: embeddings and what is between them.

/**
 * An embedding between two, of unit length.
 * @param {Float32Array} from @param {Float32Array} to @param {number} share of `to`, 0 .. 1
 */
export function mix(from, to, share) {
  const between = from.map((value, index) => value * (1 - share) + to[index] * share);
  const length = Math.sqrt(dot(between, between));
  return between.map((value) => value / length);
}

/** In double precision. @param {Float32Array} a @param {Float32Array} b */
export function dot(a, b) {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}
