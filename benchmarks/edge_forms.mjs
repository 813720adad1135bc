// node edge_forms.mjs TASK.json: the task's graphs on ONNX Runtime Web (WebAssembly, one thread), in turn; prints
// what it is and the milliseconds of processor time of each in every round, as JSON.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const ort = createRequire(new URL("../examples/package.json", import.meta.url))("onnxruntime-web");
const { graphs, feeds, rounds, warmUp } = JSON.parse(readFileSync(process.argv[2], "utf8"));
ort.env.wasm.numThreads = 1;
const given = Object.fromEntries(
  Object.entries(feeds).map(([name, { dims, data }]) => [name, new ort.Tensor("float32", Float32Array.from(data), dims)]),
);
const sessions = [];
for (const path of graphs) {
  sessions.push(await ort.InferenceSession.create(new Uint8Array(readFileSync(path)), { executionProviders: ["wasm"] }));
}
const taken = sessions.map(() => []);
for (let round = -warmUp; round < rounds; round++) {
  for (let index = 0; index < sessions.length; index++) {
    const route = (index + round + warmUp) % sessions.length;
    const began = process.cpuUsage();
    await sessions[route].run(given);
    const { user, system } = process.cpuUsage(began);
    if (round >= 0) taken[route].push((user + system) / 1000);
  }
}
console.log(JSON.stringify({ runtime: `onnxruntime-web ${ort.env.versions.web}, WebAssembly in Node`, taken }));
