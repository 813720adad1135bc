// One generator on ONNX Runtime for JavaScript, timed: the same function for Node and for the browser.

/**
 * @param {any} ort an ONNX Runtime module
 * @param {Uint8Array} model bytes of the graph
 * @param {{ noise: number[], embedding: number[], batch: number, rounds: number, session: any }} told
 *   row-major feeds of `batch` rows
 * @returns load and first-image time in ms, all rounds in ms, the first batch's bytes
 */
export async function measure(ort, model, { noise, embedding, batch, rounds, session }) {
  const feeds = (rows) => ({
    noise: new ort.Tensor(Float32Array.from(noise.slice(0, (noise.length / batch) * rows)), [rows, noise.length / batch]),
    embedding: new ort.Tensor(
      Float32Array.from(embedding.slice(0, (embedding.length / batch) * rows)), [rows, embedding.length / batch],
    ),
  });
  let began = performance.now();
  const generator = await ort.InferenceSession.create(model, session);
  const load = performance.now() - began;
  began = performance.now();
  await generator.run(feeds(1));
  const first = performance.now() - began;
  const whole = feeds(batch);
  const { image } = await generator.run(whole);
  const times = [];
  for (let round = 0; round < rounds; round++) {
    began = performance.now();
    await generator.run(whole);
    times.push(performance.now() - began);
  }
  return { load, first, times, image: Array.from(image.data) };
}
