// The package `icgan`: what programs in browsers and Node import. The page (app.js, worker.js) imports the files.
export { breed } from "./breed.js";
export { Bundle, BundleError, parseNpy } from "./bundle.js";
export { decode } from "./decode.js"; // browsers only: their decoder and canvas
export { drawRank, noise } from "./noise.js";
export { area, centreSquare, toInput } from "./picture.js";
export { Pipeline } from "./pipeline.js";
export { mix } from "./vectors.js";
