// A picture file -> the encoder's input, with the browser's decoder and the rules of docs/format.md.
import { toSrgb } from "./colour.js";
import { facts } from "./container.js";
import { area, toInput } from "./picture.js";

const MAX_PIXELS = 1 << 26; // as in Python
const READ = "Try a JPEG, PNG, WebP, GIF, BMP or AVIF.";

/**
 * @param {Blob} file @param {number} size S, the side the encoder takes
 * @param {string} crop of the manifest's preprocessing
 * @returns {Promise<Uint8Array>} RGB [S, S, 3]: upright, transparency on white, in sRGB
 */
export async function decode(file, size, crop = "centre-short-side") {
  const { format, orientation, profile, bytes } = await facts(new Uint8Array(await file.arrayBuffer()));
  let bitmap;
  try {
    // pixels as they are stored; canvas does the rest in the same way for every browser
    bitmap = await createImageBitmap(new Blob([/** @type {any} */ (bytes)]), { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  } catch {
    throw new Error(format ? `This ${format} file is damaged, or of a kind that this browser does not decode. ${READ}` : `This file cannot be read as a picture. ${READ}`);
  }
  const { width, height } = bitmap;
  if (width * height > MAX_PIXELS) throw new Error(`${width} × ${height} pixels are too many: 67 million at most.`);
  const upright = orientation > 4 ? [height, width] : [width, height];
  const seen = area(upright[0], upright[1], crop);
  const context = new OffscreenCanvas(seen.width, seen.height).getContext("2d", { willReadFrequently: true });
  if (!context) throw new Error("This browser cannot draw off screen.");
  context.fillStyle = "white";
  context.fillRect(0, 0, seen.width, seen.height);
  context.imageSmoothingEnabled = false;
  const [a, b, c, d, e, f] = turn(orientation, width, height);
  context.setTransform(a, b, c, d, e - seen.left, f - seen.top);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const { data } = context.getImageData(0, 0, seen.width, seen.height);
  return toSrgb(toInput(data, seen.width, size, seen.height), profile);
}

/** Where stored pixels go, as a canvas takes it. @param {number} orientation @param {number} w @param {number} h */
function turn(orientation, w, h) {
  return [
    [1, 0, 0, 1, 0, 0], [-1, 0, 0, 1, w, 0], [-1, 0, 0, -1, w, h], [1, 0, 0, -1, 0, h],
    [0, 1, 1, 0, 0, 0], [0, 1, -1, 0, h, 0], [0, -1, -1, 0, h, w], [0, -1, 1, 0, 0, w],
  ][orientation - 1];
}
