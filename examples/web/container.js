// What a picture file says beside its pixels, by the rules of docs/format.md: its format, which way is up, its
// colour profile. The same as icgan_runtime.reader, so that a file gives the same picture in every language.

/** @typedef {{ format: string | null, orientation: number, profile: Uint8Array | null, bytes: Uint8Array }} Facts */

const MAX_PROFILE_BYTES = 1 << 20;

/** Bytes as text; the decoder that the web calls latin1 is another. @param {Uint8Array} bytes @param {number} at @param {number} length */
const text = (bytes, at, length) => String.fromCharCode(...bytes.subarray(at, at + length));

/** The format by the first bytes, null for none that is known. @param {Uint8Array} bytes */
export function sniff(bytes) {
  const head = text(bytes, 0, 12);
  if (head.startsWith("\xff\xd8\xff")) return "JPEG";
  if (head.startsWith("\x89PNG\r\n\x1a\n")) return "PNG";
  if (head.startsWith("RIFF") && head.endsWith("WEBP")) return "WebP";
  if (/^GIF8[79]a/.test(head)) return "GIF";
  if (head.startsWith("BM")) return "BMP";
  if (/^(II\*\0|MM\0\*)/.test(head)) return "TIFF";
  if (/^P[56]\s/.test(head)) return "PPM";
  if (head.startsWith("\xff\x0a") || head.startsWith("\0\0\0\x0cJXL ")) return "JPEG XL";
  if (head.slice(4, 8) !== "ftyp") return null;
  const brands = new Set([head.slice(8)]);
  const end = Math.min(view(bytes).getUint32(0), bytes.length, 256);
  for (let at = 16; at + 4 <= end; at += 4) brands.add(text(bytes, at, 4));
  if (brands.has("avif") || brands.has("avis")) return "AVIF";
  return [...brands].some((brand) => /^he(ic|ix|im|is|vc|vx|vm|vs)$/.test(brand)) ? "HEIC" : null;
}

/**
 * @param {Uint8Array} bytes a picture file
 * @returns {Promise<Facts>} `bytes` are those to decode: without the EXIF that some browsers turn by and others do not
 */
export async function facts(bytes) {
  const format = sniff(bytes);
  const found = { format, orientation: 1, profile: null, bytes };
  try {
    const read = { JPEG: jpeg, PNG: png, WebP: webp, AVIF: boxes, HEIC: boxes }[format ?? ""];
    return read ? { ...found, ...(await read(bytes)) } : found;
  } catch {
    return found; // what is damaged here, the decoder says better
  }
}

/** 1 to 8, from EXIF with or without its head; 1 where it is damaged or says nothing. @param {Uint8Array | null} exif */
export function orientationOf(exif) {
  if (!exif) return 1;
  const tiff = view(exif.subarray(text(exif, 0, 6) === "Exif\0\0" ? 6 : 0));
  try {
    const order = { "II*\0": true, "MM\0*": false }[text(new Uint8Array(tiff.buffer, tiff.byteOffset, tiff.byteLength), 0, 4)];
    if (order === undefined) return 1;
    const place = tiff.getUint32(4, order);
    const entries = tiff.getUint16(place, order);
    for (let at = place + 2; at < place + 2 + 12 * entries; at += 12) {
      if (tiff.getUint16(at, order) !== 0x0112) continue;
      const value = tiff.getUint16(at + 8, order);
      const isShort = tiff.getUint16(at + 2, order) === 3 && tiff.getUint32(at + 4, order) === 1;
      return isShort && value >= 1 && value <= 8 ? value : 1;
    }
  } catch {
    // it ends too early
  }
  return 1;
}

/** @param {Uint8Array} bytes */
const view = (bytes) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

/** @param {Uint8Array[]} parts */
function joined(parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** @param {Uint8Array} bytes */
function jpeg(bytes) {
  const data = view(bytes);
  const plain = bytes.slice();
  const profile = [];
  let exif = null;
  for (let at = 2; at + 4 <= bytes.length && bytes[at] === 0xff && bytes[at + 1] !== 0xda; ) {
    if (bytes[at + 1] === 0xff) {
      at++; // padding
      continue;
    }
    const end = at + 2 + data.getUint16(at + 2);
    if (bytes[at + 1] === 0xe1 && text(bytes, at + 4, 6) === "Exif\0\0") {
      exif ??= bytes.subarray(at + 4, end);
      plain.fill(0x5f, at + 4, at + 8);
    }
    if (bytes[at + 1] === 0xe2 && text(bytes, at + 4, 12) === "ICC_PROFILE\0") profile.push(bytes.subarray(at + 16, end));
    at = end;
  }
  profile.sort((a, b) => a[0] - b[0]);
  const isWhole = profile.length > 0 && profile[0][1] === profile.length;
  return {
    orientation: orientationOf(exif),
    profile: isWhole ? joined(profile.map((part) => part.subarray(2))) : null,
    bytes: exif ? plain : bytes,
  };
}

/** @param {Uint8Array} bytes */
async function png(bytes) {
  const data = view(bytes);
  const kept = [bytes.subarray(0, 8)];
  let exif = null;
  let profile = null;
  for (let at = 8; at + 12 <= bytes.length; ) {
    const end = at + 12 + data.getUint32(at);
    const name = text(bytes, at + 4, 4);
    const content = bytes.subarray(at + 8, end - 4);
    if (name === "eXIf") exif = content;
    else kept.push(bytes.subarray(at, end));
    if (name === "iCCP") profile = await inflated(content.subarray(content.indexOf(0) + 2));
    at = end;
  }
  return { orientation: orientationOf(exif), profile, bytes: exif ? joined(kept) : bytes };
}

/** @param {Uint8Array} packed @returns {Promise<Uint8Array | null>} null for what is damaged or too large */
async function inflated(packed) {
  const stream = new Blob([/** @type {any} */ (packed)]).stream().pipeThrough(new DecompressionStream("deflate"));
  const reader = stream.getReader();
  const parts = [];
  try {
    for (let size = 0; ; ) {
      const { done, value } = await reader.read();
      if (done) return joined(parts);
      size += value.length;
      if (size > MAX_PROFILE_BYTES) return null;
      parts.push(value);
    }
  } catch {
    return null;
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** @param {Uint8Array} bytes */
function webp(bytes) {
  const data = view(bytes);
  const plain = bytes.slice();
  let exif = null;
  let profile = null;
  for (let at = 12; at + 8 <= bytes.length; ) {
    const size = data.getUint32(at + 4, true);
    const content = bytes.subarray(at + 8, at + 8 + size);
    const name = text(bytes, at, 4);
    if (name === "EXIF") {
      exif ??= content;
      plain.fill(0x5f, at, at + 4);
    }
    if (name === "ICCP") profile ??= content;
    at += 8 + size + (size & 1);
  }
  return { orientation: orientationOf(exif), profile, bytes: exif ? plain : bytes };
}

/** AVIF and HEIC: decoders turn by the container themselves. @param {Uint8Array} bytes */
function boxes(bytes) {
  const meta = box(bytes, 0, bytes.length, "meta");
  const properties = meta && box(bytes, meta.at + 4, meta.end, "iprp");
  const list = properties && box(bytes, properties.at, properties.end, "ipco");
  for (let at = list ? list.at : 0; list && at < list.end; ) {
    const colour = box(bytes, at, list.end, "colr");
    if (!colour) break;
    if (/^(prof|rICC)$/.test(text(bytes, colour.at, 4))) return { profile: bytes.subarray(colour.at + 4, colour.end) };
    at = colour.end;
  }
  return {};
}

/** The content of the first box of a kind. @param {Uint8Array} bytes @param {number} at @param {number} end @param {string} kind */
function box(bytes, at, end, kind) {
  const data = view(bytes);
  while (at + 8 <= end) {
    const short = data.getUint32(at);
    const size = short === 1 ? Number(data.getBigUint64(at + 8)) : short || end - at;
    const head = short === 1 ? 16 : 8;
    if (size < head) return null;
    if (text(bytes, at + 4, 4) === kind) return { at: at + head, end: Math.min(at + size, end) };
    at += size;
  }
  return null;
}
