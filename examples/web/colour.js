// ICC profiles: pixels of a wide-gamut photo, as phones take them, in the sRGB that models are trained on. The same
// as icgan_runtime.reader.colour, to the last bit: profiles of three primaries and three curves; others are ignored.

const MAX_PROFILE_BYTES = 1 << 20;
const STEPS = 1 << 16;
const NEAR = 2; // levels by which a profile may differ from sRGB and be sRGB by another name
const FROM_XYZ = [
  [3.1338561, -1.6168667, -0.4906146],
  [-0.9787684, 1.9161415, 0.033454],
  [0.0719453, -0.2289914, 1.4052427],
];
const MAX_TAGS = 100;
const MAX_POINTS = 1 << 14;
/** @type {Uint8Array | undefined} */
let encoded;

/**
 * @param {Uint8Array} pixels RGB, as `toInput` of picture.js gives it
 * @param {Uint8Array | null} profile the file's ICC profile
 * @returns {Uint8Array} the same in sRGB; as they are without a profile, or with one that is not followed
 */
export function toSrgb(pixels, profile) {
  const transform = profile && profile.length <= MAX_PROFILE_BYTES ? read(profile) : null;
  return transform ? apply(pixels, transform) : pixels;
}

/** @typedef {{ curves: Float64Array[], matrix: number[][] }} Transform */

/** @param {Uint8Array} profile @returns {Transform | null} */
function read(profile) {
  let curves, columns;
  try {
    const tags = tagsOf(profile);
    curves = ["rTRC", "gTRC", "bTRC"].map((name) => curve(tags[name]));
    columns = ["rXYZ", "gXYZ", "bXYZ"].map((name) => [8, 12, 16].map((at) => tags[name].getInt32(at) / 65536));
  } catch {
    return null;
  }
  const matrix = FROM_XYZ.map((out) => columns.map((column) => out[0] * column[0] + out[1] * column[1] + out[2] * column[2]));
  const levels = [0, 51, 102, 153, 204, 255];
  const grid = Uint8Array.from(levels.flatMap((r) => levels.flatMap((g) => levels.flatMap((b) => [r, g, b]))));
  const moved = apply(grid, { curves, matrix }).reduce((most, level, i) => Math.max(most, Math.abs(level - grid[i])), 0);
  return moved <= NEAR ? null : { curves, matrix };
}

/** @param {Uint8Array} profile @returns {Record<string, DataView>} */
function tagsOf(profile) {
  const name = (/** @type {number} */ at, /** @type {number} */ length) =>
    String.fromCharCode(...profile.subarray(at, at + length));
  if (name(36, 4) !== "acsp" || name(16, 8) !== "RGB XYZ ") throw new RangeError("not a profile of three primaries");
  const data = new DataView(profile.buffer, profile.byteOffset, profile.byteLength);
  const count = Math.min(data.getUint32(128), MAX_TAGS);
  return Object.fromEntries(
    Array.from({ length: count }, (_, number) => {
      const at = 132 + 12 * number;
      const [place, size] = [data.getUint32(at + 4), data.getUint32(at + 8)];
      const tag = profile.subarray(place, place + size);
      return [name(at, 4), new DataView(tag.buffer, tag.byteOffset, tag.byteLength)];
    }),
  );
}

/** What each of 256 levels is in light, 0 to 1. @param {DataView} tag */
function curve(tag) {
  const kind = tag.getUint32(0);
  if (kind === 0x63757276) return table(tag); // "curv"
  if (kind !== 0x70617261) throw new RangeError("a curve of another kind"); // "para"
  const shape = Math.min(tag.getUint16(8), 4);
  const count = [1, 3, 4, 5, 7][shape];
  const [g, ...rest] = Array.from({ length: count }, (_, i) => tag.getInt32(12 + 4 * i) / 65536);
  const [a, b] = rest.length ? rest : [1, 0];
  let [c, d, e, f] = [0, 0, 0, 0];
  if (shape === 1 || shape === 2) {
    d = a ? -b / a : 0;
    e = f = shape === 2 ? rest[2] : 0;
  } else if (shape >= 3) {
    [c, d] = [rest[2], rest[3]];
    [e, f] = shape === 4 ? [rest[4], rest[5]] : [0, 0];
  }
  return Float64Array.from({ length: 256 }, (_, level) => {
    const x = level / 255;
    const light = x >= d ? Math.max(a * x + b, 0) ** g + e : c * x + f;
    return Math.min(Math.max(light, 0), 1);
  });
}

/** @param {DataView} tag */
function table(tag) {
  const count = tag.getUint32(8);
  if (count > MAX_POINTS) throw new RangeError("a curve of too many points");
  const points = Array.from({ length: count }, (_, i) => tag.getUint16(12 + 2 * i));
  return Float64Array.from({ length: 256 }, (_, level) => {
    const x = level / 255;
    if (count === 0) return x;
    if (count === 1) return x ** (points[0] / 256);
    const place = x * (count - 1);
    const low = Math.min(Math.trunc(place), count - 2);
    const [from, to] = [points[low] / 65535, points[low + 1] / 65535];
    return from + (to - from) * (place - low);
  });
}

/** @param {Uint8Array} pixels @param {Transform} transform */
function apply(pixels, { curves, matrix }) {
  encoded ??= Uint8Array.from({ length: STEPS }, (_, step) => {
    const x = step / (STEPS - 1);
    const level = x <= 0.0031308 ? 12.92 * x : 1.055 * x ** (1 / 2.4) - 0.055;
    return Math.floor(level * 255 + 0.5);
  });
  const out = new Uint8Array(pixels.length);
  for (let at = 0; at < pixels.length; at += 3) {
    const [r, g, b] = [curves[0][pixels[at]], curves[1][pixels[at + 1]], curves[2][pixels[at + 2]]];
    for (let channel = 0; channel < 3; channel++) {
      const [ofR, ofG, ofB] = matrix[channel];
      const light = Math.min(Math.max(r * ofR + g * ofG + b * ofB, 0), 1);
      out[at + channel] = encoded[Math.floor(light * (STEPS - 1) + 0.5)];
    }
  }
  return out;
}
