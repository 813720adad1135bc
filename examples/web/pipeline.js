// Picture -> embedding -> nearest instances -> pictures, on any ONNX Runtime for JavaScript: the rules of
// icgan_runtime's pipeline. Browsers pass onnxruntime-web, Node passes onnxruntime-node.
import { Bundle, sha256 } from "./bundle.js";
import { drawRank, noise } from "./noise.js";
import { Prior } from "./prior.js";
import { dot } from "./vectors.js";

/**
 * @typedef {object} Request
 * @property {number} n how many pictures
 * @property {bigint} seed 0 .. 2^63 - 1
 * @property {number | null} truncation in (0, 1]; null: untruncated
 * @property {"query" | "nearest" | "sample"} condition what the generator sees: this embedding, its nearest
 *   stored instance, or one of the k nearest drawn by the seed
 * @property {number | null} [label] for models with classes; null: the instance's own
 */

/** @typedef {import("./breed.js").Latent} Latent */

const CONDITIONS = ["query", "nearest", "sample"];

export class Pipeline {
  /** @param {any} ort @param {Bundle} bundle @param {any} encoder @param {any} generator @param {any} bank @param {any} graph the generator's entry */
  constructor(ort, bundle, encoder, generator, bank, graph) {
    Object.assign(this, { ort, bundle, encoder, generator, bank, graph });
    this.model = bundle.manifest.model;
    this.neighbours = bundle.manifest.bank.neighbours;
  }

  /**
   * @param {any} ort an ONNX Runtime module
   * @param {import("./bundle.js").Read} read
   * @param {{ precisions?: string[], session?: any, onProgress?: (done: number, total: number) => void }} [options]
   *   `precisions` in order of preference, `session`: options of ONNX Runtime
   */
  static async load(ort, read, { precisions = ["fp32"], session = {}, onProgress = () => {} } = {}) {
    const bundle = await Bundle.open(read);
    const { files, bank } = bundle.manifest;
    const drawing = bundle.graph("generator", precisions);
    const graphs = [drawing.file, bundle.graph("encoder", precisions).file];
    const named = ["names", "name_ends"].filter((name) => files[`bank/${name}.npy`]);
    const arrays = ["embeddings", "ids", ...(bank.labelled ? ["labels"] : []), ...(named.length === 2 ? named : [])];
    const names = [...graphs, ...arrays.map((name) => `bank/${name}.npy`)];
    const total = names.reduce((sum, name) => sum + files[name].bytes, 0);
    let done = 0;
    const count = (/** @type {number} */ bytes) => onProgress((done += bytes), total);
    const graphFiles = graphs.map((name) => bundle.file(name, count));
    // what fails before its turn to be waited for below would end a Node program, whatever that catches
    for (const file of graphFiles) file.catch(() => {});
    const loaded = await Promise.all(arrays.map((name) => bundle.array(`bank/${name}.npy`, count)));
    const held = Object.fromEntries(arrays.map((name, index) => [name, loaded[index].data]));
    // without VNNI a processor's quick INT8 kernels add two products in 16 bits, which overflow
    const options = { ...session, extra: { ...session.extra, "session.x64quantprecision": "1" } };
    // one after the other: the WebAssembly runtime opens one session at a time
    const generator = await ort.InferenceSession.create(await graphFiles[0], options);
    const encoder = await graphFiles[1].then((file) => ort.InferenceSession.create(file, options)).catch(async (error) => {
      await generator.release();
      throw error;
    });
    return new Pipeline(ort, bundle, encoder, generator, held, drawing);
  }

  /** What draws the pictures, as claims of origin name it. @param {string} backend */
  async source(backend) {
    const { manifest } = this.bundle;
    const { buffer, byteOffset, byteLength } = this.bank.embeddings;
    return {
      name: this.model.name,
      version: this.model.version,
      identity: await this.bundle.identity(),
      generator: manifest.files[this.graph.file].sha256,
      bank: await sha256(new Uint8Array(buffer, byteOffset, byteLength)),
      precision: this.graph.precision,
      backend,
    };
  }

  /** Free what both graphs hold; the pipeline cannot be used any more. */
  async release() {
    await this.encoder.release();
    await this.generator.release();
  }

  /**
   * The embedding of a picture that `toInput` of picture.js made.
   * @param {Uint8Array} picture [S, S, 3] RGB
   * @returns {Promise<Float32Array>} [D], of unit length
   */
  async embed(picture) {
    const side = this.model.preprocessing.size;
    const image = new this.ort.Tensor("uint8", picture, [1, side, side, 3]);
    return (await this.encoder.run({ image })).embedding.data;
  }

  /**
   * The instance that a seed and sample draw from the bundle's prior, and its label where the model has any.
   * @param {bigint | number} seed @param {bigint | number} sample
   * @returns {Promise<{ embedding: Float32Array, label: number | null }>}
   */
  async instance(seed, sample) {
    this.prior ??= Prior.read(this.bundle); // when it is needed first
    const prior = await this.prior;
    if (!prior) throw new RangeError("this bundle has no prior to draw instances from: give an embedding");
    return prior.instance(seed, sample);
  }

  /** The embedding of a stored instance. @param {number} row @returns {Float32Array} */
  stored(row) {
    if (!(row in this.bank.ids)) throw new RangeError(`no row ${row} in a bank of ${this.bank.ids.length} instances`);
    const width = this.model.embedding_dim;
    return this.bank.embeddings.subarray(row * width, (row + 1) * width);
  }

  /** The file that a stored instance came from, "" where the bundle does not say. @param {number} row */
  nameOf(row) {
    const { names, name_ends: ends } = this.bank;
    if (!names || !ends) return "";
    return new TextDecoder().decode(names.subarray(row ? Number(ends[row - 1]) : 0, Number(ends[row])));
  }

  /**
   * Whether an embedding is less like any stored instance than 99 % of those are like another: the model has not
   * learnt such pictures. False where the bundle does not say.
   * @param {{ score: number }[]} near what `search` found
   */
  isOutside(near) {
    const limit = this.bundle.outsideBelow;
    return limit !== null && near[0].score < limit;
  }

  /**
   * The k stored instances of largest inner product, best first.
   * @param {Float32Array} embedding
   * @returns {{ row: number, id: number, score: number, label: number | null, name: string }[]}
   */
  search(embedding) {
    const { ids, labels } = this.bank;
    const scores = Array.from(ids, (_, row) => Math.fround(dot(this.stored(row), embedding)));
    const rows = scores.map((_, row) => row).sort((a, b) => scores[b] - scores[a] || a - b);
    return rows.slice(0, this.neighbours).map((row) => ({
      row,
      id: Number(ids[row]),
      score: scores[row],
      label: labels ? Number(labels[row]) : null,
      name: this.nameOf(row),
    }));
  }

  /** Whether truncation pulls towards the mean w instead of bounding the noise (docs/noise.md). */
  get towardsMean() {
    return this.model.truncation === "mean-w";
  }

  /**
   * Pictures that follow an embedding, in batches as they are done; or, with null, each an instance of its own
   * that the bundle's prior draws.
   * @param {Float32Array | null} embedding
   * @param {Request} request
   * @param {number} batch pictures per run of the graph
   * @yields {{ start: number, images: Uint8Array, latents: Latent[] }} [m, R, R, 3], from picture `start` on, and
   *   what each was drawn from
   */
  async *generate(embedding, { n, seed, truncation, condition, label = null }, batch = 8) {
    if (embedding === null) {
      yield* this.#drawn({ n, seed, truncation, condition, label }, batch);
      return;
    }
    this.#check(embedding, { n, seed, truncation, condition, label });
    if (this.model.classes && label === null && !this.bank.labels) {
      throw new RangeError("the instances of this bundle have no labels: say which class to draw with `label`");
    }
    const near = this.search(embedding);
    const request = { n, seed, truncation, condition, label };
    yield* this.#inBatches(n, (j) => this.#latent(embedding, near, j, request), truncation, batch);
  }

  /** What sample j of a request is drawn from. @param {Float32Array} embedding @param {any[]} near @param {number} j @param {Request} request @returns {Latent} */
  #latent(embedding, near, j, { seed, truncation, condition, label }) {
    const instance = near[condition === "sample" ? drawRank(seed, j, near.length) : 0];
    return {
      noise: noise(seed, j, this.towardsMean ? null : truncation, this.model.dim_z), // else the generator takes it
      embedding: condition === "query" ? embedding : this.stored(instance.row),
      label: label ?? instance.label ?? 0,
    };
  }

  /** As `generate`, of instances that the prior draws. @param {Request} request @param {number} batch */
  async *#drawn(request, batch) {
    const { n, seed, truncation, label = null } = request;
    const latents = new Map();
    for (let start = 0; start < n; start += batch) {
      for (let j = start; j < Math.min(start + batch, n); j++) {
        const drawn = await this.instance(seed, j);
        this.#check(drawn.embedding, { ...request, label });
        const own = { ...request, label: label ?? drawn.label };
        latents.set(j, this.#latent(drawn.embedding, this.search(drawn.embedding), j, own));
      }
      const count = Math.min(batch, n - start);
      for await (const { images, latents: of } of this.#inBatches(count, (j) => latents.get(start + j), truncation, batch)) {
        yield { start, images, latents: of };
      }
      latents.clear();
    }
  }

  /**
   * Pictures of latents, such as `breed` makes, in batches as they are done.
   * @param {Latent[]} latents
   * @param {number | null} truncation towards the mean w, where that is what the model knows
   * @param {number} batch pictures per run of the graph
   * @yields {{ start: number, images: Uint8Array, latents: Latent[] }} as `generate` does
   */
  async *draw(latents, truncation = null, batch = 8) {
    const { dim_z, embedding_dim, classes } = this.model;
    latents.forEach(({ noise, embedding, label }, row) => {
      if (noise.length !== dim_z) throw new RangeError(`latent ${row}: noise of ${noise.length} numbers, expected ${dim_z}`);
      if (!noise.every(Number.isFinite)) throw new RangeError(`latent ${row}: its noise is not finite`);
      this.#check(embedding, { n: 1, seed: 0n, truncation, condition: "query", label: classes ? label : null });
    });
    yield* this.#inBatches(latents.length, (j) => latents[j], truncation, batch);
  }

  /** @param {number} n @param {(j: number) => Latent} latent @param {number | null} truncation @param {number} batch */
  async *#inBatches(n, latent, truncation, batch) {
    for (let start = 0; start < n; start += batch) {
      const latents = Array.from({ length: Math.min(batch, n - start) }, (_, index) => latent(start + index));
      const images = await this.#draw(
        latents.map((each) => each.noise),
        latents.map((each) => each.embedding),
        latents.map((each) => each.label),
        truncation ?? 1,
      );
      yield { start, images, latents };
    }
  }

  /** Refuse what Python refuses. Left alone, most of it would be drawn as something else, or as black. */
  #check(/** @type {Float32Array} */ embedding, /** @type {Request} */ { n, seed, truncation, condition, label }) {
    const { classes, embedding_dim } = this.model;
    const isUnit = embedding.length === embedding_dim && Math.abs(Math.sqrt(dot(embedding, embedding)) - 1) <= 1e-2;
    if (!isUnit) throw new RangeError(`the embedding is not ${embedding_dim} numbers of length 1`);
    if (!(Number.isInteger(n) && n >= 1)) throw new RangeError(`n ${n} is not a number of pictures`);
    if (seed < 0n || seed >= 1n << 63n) throw new RangeError(`seed ${seed} is not in 0 .. 2^63 - 1`);
    const isShare = truncation === null || (Math.fround(truncation) > 0 && Math.fround(truncation) <= 1);
    if (!isShare) throw new RangeError(`truncation ${truncation} is not in (0, 1], nor null`);
    if (!CONDITIONS.includes(condition)) throw new RangeError(`condition ${condition} is not ${CONDITIONS.join(", ")}`);
    const isClass = label === null || (Number.isInteger(label) && label >= 0 && label < classes);
    if (!isClass) throw new RangeError(classes ? `label ${label} is not in 0 .. ${classes - 1}` : "this model has no labels");
  }

  /**
   * What the model makes of stored instances without noise: its typical picture of each.
   * @param {number[]} rows
   * @returns {Promise<Uint8Array[]>} [R, R, 3] each
   */
  async portraits(rows) {
    const images = await this.#draw(
      rows.map(() => new Float32Array(this.model.dim_z)),
      rows.map((row) => this.stored(row)),
      rows.map((row) => (this.bank.labels ? Number(this.bank.labels[row]) : 0)),
    );
    const length = images.length / rows.length;
    return rows.map((_, index) => images.slice(index * length, (index + 1) * length));
  }

  /**
   * One run of the generator.
   * @param {Float32Array[]} noises @param {Float32Array[]} embeddings @param {number[]} labels one of each per picture
   * @param {number} truncation towards the mean w, where that is what the model knows; 1: none
   * @returns {Promise<Uint8Array>} [N, R, R, 3]
   */
  async #draw(noises, embeddings, labels, truncation = 1) {
    const { dim_z, embedding_dim, classes } = this.model;
    const feeds = { noise: this.#float(noises, dim_z), embedding: this.#float(embeddings, embedding_dim) };
    if (classes) feeds.label = new this.ort.Tensor("int64", BigInt64Array.from(labels, BigInt), [labels.length]);
    if (this.towardsMean) {
      feeds.truncation = new this.ort.Tensor("float32", new Float32Array(noises.length).fill(truncation), [noises.length]);
    }
    const images = (await this.generator.run(feeds)).image.data;
    const length = images.length / noises.length;
    for (let start = 0; start < images.length; start += length) {
      // as in Python: bytes have no NaN, a picture computed from it is zero throughout
      if (images.subarray(start, start + length).every((/** @type {number} */ level) => level === 0)) {
        throw new Error("A picture is black throughout, the mark of NaN: try a higher precision.");
      }
    }
    return images;
  }

  /** A float32 tensor [N, width] of rows. */
  #float(/** @type {Float32Array[]} */ rows, /** @type {number} */ width) {
    const data = new Float32Array(rows.length * width);
    rows.forEach((row, index) => data.set(row, index * width));
    return new this.ort.Tensor("float32", data, [rows.length, width]);
  }
}
