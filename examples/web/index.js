// The package `icgan`: what programs in browsers and Node import. The page (app.js, worker.js) imports the files.
export { Bundle, BundleError, parseNpy } from "./bundle.js";
export { decode } from "./decode.js"; // browsers only: their decoder and canvas
export { drawRank, noise } from "./noise.js";
export { area, centreSquare, toInput } from "./picture.js";
export { mix, Pipeline } from "./pipeline.js";
