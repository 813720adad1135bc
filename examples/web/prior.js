// Instances that are drawn instead of stored: icgan_runtime's prior.py (docs/format.md) in plain JavaScript.
import { BundleError } from "./bundle.js";
import { normalQuantile, philoxWords, uniform } from "./noise.js";

const BLOCKS = 2n; // the most significant word of the counters that instances are drawn from

export class Prior {
  /**
   * @param {number} width D
   * @param {{ centres: Float32Array, axes: Float32Array, scales: Float32Array, counts: BigInt64Array, labels?: BigInt64Array }} arrays
   */
  constructor(width, { centres, axes, scales, counts, labels }) {
    Object.assign(this, { width, centres, axes, scales, labels });
    this.counts = Array.from(counts, Number);
    this.pictures = this.counts.reduce((sum, count) => sum + count, 0);
  }

  /**
   * The prior of a bundle; null where it has none.
   * @param {import("./bundle.js").Bundle} bundle
   */
  static async read(bundle) {
    const { files, model, bank } = bundle.manifest;
    if (!files["prior/prior.json"]) return null;
    const about = JSON.parse(new TextDecoder().decode(await bundle.file("prior/prior.json")));
    const known = about.format === "icgan-prior" && about.schema_version === 1;
    if (!known || about.encoder_id !== bank.encoder_id) throw new BundleError("prior/prior.json: not a prior of this bundle");
    const { centres, axes } = about;
    /** @type {Record<string, number[]>} */
    const shapes = { centres: [centres, model.embedding_dim], axes: [axes, model.embedding_dim], scales: [centres, axes], counts: [centres] };
    if (model.classes) shapes.labels = [centres, model.classes];
    /** @type {any} */
    const arrays = {};
    for (const [name, shape] of Object.entries(shapes)) {
      const found = await bundle.array(`prior/${name}.npy`);
      if (String(found.shape) !== String(shape)) throw new BundleError(`prior/${name}.npy: another shape than prior.json says`);
      arrays[name] = found.data;
    }
    return new Prior(model.embedding_dim, arrays);
  }

  /**
   * The instance of one picture, and a label where the model has any.
   * @param {bigint | number} seed @param {bigint | number} sample
   * @returns {{ embedding: Float32Array, label: number | null }} [D], of unit length
   */
  instance(seed, sample) {
    const { width, counts } = this;
    const axes = this.axes.length / width;
    const uniforms = philoxWords(seed, sample, 2 + axes, BLOCKS).map(uniform);
    const group = place(uniforms[0] * this.pictures, counts);
    const row = Float64Array.from(this.centres.subarray(group * width, (group + 1) * width));
    for (let axis = 0; axis < axes; axis++) {
      const step = normalQuantile(uniforms[2 + axis]) * this.scales[group * axes + axis];
      for (let at = 0; at < width; at++) row[at] += step * this.axes[axis * width + at];
    }
    const length = Math.sqrt(row.reduce((sum, value) => sum + value * value, 0));
    const classes = this.labels ? this.labels.length / counts.length : 0;
    const held = this.labels ? Array.from(this.labels.subarray(group * classes, (group + 1) * classes), Number) : null;
    return { embedding: Float32Array.from(row, (value) => value / length), label: held && place(uniforms[1] * counts[group], held) };
  }
}

/** The first place whose end, of parts of these sizes, is above a value. @param {number} value @param {number[]} sizes */
function place(value, sizes) {
  let end = 0;
  return sizes.findIndex((size) => value < (end += size));
}
