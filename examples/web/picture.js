// Pixels -> the encoder's input: centre square, or all of it squeezed, then the antialiased bilinear reduction the model was trained
// with. Canvas scaling differs between browsers; this one gives the bytes that Pillow's BILINEAR gives.

const BITS = 22; // of the fixed-point weights

/**
 * @param {Uint8ClampedArray | Uint8Array} rgba of what `area` cuts out, opaque
 * @param {number} width in pixels
 * @param {number} size S, the side the encoder takes
 * @param {number} height in pixels, that of a square if left out
 * @returns {Uint8Array} RGB [S, S, 3]
 */
export function toInput(rgba, width, size, height = width) {
  const across = windows(width, size);
  const down = height === width ? across : windows(height, size);
  const narrow = new Uint8Array(height * size * 3); // [height, S, 3]: reduced in x, still full height
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < size; x++) blend(rgba, (y * width) * 4, 4, across[x], narrow, (y * size + x) * 3);
  }
  const small = new Uint8Array(size * size * 3);
  for (let y = 0; y < size; y++) {
    for (let x = 0; x < size; x++) blend(narrow, x * 3, size * 3, down[y], small, (y * size + x) * 3);
  }
  return small;
}

/**
 * What of a picture the encoder sees. @param {number} width @param {number} height
 * @param {string} crop "squeeze": all of it; else the middle square
 */
export function area(width, height, crop) {
  if (crop === "squeeze") return { width, height, left: 0, top: 0 };
  const { side, left, top } = centreSquare(width, height);
  return { width: side, height: side, left, top };
}

/** The middle square of a picture. @param {number} width @param {number} height */
export function centreSquare(width, height) {
  const side = Math.min(width, height);
  return { side, left: (width - side) >> 1, top: (height - side) >> 1 };
}

/** Weighted sum of three channels along one axis, rounded to bytes. */
function blend(
  /** @type {ArrayLike<number>} */ from, /** @type {number} */ offset, /** @type {number} */ stride,
  /** @type {{ first: number, weights: number[] }} */ { first, weights },
  /** @type {Uint8Array} */ to, /** @type {number} */ at,
) {
  for (let channel = 0; channel < 3; channel++) {
    let sum = 2 ** (BITS - 1);
    for (let i = 0; i < weights.length; i++) sum += from[offset + (first + i) * stride + channel] * weights[i];
    to[at + channel] = Math.min(Math.max(Math.floor(sum / 2 ** BITS), 0), 255);
  }
}

/** Which inputs, with which integer weights, make each of `to` outputs: a triangle as wide as the reduction. */
function windows(/** @type {number} */ from, /** @type {number} */ to) {
  const scale = from / to;
  const support = Math.max(scale, 1);
  return Array.from({ length: to }, (_, index) => {
    const centre = (index + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - support + 0.5), 0);
    const last = Math.min(Math.trunc(centre + support + 0.5), from);
    const heights = Array.from({ length: last - first }, (_, i) =>
      Math.max(1 - Math.abs((first + i - centre + 0.5) / support), 0),
    );
    const sum = heights.reduce((a, b) => a + b);
    return { first, weights: heights.map((height) => Math.trunc((height / sum) * 2 ** BITS + 0.5)) };
  });
}
