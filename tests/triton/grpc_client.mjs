// A client that knows nothing of ours: node grpc_client.mjs ADDRESS DESCRIPTORS MODEL, the request as JSON on standard
// input, one answer as JSON on standard output. DESCRIPTORS is the protocol's FileDescriptorSet.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const need = createRequire(new URL("../../examples/package.json", import.meta.url));
const grpc = need("@grpc/grpc-js");
const loader = need("@grpc/proto-loader");

const [address, descriptors, model] = process.argv.slice(2);
const definition = loader.loadFileDescriptorSetFromBuffer(readFileSync(descriptors), { longs: String, keepCase: true });
const { GRPCInferenceService } = grpc.loadPackageDefinition(definition).inference;
const client = new GRPCInferenceService(address, grpc.credentials.createInsecure());
const { inputs, outputs } = JSON.parse(readFileSync(0, "utf8"));
const request = {
  model_name: model,
  inputs: inputs.map(({ name, datatype, shape }) => ({ name, datatype, shape })),
  outputs: outputs.map((name) => ({ name })),
  raw_input_contents: inputs.map(({ data }) => Buffer.from(data, "base64")),
};
client.ModelInfer(request, (error, answer) => {
  const found = error
    ? { status: grpc.status[error.code], words: error.details }
    : Object.fromEntries(answer.outputs.map(({ name }, i) => [name, answer.raw_output_contents[i].toString("base64")]));
  console.log(JSON.stringify(found));
  client.close();
});
