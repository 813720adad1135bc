// node edge_node.mjs TASK.json: the task's graph on onnxruntime-node; prints JSON.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { measure } from "./edge_measure.mjs";

const ort = createRequire(new URL("../examples/package.json", import.meta.url))("onnxruntime-node");
const told = JSON.parse(readFileSync(process.argv[2], "utf8"));
const session = { intraOpNumThreads: told.threads };
console.log(JSON.stringify(await measure(ort, new Uint8Array(readFileSync(told.model)), { ...told, session })));
