"""Shards read by the libraries that they are for."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from icgan_runtime.synthesize.reading import Variants
from tests.runtime.synthesize.conftest import COUNT

# webdataset leaves the shards to be closed by the collector
OPEN = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)


@OPEN
def test_webdataset_reads_the_shards(synthesize, tiny_bundle, photos, tmp_path):
    webdataset = pytest.importorskip("webdataset", reason="pip install webdataset")
    out = tmp_path / "out"
    synthesize(tiny_bundle, photos, out, "--per", 2, "--shard", 4)
    urls = sorted(map(str, out.glob("*.tar")))
    data = webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8").to_tuple("png", "json", "cls")
    found, expected = list(data), Variants(out)
    assert len(found) == 2 * COUNT
    for (picture, about, label), item in zip(found, expected, strict=True):
        np.testing.assert_array_equal(picture, item["image"])
        assert (about["seed"], label) == (item["seed"], item["label"])


@OPEN
def test_a_brace_expression_names_all_shards(synthesize, tiny_bundle, photos, tmp_path):
    webdataset = pytest.importorskip("webdataset", reason="pip install webdataset")
    out = tmp_path / "out"
    synthesize(tiny_bundle, photos, out, "--per", 2, "--shard", 4)
    (recipe,) = {path.name.split("-")[0] for path in out.glob("*.tar")}
    url = f"{out}/{recipe}-{{00000000..00000002}}.tar"
    assert len(list(webdataset.WebDataset(url, shardshuffle=False))) == 2 * COUNT


def test_pyarrow_reads_the_columns_of_parquet(synthesize, tiny_bundle, photos, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pip install pyarrow")
    synthesize(
        tiny_bundle, photos, tmp_path / "out", "--per", 2, "--format", "parquet", "--scorer", "similarity"
    )
    rows = parquet.read_table(next((tmp_path / "out").glob("*.parquet"))).to_pylist()
    assert len(rows) == 2 * COUNT
    assert set(rows[0]) == {
        "id", "image", "instance", "seed", "sample", "label", "score", "licence", "marking",
    }  # fmt: skip
    assert rows[0]["licence"] == "CC0-1.0"
    with Image.open(io.BytesIO(rows[-1]["image"]["bytes"])) as picture:
        np.testing.assert_array_equal(np.asarray(picture), Variants(tmp_path / "out")[-1]["image"])


@pytest.mark.parametrize("form", ["parquet", "files"])
def test_datasets_reads_pictures_and_classes(synthesize, tiny_bundle, photos, tmp_path, form, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    datasets = pytest.importorskip("datasets", reason="pip install datasets")
    out = tmp_path / "out"
    synthesize(tiny_bundle, photos, out, "--per", 2, "--format", form, "--shard", 4)
    kind, where = (
        ("parquet", {"data_files": sorted(map(str, out.glob("*.parquet")))})
        if form == "parquet"
        else ("imagefolder", {"data_dir": str(out)})
    )
    found = datasets.load_dataset(kind, split="train", cache_dir=str(tmp_path / "cache"), **where)
    assert len(found) == 2 * COUNT
    expected = {item["id"]: item for item in Variants(out)}
    for row in found:
        np.testing.assert_array_equal(np.asarray(row["image"]), expected[row["id"]]["image"])
        assert row["label"] == expected[row["id"]]["label"]
    if form == "parquet":
        assert found.features["label"].names == ["cats", "dogs"]


BATCHES = """
import sys
from torch.utils.data import DataLoader
from icgan_runtime.synthesize.reading import Variants
loader = DataLoader(Variants(sys.argv[1]), batch_size=4, num_workers=int(sys.argv[2]))
print([tuple(batch["image"].shape) for batch in loader], [batch["label"].tolist() for batch in loader][2])
"""


@pytest.mark.parametrize(("form", "workers"), [("webdataset", 1), ("parquet", 0), ("files", 0)])
def test_torch_loads_batches(synthesize, tiny_bundle, photos, tmp_path, form, workers):
    """In a process of its own: torch's workers take over a signal that other libraries here do not bear."""
    pytest.importorskip("torch", reason="pip install torch")
    synthesize(tiny_bundle, photos, tmp_path / "out", "--per", 2, "--shard", 4, "--format", form)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", BATCHES, str(tmp_path / "out"), str(workers)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.stdout == "[(4, 8, 8, 3), (4, 8, 8, 3), (2, 8, 8, 3)] [1, 1]\n", done.stderr


@pytest.mark.parametrize("form", ["webdataset", "parquet"])
def test_prepare_takes_shards_as_a_data_set(synthesize, tiny_bundle, photos, tmp_path, form):
    pytest.importorskip("torch", reason="pip install torch")
    from icgan_training.data.sources import open_source

    synthesize(tiny_bundle, photos, tmp_path / "out", "--per", 2, "--shard", 4, "--format", form)
    source = open_source(tmp_path / "out")
    assert len(source) == 2 * COUNT
    assert source.labels.tolist() == [0] * 4 + [1] * 6
