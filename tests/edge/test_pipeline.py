"""pipeline.js and bundle.js as another app meets them, on a stand-in for ONNX Runtime."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.bundle.prior_files import read_prior
from tests.edge.conftest import EXAMPLES, node
from tests.models.make_models import instance_name

# No Node package is needed. `said` collects what a program has to say.
HEAD = """
import { readFile } from "node:fs/promises";
import { Pipeline } from "%(web)s/pipeline.js";

const ort = {
  drawn: new Uint8Array([0, 0, 1]),
  Tensor: class { constructor(type, data, dims) { Object.assign(this, { type, data, dims }); } },
  InferenceSession: {
    create: async () => ({
      run: async () => ({ image: { data: ort.drawn } }),
      release: async () => said.push("released"),
    }),
  },
};
const load = () => Pipeline.load(ort, async (name) => new Uint8Array(await readFile(`%(bundle)s/${name}`)));
const REQUEST = { n: 1, seed: 0n, truncation: 0.7, condition: "query" };
const draw = async (pipeline, embedding, changes) => {
  for await (const _ of pipeline.generate(embedding, { ...REQUEST, ...changes }));
};
const said = [];
const refused = (promise) => promise.then(() => said.push(null), (error) => said.push(error.message));
"""


def run(bundle: Path, program: str, tmp_path: Path) -> Any:
    """What the program leaves in `said`."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    head = HEAD % {"web": EXAMPLES / "web", "bundle": bundle}
    (tmp_path / "program.mjs").write_text(f"{head}{program}\nconsole.log(JSON.stringify(said));\n")
    return json.loads(node(tmp_path / "program.mjs"))


def test_an_app_can_catch_what_is_wrong_with_a_graph(tiny_bundle, tmp_path):
    """Both graphs are damaged, and the second is noticed while nobody waits for it yet."""
    bundle = shutil.copytree(tiny_bundle, tmp_path / "changed")
    for role in ("encoder", "generator"):
        (bundle / f"{role}.onnx").write_bytes(b"damaged")
    assert run(bundle, "await refused(load());", tmp_path) == [
        "generator.onnx: its bytes are not the manifest's"
    ]


def test_labels_are_named_after_the_bank_not_after_the_pictures_of_the_training(tiny_bundle, tmp_path):
    program = """
    const { bundle } = await load();
    for (const provenance of [
      {},
      { data: { class_names: ["apple"] } },
      { data: { class_names: ["apple"] }, bank: { class_names: ["cat"] } },
      { data: { class_names: ["apple"] }, bank: { class_names: null } },
    ]) said.push(Object.assign(bundle, { manifest: { ...bundle.manifest, provenance } }).labelNames);
    bundle.manifest = { model: { class_names: ["pear"] }, provenance: { data: { class_names: ["apple"] } } };
    said.push(bundle.labelNames);
    """
    assert run(tiny_bundle, program, tmp_path) == [None, ["apple"], ["cat"], None, ["pear"]]


def test_instances_are_drawn_as_python_draws_them(labelled_bundle, tiny_bundle, tmp_path):
    program = """
    const pipeline = await load();
    for (const [seed, sample] of [[0n, 0], [3n, 4], [2n ** 63n - 1n, 2]]) {
      const { embedding, label } = await pipeline.instance(seed, sample);
      said.push([...embedding, label]);
    }
    ort.drawn = new Uint8Array(15).fill(1);
    const latents = [];
    for await (const each of pipeline.generate(null, { ...REQUEST, n: 5, seed: 3n }, 3))
      latents.push(...each.latents);
    said.push([...latents[4].embedding, latents[4].label]);
    """
    *drawn, last = run(labelled_bundle, program, tmp_path)
    prior = read_prior(Bundle.open(labelled_bundle))
    rows, labels = prior.instances([0, 3, 2**63 - 1], [0, 4, 2])
    np.testing.assert_allclose([row[:-1] for row in drawn], rows, atol=1e-6)
    assert [row[-1] for row in drawn] == labels.tolist()
    assert last == drawn[1]
    program = "const pipeline = await load(); await refused(pipeline.instance(0n, 0));"
    assert run(tiny_bundle, program, tmp_path) == [
        "this bundle has no prior to draw instances from: give an embedding"
    ]


def test_neighbours_have_the_names_of_their_files_and_a_stranger_is_outside(
    tiny_bundle, labelled_bundle, tmp_path
):
    program = """
    const pipeline = await load();
    const near = pipeline.search(pipeline.stored(7));
    said.push(near[0].name, pipeline.isOutside(near));
    pipeline.bundle.manifest.provenance = { bank: { outside_below: 0.5 } };
    said.push(pipeline.isOutside(near), pipeline.isOutside([{ score: 0.4 }]));
    """
    assert run(tiny_bundle, program, tmp_path) == [instance_name(7), False, False, True]
    assert run(labelled_bundle, program, tmp_path)[0] == "", "a bundle of before"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ("{ truncation: undefined }", r"truncation undefined is not in (0, 1], nor null"),
        ("{ truncation: 1.5 }", r"truncation 1.5 is not in (0, 1], nor null"),
        ("{ condition: 'near' }", "condition near is not query, nearest, sample"),
        ("{ label: -1 }", "label -1 is not in 0 .. 2"),
        ("{ label: 3 }", "label 3 is not in 0 .. 2"),
        ("{ n: undefined }", "n undefined is not a number of pictures"),
        ("{ seed: -1n }", "seed -1 is not in 0 .. 2^63 - 1"),
        ("{ truncation: null, label: 2 }", None),
        ("{ condition: 'sample', seed: 7, truncation: 1 }", None),
    ],
)
def test_a_request_that_python_refuses_is_not_drawn_as_something_else(
    labelled_bundle, tmp_path, changes, message
):
    program = f"const pipeline = await load(); await refused(draw(pipeline, pipeline.stored(0), {changes}));"
    assert run(labelled_bundle, program, tmp_path) == [message]


def test_embeddings_and_labels_that_do_not_fit_the_model_are_refused(tiny_bundle, tmp_path):
    program = """
    const pipeline = await load();
    const row = pipeline.stored(0);
    for (const embedding of [row.map((value) => 2 * value), row.slice(1), row.map(() => NaN)]) {
      await refused(draw(pipeline, embedding, {}));
    }
    await refused(draw(pipeline, row, { label: 0 }));
    """
    length = "the embedding is not 12 numbers of length 1"
    assert run(tiny_bundle, program, tmp_path) == [length, length, length, "this model has no labels"]


def test_a_picture_computed_from_nan_is_an_error_as_in_python(tiny_bundle, tmp_path):
    program = """
    const pipeline = await load();
    ort.drawn = new Uint8Array([1, 0, 0, 0, 0, 0]);
    await refused(draw(pipeline, pipeline.stored(0), { n: 2 }));
    await refused(pipeline.portraits([0, 1]));
    """
    black = "A picture is black throughout, the mark of NaN: try a higher precision."
    assert run(tiny_bundle, program, tmp_path) == [black, black]


def test_an_app_gets_the_memory_of_both_graphs_back(tiny_bundle, tmp_path):
    assert run(tiny_bundle, "await (await load()).release();", tmp_path) == ["released", "released"]
