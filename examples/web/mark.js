// What a saved picture says of its own making: XMP in the words of IPTC, with a claim that `icgan prove` checks
// (docs/origin.md). It is not signed: a page has no place for a key that its visitors cannot read.

const NAMESPACE = "urn:icgan:origin:1";
const TRAINED_ALGORITHMIC_MEDIA = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia";
const KEYWORD = "XML:com.adobe.xmp\0\0\0\0\0"; // of the PNG chunk, uncompressed, of no language
const AFTER_HEADER = 33; // bytes: signature and IHDR

/**
 * @typedef {{ source: any, seed: bigint, first: number, n: number, truncation: number, condition: string }} Origin
 *   samples first .. first + n − 1 of a seed, drawn from one embedding
 */

/**
 * The claim of the pictures in one file, as JSON.
 * @param {Origin} origin @param {{ columns: number, gap: number, left: number }} sheet how they lie
 */
export function claim({ source, seed, first, n, truncation, condition }, sheet) {
  const rest = { first, n, condition, label: null, sheet: { ...sheet, strips: 1 }, embedding_sha256: null, embedding: null };
  const text = JSON.stringify({ version: 1, source, ...rest });
  // numbers that JSON.stringify would not write as they are read: beyond 2^53, and 1.0 without its point
  const real = Number.isInteger(truncation) ? truncation.toFixed(1) : String(truncation);
  return text.replace('"first":', `"seed":${seed},"truncation":${real},"first":`);
}

/**
 * A PNG file with the mark in it; the pixels are the same.
 * @param {Blob} png @param {string | null} claimed the claim, where one picture was followed
 */
export async function marked(png, claimed) {
  const bytes = new Uint8Array(await png.arrayBuffer());
  const chunk = textChunk(packet(claimed));
  return new Blob([bytes.subarray(0, AFTER_HEADER), chunk, bytes.subarray(AFTER_HEADER)], { type: "image/png" });
}

function packet(/** @type {string | null} */ claimed) {
  const entities = /** @type {Record<string, string>} */ ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#x27;" });
  const safe = claimed?.replace(/[&<>"']/g, (letter) => entities[letter]);
  const said = claimed === null ? "" : ` xmlns:icgan="${NAMESPACE}" icgan:claim="${safe}"`;
  return (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">' +
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" ' +
    'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" ' +
    `Iptc4xmpExt:DigitalSourceType="${TRAINED_ALGORITHMIC_MEDIA}"${said}/></rdf:RDF></x:xmpmeta><?xpacket end="r"?>`
  );
}

/** An iTXt chunk with its length and checksum. */
function textChunk(/** @type {string} */ text) {
  const body = new TextEncoder().encode(`iTXt${KEYWORD}${text}`);
  const chunk = new Uint8Array(body.length + 8);
  const view = new DataView(chunk.buffer);
  view.setUint32(0, body.length - 4);
  chunk.set(body, 4);
  view.setUint32(body.length + 4, crc32(body));
  return chunk;
}

function crc32(/** @type {Uint8Array} */ bytes) {
  let rest = ~0;
  for (const byte of bytes) {
    rest ^= byte;
    for (let bit = 0; bit < 8; bit++) rest = (rest >>> 1) ^ (rest & 1 ? 0xedb88320 : 0);
  }
  return ~rest >>> 0;
}
