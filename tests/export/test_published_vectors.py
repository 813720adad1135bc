"""The published networks' vectors through ONNX Runtime, rewrites included; skipped where they are absent."""

from pathlib import Path

import numpy as np
import pytest

from icgan_export.lower.graphs import generator_graph
from icgan_export.rewrite.choice import BlockForm, Rewrites
from icgan_runtime.backends.ort import OrtSession
from icgan_training.networks.generator import Generator
from icgan_training.official import load_network, open_experiment

VECTORS = Path(__file__).parents[3] / "shared" / "reference" / "vectors"


@pytest.mark.parametrize("name", ["icgan_res64_ch8", "cc_icgan_res128_ch8"])
@pytest.mark.parametrize("form", ["products", "transposed"])
def test_pictures_of_the_published_architecture(name: str, form: BlockForm) -> None:
    folder = VECTORS / name
    if not folder.is_dir():
        pytest.skip("the published networks' vectors are not at hand")
    experiment = open_experiment(folder)
    generator = load_network(Generator, folder / "G_ema_best0.pth", experiment.config).eval()
    rewrites = Rewrites((form,) * len(generator.config.block_resolutions))
    graph = generator_graph(generator, rewrites, {}, "float32")
    inputs = np.load(folder / "inputs.npz")
    feeds = {"noise": inputs["z"], "embedding": inputs["feats"].astype(np.float32)}
    if generator.config.takes_label:
        feeds["label"] = inputs["labels"]
    with OrtSession(graph.SerializeToString(), name) as session:
        found = session.run({key: np.ascontiguousarray(value) for key, value in feeds.items()})["image"]
    assert np.abs(found - np.load(folder / "reference.npz")["image"]).max() <= 1e-4
