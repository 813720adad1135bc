// node build.mjs BUNDLE OUT: one folder of static files with page, ONNX Runtime and bundle, for any web server.
// Text and WebAssembly also come compressed (.br), for servers that look for it, such as serve.mjs.
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { brotliCompressSync, constants } from "node:zlib";

const HERE = dirname(fileURLToPath(import.meta.url));
const PAGE = ["index.html", "style.css", "icon.svg", "app.webmanifest", "app.js", "worker.js", "pipeline.js", "prior.js", "breed.js", "vectors.js", "bundle.js", "noise.js", "picture.js", "decode.js", "container.js", "colour.js", "mark.js"];
const RUNTIME = ["ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm", "ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify.mjs", "ort-wasm-simd-threaded.asyncify.wasm"];
// Plain JavaScript for pages without crypto.subtle: plain http on a name of the local network.
const HASHES = ["sha2.js", "_md.js", "_u64.js", "utils.js"];
const ROLES = ["encoder", "generator"]; // the page searches embeddings.npy itself
// As docs/format.md prescribes, and of a kind that a browser does not run.
const NAME = /^[A-Za-z0-9][A-Za-z0-9._+-]*(\/[A-Za-z0-9][A-Za-z0-9._+-]*)*\.(json|onnx|npy|md|png)$/;

const [bundle, out] = process.argv.slice(2);
if (!out || !existsSync(join(bundle, "manifest.json"))) {
  console.error("usage: node build.mjs BUNDLE OUT, with a bundle written by `icgan-export bundle`");
  process.exit(1);
}
if (existsSync(out) && readdirSync(out).length && !existsSync(join(out, "sw.js"))) {
  console.error(`${out} holds something else: choose another folder`);
  process.exit(1);
}
const manifest = JSON.parse(readFileSync(join(bundle, "manifest.json"), "utf8"));
const files = [
  "manifest.json",
  ...manifest.graphs.filter((graph) => ROLES.includes(graph.role)).map((graph) => graph.file),
  ...Object.keys(manifest.files).filter((name) => /^(bank\/|prior\/|README\.md$|[^/]*\.png$)/.test(name)),
];
// A stranger's bundle must not have other files of this machine published, nor programs of its own beside ours.
for (const name of files) {
  const place = realpathSync(bundle) + sep;
  if (!NAME.test(name) || !existsSync(join(bundle, name)) || !realpathSync(join(bundle, name)).startsWith(place)) {
    console.error(`${JSON.stringify(name)} is not the name of a file of the page inside the bundle`);
    process.exit(1);
  }
}
const packages = createRequire(import.meta.url);
const runtime = dirname(packages.resolve("onnxruntime-web"));
const hashes = dirname(packages.resolve("@noble/hashes/sha2.js"));
const sources = [
  ...PAGE.map((name) => [join(HERE, name), name]),
  // .js, for web servers that do not know .mjs send a type that no browser runs
  ...RUNTIME.map((name) => [join(runtime, name), `ort/${name.replace(/\.mjs$/, ".js")}`]),
  ...HASHES.map((name) => [join(hashes, name), `hashes/${name}`]),
  ...files.map((name) => [join(bundle, name), `bundle/${name}`]),
];
const hash = createHash("sha256");
rmSync(out, { recursive: true, force: true });
for (const [from, name] of sources) {
  const to = join(out, name);
  mkdirSync(dirname(to), { recursive: true });
  const data = readFileSync(from);
  writeFileSync(to, data);
  hash.update(name).update(data);
  if (!/\.(png|jpg)$/.test(name)) {
    const packed = brotliCompressSync(data, { params: { [constants.BROTLI_PARAM_QUALITY]: 9 } });
    if (packed.length < 0.97 * data.length) writeFileSync(`${to}.br`, packed);
  }
}
const version = hash.digest("hex").slice(0, 16);
writeFileSync(join(out, "sw.js"), readFileSync(join(HERE, "sw.js"), "utf8").replace('"development"', `"${version}"`));
console.log(`wrote ${out}: ${sources.length + 1} files, version ${version}`);
