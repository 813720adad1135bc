/** Something about the bundle cannot be trusted; the message names the file. */
export class BundleError extends Error {}

/** The bytes of a file of the bundle; `onBytes` hears how many have arrived since it was last called. */
export type Read = (name: string, onBytes?: (bytes: number) => void) => Promise<Uint8Array>;

/** What the manifest says of the model, as docs/format.md has it; there is more in it. */
export interface Model {
  readonly name: string;
  readonly version: string;
  readonly resolution: number;
  readonly dim_z: number;
  readonly embedding_dim: number;
  readonly classes: number;
  readonly class_names?: readonly string[] | null;
  readonly preprocessing: { readonly size: number; readonly crop: "centre-short-side" | "squeeze" };
  readonly truncation?: "noise" | "mean-w";
}

export class Bundle {
  static open(read: Read): Promise<Bundle>;
  readonly manifest: { readonly model: Model; readonly [field: string]: any };
  /** What the labels of the bank are called, where the bundle says. */
  readonly labelNames: string[] | null;
  /** The graph of a role at the first of these precisions that the bundle has. */
  graph(role: string, precisions: string[]): { readonly file: string; readonly precision: string };
  /** The bytes of a listed file, hashed first. */
  file(name: string, onBytes?: (bytes: number) => void): Promise<Uint8Array>;
  /** A listed .npy file. */
  array(name: string, onBytes?: (bytes: number) => void): Promise<{ shape: number[]; data: NpyData }>;
}

export type NpyData = Float32Array | BigInt64Array | Uint8Array;

/** A .npy file of version 1.0 in C order. */
export function parseNpy(bytes: Uint8Array, name: string): { shape: number[]; data: NpyData };

export type Condition = "query" | "nearest" | "sample";

export interface Request {
  /** How many pictures. */
  n: number;
  /** 0 .. 2^63 - 1 */
  seed: bigint;
  /** In (0, 1]; null: untruncated. */
  truncation: number | null;
  /** What the generator sees: this embedding, its nearest stored instance, or one of the k nearest. */
  condition: Condition;
  /** For models with classes; null: the instance's own. */
  label?: number | null;
}

/** What the generator draws a picture from. */
export interface Latent {
  /** [dim_z] */
  noise: Float32Array;
  /** [D], of unit length */
  embedding: Float32Array;
  /** Of models with classes; otherwise anything. */
  label: number;
}

export interface Drawn {
  start: number;
  /** uint8 [m, R, R, 3], from picture `start` on */
  images: Uint8Array;
  /** What each was drawn from. */
  latents: Latent[];
}

export interface Neighbour {
  row: number;
  id: number;
  score: number;
  label: number | null;
}

export interface LoadOptions {
  /** In order of preference; ["fp32"] by default. */
  precisions?: string[];
  /** Options of ONNX Runtime's sessions. */
  session?: Record<string, unknown>;
  onProgress?: (done: number, total: number) => void;
}

export class Pipeline {
  /** `ort`: the module onnxruntime-web, onnxruntime-node or onnxruntime-react-native. */
  static load(ort: unknown, read: Read, options?: LoadOptions): Promise<Pipeline>;
  readonly bundle: Bundle;
  readonly model: Model;
  /** k, of a search. */
  readonly neighbours: number;
  /** Whether truncation pulls towards the mean w instead of bounding the noise. */
  readonly towardsMean: boolean;
  /** Free what both graphs hold; the pipeline cannot be used any more. */
  release(): Promise<void>;
  /** The embedding [D], of unit length, of a picture uint8 [S, S, 3] that `decode` or `toInput` made. */
  embed(picture: Uint8Array): Promise<Float32Array>;
  /** The instance that a seed and sample draw from the bundle's prior; its label where the model has any. */
  instance(seed: bigint | number, sample: bigint | number): Promise<{ embedding: Float32Array; label: number | null }>;
  /** The embedding of a stored instance. */
  stored(row: number): Float32Array;
  /** The k stored instances of largest inner product, best first. */
  search(embedding: Float32Array): Neighbour[];
  /**
   * Pictures [m, R, R, 3] that follow an embedding, in batches as they are done, from picture `start` on; with null
   * each follows an instance of its own that the bundle's prior draws.
   */
  generate(
    embedding: Float32Array | null,
    request: Request,
    batch?: number,
  ): AsyncGenerator<Drawn, void, void>;
  /** Pictures of latents, such as `breed` makes; `truncation` towards the mean w, where the model knows that. */
  draw(latents: Latent[], truncation?: number | null, batch?: number): AsyncGenerator<Drawn, void, void>;
  /** What the model makes of stored instances without noise: [R, R, 3] each. */
  portraits(rows: number[]): Promise<Uint8Array[]>;
}

/** An embedding between two, of unit length; `share` of `to`, 0 .. 1. */
export function mix(from: Float32Array, to: Float32Array, share: number): Float32Array;

/** The next generation [n] of pictures that were picked: themselves, then children with something new; by the seed. */
export function breed(
  parents: Latent[],
  settings: { n: number; seed: bigint; generation: number; truncation: number | null },
): Latent[];

/** Noise of one sample, the same in every language (docs/noise.md). */
export function noise(seed: bigint, sample: number, truncation: number | null, width: number): Float32Array;

/** Which of the k nearest the condition "sample" takes. */
export function drawRank(seed: bigint, sample: number, k: number): number;

/** Browsers: a picture file -> the encoder's input [S, S, 3], upright, on white, in sRGB. */
export function decode(file: Blob, size: number, crop?: string): Promise<Uint8Array>;

/** Pixels of what `area` cuts out, RGBA and opaque, of a square without `height` -> the encoder's input [S, S, 3]. */
export function toInput(rgba: Uint8ClampedArray | Uint8Array, width: number, size: number, height?: number): Uint8Array;

/** What of a picture the encoder sees: all of it for the crop "squeeze", else its middle square. */
export function area(
  width: number, height: number, crop: string,
): { width: number; height: number; left: number; top: number };

/** The middle square of a picture. */
export function centreSquare(width: number, height: number): { side: number; left: number; top: number };
