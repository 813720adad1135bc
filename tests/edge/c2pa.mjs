// node c2pa.mjs FILE...: what a C2PA reader that is not the SDK's says of PNG and JPEG files, as JSON.
import { readFileSync } from "node:fs";

const folder = new URL("../../examples/node_modules/@trustnxt/c2pa-ts/dist/", import.meta.url);
const load = (name) => import(new URL(`${name}/index.js`, folder).href); // the package exports to modules beside it alone
const { JPEG, PNG } = await load("asset");
const { SuperBox } = await load("jumbf");
const { ManifestStore, ValidationResult } = await load("manifest");

const said = [];
for (const file of process.argv.slice(2)) {
  const data = readFileSync(file);
  const asset = JPEG.canRead(data) ? new JPEG(data) : new PNG(data);
  let result;
  try {
    result = await ManifestStore.read(SuperBox.fromBuffer(asset.getManifestJUMBF())).validate(asset);
  } catch (error) {
    result = ValidationResult.fromError(error);
  }
  const failed = result.statusEntries.filter((entry) => !entry.success).map((entry) => entry.code);
  said.push({ valid: result.isValid, failed });
}
console.log(JSON.stringify(said));
