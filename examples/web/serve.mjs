// node serve.mjs FOLDER [PORT]: a static server with the two headers that let a page use threads.
import { createReadStream, statSync } from "node:fs";
import { createServer } from "node:http";
import { extname, resolve, sep } from "node:path";

const [folder = "dist", port = "8080"] = process.argv.slice(2);
const root = resolve(folder);
const TYPES = {
  ".html": "text/html; charset=utf-8", ".js": "text/javascript", ".mjs": "text/javascript", ".css": "text/css",
  ".json": "application/json", ".webmanifest": "application/manifest+json", ".svg": "image/svg+xml",
  ".wasm": "application/wasm", ".png": "image/png", ".md": "text/markdown; charset=utf-8",
};

function fileAt(path) {
  try {
    return statSync(path).isFile() ? statSync(path) : null;
  } catch {
    return null;
  }
}

/** Where the file of an address would lie; null for what is no address, such as "/%". */
function placeOf(address) {
  try {
    const path = resolve(root, `.${decodeURIComponent(new URL(address, "http://x").pathname)}`);
    return path === root ? resolve(root, "index.html") : path;
  } catch {
    return null;
  }
}

const server = createServer((request, response) => {
  const path = placeOf(request.url);
  if (!path?.startsWith(root + sep) || !fileAt(path)) return response.writeHead(404).end("not found");
  const packed = /\bbr\b/.test(request.headers["accept-encoding"] ?? "") && fileAt(`${path}.br`);
  response.writeHead(200, {
    "Content-Type": TYPES[extname(path)] ?? "application/octet-stream",
    "Content-Length": (packed || fileAt(path)).size,
    ...(packed && { "Content-Encoding": "br" }),
    "Cache-Control": "no-cache",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
  });
  createReadStream(packed ? `${path}.br` : path).pipe(response);
});
server.listen(Number(port), "127.0.0.1", () => console.log(`http://localhost:${server.address().port}/`));
