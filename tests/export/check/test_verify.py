"""What `icgan-export verify` shows and finds, on bundles with a planted fault and a manifest that agrees."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from icgan_export.check import bisect
from icgan_export.check.fidelity import compare_fid, fid_of_each
from icgan_export.check.samples import Samples
from icgan_export.check.verify import compare_encoder, compare_lookup
from icgan_export.cli import main
from icgan_export.errors import ExportError
from icgan_export.rewrite.choice import Rewrites
from icgan_runtime.bundle.bank import Bank
from icgan_runtime.bundle.manifest import ONNX_IDENTITY_KEY, GraphEntry, describe_files
from icgan_runtime.bundle.opened import Bundle
from icgan_training.errors import ConfigError
from icgan_training.networks.config import ModelConfig


@pytest.fixture
def bundle(all_precisions: Path, tmp_path: Path) -> Path:
    """A bundle of its own, free to be damaged."""
    return Path(shutil.copytree(all_precisions, tmp_path / "bundle"))


def plant(bundle: Path, file: str, tensor: str, factor: float) -> None:
    """Multiply one constant of a graph; the manifest is signed again."""
    model = onnx.load(bundle / file)
    (found,) = (item for item in model.graph.initializer if item.name == tensor)
    found.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(found) * np.float32(factor), tensor))
    onnx.save(model, bundle / file)
    sign(bundle)


def convolutions(bundle: Path, file: str) -> list[onnx.NodeProto]:
    return [node for node in onnx.load(bundle / file).graph.node if node.op_type == "Conv"]


def test_the_page_shows_every_precision_beside_torch(all_precisions, tmp_path, capsys):
    page = tmp_path / "verify.html"
    assert main(["verify", str(all_precisions), "--html", str(page)]) == 0
    text = page.read_text("utf-8")
    assert "every bound holds" in text
    for precision in ("fp32", "fp16", "bf16", "int8"):
        assert f"torch, {precision} and their difference" in text
    for file in ("encoder.fp16.onnx", "generator.fp16.onnx"):
        assert f"{file}: activations reach " in text
    assert "http" not in text  # works offline
    assert "MISSED" not in capsys.readouterr().out


def test_a_missed_bound_is_marked_on_the_page_and_fails_the_command(bundle, tmp_path, capsys):
    plant(bundle, "generator.onnx", convolutions(bundle, "generator.onnx")[0].input[1], 1.5)
    page = tmp_path / "verify.html"
    assert main(["verify", str(bundle), "--html", str(page), "--json"]) == 1
    assert 'class="missed"' in page.read_text("utf-8")
    captured = capsys.readouterr()
    assert json.loads(captured.out)["passed"] is False
    assert "bounds missed, first: generator fp32" in captured.err
    assert main(["verify", str(bundle)]) == 1
    assert "generator.onnx: layer by layer with verify --bisect" in capsys.readouterr().out


def sign(bundle: Path) -> None:
    """Make the manifest agree with whatever lies in the folder."""
    manifest = Bundle.open(bundle).manifest
    replace(manifest, files=describe_files(bundle)).write(bundle)


def lacking(samples: dict[str, np.ndarray]) -> None:
    del samples["noise"]


def narrow(samples: dict[str, np.ndarray]) -> None:
    samples["noise"] = samples["noise"][:, 1:]


def more_noise(samples: dict[str, np.ndarray]) -> None:
    samples["noise"] = np.repeat(samples["noise"], 50, axis=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lacking, "samples.npz: holds no array 'noise'"),
        (narrow, "samples.npz noise: holds float32[12, 119]"),
        (more_noise, "samples.npz: arrays of different lengths: {'image': 12, 'noise': 600}"),
    ],
)
def test_samples_that_do_not_fit_the_bundle_are_refused_by_name(
    tiny_bundle, tmp_path, change, message, capsys
):
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    samples = dict(np.load(bundle / "samples.npz"))
    change(samples)
    np.savez(bundle / "samples.npz", **samples)
    assert main(["verify", str(bundle)]) == 1
    assert "samples.npz: has " in capsys.readouterr().err, "not what the manifest lists"
    sign(bundle)
    assert main(["verify", str(bundle)]) == 1
    assert message in capsys.readouterr().err


def test_a_graph_of_another_model_is_not_verified_though_its_hash_is_listed(tiny_bundle, tmp_path, capsys):
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    model = onnx.load(bundle / "generator.onnx")
    (identity,) = (entry for entry in model.metadata_props if entry.key == ONNX_IDENTITY_KEY)
    identity.value = "0" * 64
    onnx.save(model, bundle / "generator.onnx")
    sign(bundle)
    assert main(["verify", str(bundle)]) == 1
    assert "generator.onnx: made for tiny" in capsys.readouterr().err


def test_a_missed_bound_shows_the_worst_tensors_of_its_graph(bundle, capsys):
    file = "generator.int8.onnx"
    constants = {item.name for item in onnx.load(bundle / file).graph.initializer}
    planted = [node for node in convolutions(bundle, file) if f"{node.name}.weight.scale" in constants][-1]
    plant(bundle, file, f"{planted.name}.weight.scale", 8)
    assert main(["verify", str(bundle)]) == 1
    worst = capsys.readouterr().out.partition(f"{file}: furthest from the float32 graph")[2]
    assert 2 <= len(worst.splitlines()) <= 12
    assert planted.output[0] in worst.split()
    assert main(["verify", str(bundle), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["passed"] is False


@pytest.mark.parametrize(
    "file", ["generator.fp16.onnx", "generator.bf16.onnx", "generator.int8.onnx", "encoder.fp16.onnx"]
)
def test_bisecting_a_sound_graph_finds_nothing(file, all_precisions, capsys):
    assert main(["verify", str(all_precisions), "--bisect", file]) == 0
    assert f"{file}: every layer is within" in capsys.readouterr().out


def test_bisecting_names_the_layer_that_was_changed(bundle, tiny_run, capsys):
    node = convolutions(bundle, "generator.onnx")[3]
    plant(bundle, "generator.onnx", node.input[1], 1.01)
    assert main(["verify", str(bundle), "--bisect", "generator.onnx", "--run", str(tiny_run)]) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.endswith(f"Conv {node.output[0]}")


def graph_of(rewrites: Rewrites) -> onnx.ModelProto:
    """Stands for the export in one form: one operator and its tensor for every block."""
    nodes = [helper.make_node(form, ["x"], [f"block_{i}"]) for i, form in enumerate(rewrites.blocks)]
    return helper.make_model(helper.make_graph(nodes, "", [], []))


def test_a_graph_is_bisected_against_an_export_of_its_own_form(monkeypatch):
    """`bundle --target` chooses the form, and in another form other tensors go by the same names."""
    config = ModelConfig(32, 64)  # wide enough for the forms to differ
    run = SimpleNamespace(generator=SimpleNamespace(config=config), model=SimpleNamespace(truncation="noise"))
    monkeypatch.setattr(bisect, "read_run", lambda path: run)
    monkeypatch.setattr(
        bisect, "generator_graph", lambda generator, rewrites, metadata, truncated: graph_of(rewrites)
    )
    entry = GraphEntry("generator", "fp32", "generator.onnx", 18, (), (), "")
    forms = [graph_of(Rewrites.best(config, target)) for target in ("onnxruntime", "tensorrt")]
    assert forms[0] != forms[1]
    for form in forms:
        assert bisect._fresh(Path("run"), entry, form) == form
    with pytest.raises(ExportError, match="has other operators than the bundle's generator"):
        bisect._fresh(Path("run"), entry, graph_of(Rewrites.none(config)))


def test_bisecting_finds_where_fp16_overflows(bundle, capsys):
    node = convolutions(bundle, "generator.onnx")[1]
    model = onnx.load(bundle / "generator.fp16.onnx")
    (half,) = (item for item in model.graph.node if node.output[0] in item.output)
    (kernel,) = (item for item in model.graph.initializer if item.name == half.input[1])
    values = numpy_helper.to_array(kernel)
    kernel.CopyFrom(numpy_helper.from_array((values * np.float16(60_000)).clip(-6e4, 6e4), kernel.name))
    onnx.save(model, bundle / "generator.fp16.onnx")
    sign(bundle)
    assert main(["verify", str(bundle), "--bisect", "generator.fp16.onnx"]) == 1
    table = capsys.readouterr().out
    first = next(line for line in table.splitlines() if line.endswith("BAD"))
    assert node.output[0] in first
    assert "nan" in first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bisect", "generator.onnx"], "name the weights it was made from with --run"),
        (["--bisect", "decoder.onnx"], "choose from encoder.onnx"),
        (["--bisect", "lookup.onnx"], "choose from encoder.onnx"),
    ],
)
def test_a_graph_that_cannot_be_bisected_is_said_so(arguments, message, all_precisions, capsys):
    assert main(["verify", str(all_precisions), *arguments]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("encoder", "resolution", "message"),
    [
        ("0" * 64, 32, "embedded by encoder 000000000000, the model takes"),
        (None, 64, "holds 64 px pictures, the model 32 px"),
    ],
)
def test_pictures_of_another_encoder_or_size_give_no_fid(tiny_bundle, encoder, resolution, message):
    bundle = Bundle.open(tiny_bundle)
    of_bundle = bundle.manifest.model.encoder.sha256
    identity = SimpleNamespace(sha256=encoder or of_bundle)
    meta = SimpleNamespace(encoder=identity, embedding_dim=1280, resolution=resolution)
    with pytest.raises(ExportError, match=message):
        fid_of_each(bundle, SimpleNamespace(path=Path("data"), meta=meta), 4, print)  # type: ignore[arg-type]


def test_pictures_whose_labels_are_other_classes_give_no_fid(tiny_bundle):
    bundle = Bundle.open(tiny_bundle)
    model = replace(bundle.manifest.model, classes=2, class_names=("cat", "dog"))
    labelled = replace(bundle, manifest=replace(bundle.manifest, model=model))
    meta = SimpleNamespace(
        encoder=model.encoder,
        resolution=model.resolution,
        crop=model.preprocessing.crop,
        class_names=["dog", "cat"],
    )
    data = SimpleNamespace(path=Path("data"), meta=meta)
    with pytest.raises(ConfigError, match="label 0 is 'dog' in data and was 'cat' in training"):
        fid_of_each(labelled, data, 4, print)  # type: ignore[arg-type]


def test_clusters_of_a_run_give_no_fid_for_no_data_set_knows_them(tiny_bundle):
    bundle = Bundle.open(tiny_bundle)
    model = replace(bundle.manifest.model, classes=10)
    of_clusters = replace(bundle.manifest, model=model, provenance={"train": {"label_source": "clusters"}})
    crop = model.preprocessing.crop
    meta = SimpleNamespace(encoder=model.encoder, resolution=model.resolution, crop=crop, count=8)
    labelled = SimpleNamespace(path=Path("data"), meta=meta, embeddings=np.zeros((8, 4)), labels=np.zeros(8))
    with pytest.raises(ExportError, match="the generator takes clusters of its run"):
        fid_of_each(replace(bundle, manifest=of_clusters), labelled, 4, print)  # type: ignore[arg-type]


def test_a_change_of_the_fid_is_held_to_the_contract():
    checks = compare_fid({"fp32": 30.0, "fp16": 30.2, "int8": 30.9})
    changes = {check.precision: check.passed for check in checks if check.what == "FID, change"}
    assert changes == {"fp16": False, "int8": True}


@pytest.fixture
def twice() -> tuple[Samples, Bank]:
    """A bank that holds every picture twice, as albums do, and queries of which the first copy is nearest."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(6, 8)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    bank = Bank("", rows.repeat(2, axis=0), np.arange(0, 24, 2), None, None)
    pictures = np.zeros((6, 4, 4, 3), np.uint8)
    scores = np.ones((6, 1), np.float32)
    return Samples(
        pictures, rows, bank.ids[::2, None], scores, rows, None, np.zeros((6, 3, 4, 4), "f4")
    ), bank


def test_the_other_copy_of_a_picture_is_as_near_as_the_first(twice):
    """Which of two comes first is decided by the rounding of sums: no graph can be asked to repeat that."""
    samples, bank = twice
    other = {"ids": samples.ids + 2, "scores": samples.scores}
    assert all(check.passed for check in compare_lookup(other, samples, bank))
    rounding = np.tile(np.array([[1], [1 + 5e-7]], np.float32), (6, 1))
    rounded = replace(bank, embeddings=bank.embeddings * rounding)
    assert all(check.passed for check in compare_encoder(samples.embedding, samples, rounded, "fp32"))


@pytest.mark.parametrize("shift", [4, 1, 100], ids=["another picture", "no id", "beyond every id"])
def test_an_instance_that_is_farther_is_still_a_miss(twice, shift):
    samples, bank = twice
    nearest, *_ = compare_lookup({"ids": samples.ids + shift, "scores": samples.scores}, samples, bank)
    assert not nearest.passed
