// Reading a bundle (docs/format.md) in browsers and Node: manifest, verified files, .npy arrays.

/** Something about the bundle cannot be trusted; the message names the file. */
export class BundleError extends Error {}

/**
 * @typedef {(name: string, onBytes?: (bytes: number) => void) => Promise<Uint8Array<ArrayBuffer>>} Read
 *   the bytes of a file of the bundle; `onBytes` hears how many have arrived since it was last called
 */

export class Bundle {
  /** @param {any} manifest @param {Read} read */
  constructor(manifest, read) {
    this.manifest = manifest;
    this.read = read;
  }

  /** @param {Read} read */
  static async open(read) {
    const manifest = JSON.parse(new TextDecoder().decode(await read("manifest.json")));
    if (manifest.format !== "icgan-bundle" || ![1, 2].includes(manifest.schema_version)) {
      throw new BundleError("manifest.json: not a bundle of schema version 1 or 2");
    }
    // schema 2 is for what truncation means where it does not bound the noise
    if (!["noise", "mean-w"].includes(manifest.model.truncation ?? "noise")) {
      throw new BundleError(`manifest.json: truncation ${manifest.model.truncation} is not known here`);
    }
    const { crop } = manifest.model.preprocessing;
    if (!["centre-short-side", "squeeze"].includes(crop)) {
      throw new BundleError(`manifest.json: crop ${crop} is not known here`);
    }
    const encoderId = await sha256(canonicalJson(pick(manifest.model, ["encoder", "preprocessing"])));
    for (const part of [manifest.bank, ...manifest.graphs]) {
      if (part.encoder_id !== encoderId) {
        throw new BundleError(`${part.file ?? "bank"}: made for another encoder`);
      }
    }
    return new Bundle(manifest, read);
  }

  /**
   * The graph of a role at the first of these precisions that the bundle has.
   * @param {string} role @param {string[]} precisions
   */
  graph(role, precisions) {
    const held = this.manifest.graphs.filter((/** @type {any} */ graph) => graph.role === role);
    for (const precision of precisions) {
      const found = held.find((/** @type {any} */ graph) => graph.precision === precision);
      if (found) return found;
    }
    throw new BundleError(`manifest.json: no ${role} graph at ${precisions.join(" or ")}`);
  }

  /** What the labels of the bank are called, where the bundle says: the model's classes, or those of the pictures. */
  get labelNames() {
    const { model, provenance } = this.manifest;
    // bundles from before `bank` was said only name the training data's, which another bank need not share
    return model.class_names ?? (provenance?.bank ?? provenance?.data)?.class_names ?? null;
  }

  /** Below this score a query is unlike all that is stored, where the bundle says. @returns {number | null} */
  get outsideBelow() {
    const said = this.manifest.provenance?.bank?.outside_below;
    return typeof said === "number" ? said : null;
  }

  /** The name of the model in claims: SHA-256 of its section of the manifest. */
  identity() {
    return sha256(canonicalJson(this.manifest.model));
  }

  /** The bytes of a listed file, hashed first. @param {string} name @param {(bytes: number) => void} [onBytes] */
  async file(name, onBytes) {
    const entry = this.manifest.files[name];
    if (!entry) throw new BundleError(`${name}: the manifest does not list it`);
    const data = await this.read(name, onBytes);
    if ((await sha256(data)) !== entry.sha256) throw new BundleError(`${name}: its bytes are not the manifest's`);
    return data;
  }

  /** A listed .npy file. @param {string} name @param {(bytes: number) => void} [onBytes] */
  async array(name, onBytes) {
    return parseNpy(await this.file(name, onBytes), name);
  }
}

const DTYPES = { "<f4": Float32Array, "<i8": BigInt64Array, "|u1": Uint8Array };

/**
 * A .npy file of version 1.0 in C order.
 * @param {Uint8Array<ArrayBuffer>} bytes
 * @param {string} name
 * @returns {{ shape: number[], data: any }}
 */
export function parseNpy(bytes, name) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (view.getUint32(0) !== 0x934e554d || view.getUint16(6) !== 0x0100) throw new BundleError(`${name}: not .npy 1.0`);
  const start = 10 + view.getUint16(8, true);
  const header = new TextDecoder().decode(bytes.subarray(10, start));
  const dtype = /'descr': *'([^']+)'/.exec(header)?.[1] ?? "";
  const shape = /'shape': *\(([^)]*)\)/.exec(header)?.[1].split(",").filter((n) => n.trim()).map(Number) ?? [];
  const Kind = DTYPES[/** @type {keyof typeof DTYPES} */ (dtype)];
  if (dtype === "<f2" || dtype === "|i1") {
    throw new BundleError(`${name}: ${dtype} is not read here, float32 is: icgan bank --embeddings float32 writes it`);
  }
  if (!Kind || /'fortran_order': *True/.test(header)) throw new BundleError(`${name}: ${dtype} is not read here`);
  const data = new Kind(bytes.slice(start).buffer);
  if (data.length !== shape.reduce((a, b) => a * b, 1)) throw new BundleError(`${name}: is cut short`);
  return { shape, data };
}

/** @param {Uint8Array<ArrayBuffer> | string} data @returns {Promise<string>} in hex */
export async function sha256(data) {
  const bytes = typeof data === "string" ? new TextEncoder().encode(data) : data;
  const digest = crypto.subtle
    ? new Uint8Array(await crypto.subtle.digest("SHA-256", bytes))
    : (await import("./hashes/sha2.js")).sha256(bytes); // a browser has none on plain http, but for localhost
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Keys sorted, no spaces. @param {any} value @returns {string} */
function canonicalJson(value) {
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  if (Array.isArray(value)) return `[${value.map(canonicalJson).join()}]`;
  const fields = Object.keys(value).sort().map((key) => `${JSON.stringify(key)}:${canonicalJson(value[key])}`);
  return `{${fields.join()}}`;
}

/** @param {any} object @param {string[]} keys */
function pick(object, keys) {
  return Object.fromEntries(keys.map((key) => [key, object[key]]));
}
