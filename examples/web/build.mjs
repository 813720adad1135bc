// node build.mjs BUNDLE OUT: one folder of static files with page, ONNX Runtime and bundle, for any web server.
// Text and WebAssembly also come compressed (.br), for servers that look for it, such as serve.mjs.
import { createHash } from "node:crypto";
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { brotliCompressSync, constants } from "node:zlib";

const HERE = dirname(fileURLToPath(import.meta.url));
const PAGE = ["index.html", "style.css", "icon.svg", "app.webmanifest", "app.js", "worker.js", "pipeline.js", "bundle.js", "noise.js", "picture.js"];
const RUNTIME = ["ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm", "ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify.mjs", "ort-wasm-simd-threaded.asyncify.wasm"];
const SKIPPED = /^(engines\/|samples\.npz|lookup)/; // the page searches embeddings.npy itself

const [bundle, out] = process.argv.slice(2);
if (!out || !existsSync(join(bundle, "manifest.json"))) {
  console.error("usage: node build.mjs BUNDLE OUT, with a bundle written by `icgan-export bundle`");
  process.exit(1);
}
if (existsSync(out) && readdirSync(out).length && !existsSync(join(out, "sw.js"))) {
  console.error(`${out} holds something else: choose another folder`);
  process.exit(1);
}
rmSync(out, { recursive: true, force: true });

const runtime = dirname(createRequire(import.meta.url).resolve("onnxruntime-web"));
const files = Object.keys(JSON.parse(readFileSync(join(bundle, "manifest.json"), "utf8")).files);
const sources = [
  ...PAGE.map((name) => [join(HERE, name), name]),
  ...RUNTIME.map((name) => [join(runtime, name), `ort/${name}`]),
  ...["manifest.json", ...files.filter((name) => !SKIPPED.test(name))].map((name) => [join(bundle, name), `bundle/${name}`]),
];
const hash = createHash("sha256");
for (const [from, name] of sources) {
  const to = join(out, name);
  mkdirSync(dirname(to), { recursive: true });
  cpSync(from, to);
  const data = readFileSync(to);
  hash.update(name).update(data);
  if (!/\.(png|jpg)$/.test(name)) {
    const packed = brotliCompressSync(data, { params: { [constants.BROTLI_PARAM_QUALITY]: 9 } });
    if (packed.length < 0.97 * data.length) writeFileSync(`${to}.br`, packed);
  }
}
const version = hash.digest("hex").slice(0, 16);
writeFileSync(join(out, "sw.js"), readFileSync(join(HERE, "sw.js"), "utf8").replace('"development"', `"${version}"`));
console.log(`wrote ${out}: ${sources.length + 1} files, version ${version}`);
