// Keeps page, runtime and bundle for offline use: answers from its cache, fills it as the page loads. build.mjs
// writes the version below, a hash over every file, so a new build replaces the old cache. What fills it is asked of the
// server, past the browser's own cache: that may still hold files of the last build, which would stay here for good.
const VERSION = "development";
const PAGE = ["./", "app.js", "worker.js", "pipeline.js", "prior.js", "breed.js", "vectors.js", "bundle.js", "noise.js", "picture.js", "decode.js", "container.js", "colour.js", "mark.js", "style.css", "icon.svg", "app.webmanifest"];

self.addEventListener("install", (event) => {
  self.skipWaiting();
  event.waitUntil(caches.open(VERSION).then((cache) => cache.addAll(PAGE.map((name) => new Request(name, { cache: "reload" })))));
});

self.addEventListener("activate", (event) => {
  const clean = async () => {
    for (const name of await caches.keys()) if (name !== VERSION) await caches.delete(name);
    await self.clients.claim();
  };
  event.waitUntil(clean());
});

self.addEventListener("fetch", (event) => {
  const url = new URL(event.request.url);
  if (event.request.method === "GET" && url.origin === location.origin) event.respondWith(answer(event.request));
});

async function answer(request) {
  const cache = await caches.open(VERSION);
  const held = await cache.match(request, { ignoreSearch: true });
  if (held) return isolated(held);
  const response = await fetch(request, { cache: "no-cache" });
  if (response.ok) cache.put(request, response.clone());
  return isolated(response);
}

/** With the headers that give a page threads, for static hosts that cannot be told to send them. */
function isolated(response) {
  if (response.headers.has("Cross-Origin-Embedder-Policy")) return response;
  const headers = new Headers(response.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers });
}
