// Service worker: the page itself comes without a connection too, so that a reload loses nothing. The newest files are
// taken wherever the server answers soon. Tasks, votes and pictures are never kept here: pictures of places are not to lie
// on volunteers' disks.

const KEPT = "geoslave-page-1";
const PATIENCE = 4000; // milliseconds: on a line that neither works nor fails, what is kept here comes instead
const FILES = [
  "/",
  ...["api.js", "icon.svg", "outbox.js", "review.js", "style.css", "theme.js", "viewer.js"].map((name) => `/web/${name}`),
  ...["ol.css", "ol.js"].map((name) => `/web/vendor/${name}`),
];

self.addEventListener("install", (event) => {
  const keep = async () => {
    const cache = await caches.open(KEPT);
    await Promise.allSettled(FILES.map((path) => cache.add(path))); // without OpenLayers the page works too
    await self.skipWaiting();
  };
  event.waitUntil(keep());
});

self.addEventListener("activate", (event) => {
  const tidy = async () => {
    for (const name of await caches.keys()) if (name !== KEPT) await caches.delete(name);
    await self.clients.claim();
  };
  event.waitUntil(tidy());
});

self.addEventListener("fetch", (event) => {
  const url = new URL(event.request.url);
  if (event.request.method === "GET" && url.origin === self.location.origin && FILES.includes(url.pathname)) {
    event.respondWith(newest(event.request, url.pathname));
  }
});

async function newest(request, path) {
  const cache = await caches.open(KEPT);
  const held = () => cache.match(path);
  const fetched = fetch(request).then(async (answer) => {
    if (answer.ok) await cache.put(path, answer.clone());
    return answer;
  });
  const late = new Promise((resolve) => setTimeout(resolve, PATIENCE)).then(held);
  return (await Promise.race([fetched.catch(held), late])) ?? fetched; // not kept: the line's own answer, or its error
}
