"""Every file of a prepared data set, a run and a bundle, damaged in every way: refused by name before use.

Damage is done in place and undone: a copy for each of thousands of cases would take longer than the cases.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch

from icgan_runtime.bundle.manifest import EngineEntry, Manifest, describe_files
from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.errors import IntegrityError
from icgan_runtime.files import sha256_of_file
from icgan_runtime.identity import FileEntry
from icgan_training.data.dataset import DESCRIPTION, DatasetMeta, PreparedDataset
from icgan_training.data.labels import CENTROIDS, training_labels
from icgan_training.data.prepare import prepare
from icgan_training.errors import CheckpointError, ConfigError, DataError, TrainingError, WeightsError
from icgan_training.fit.resume import Stateful, load_checkpoint, save_checkpoint
from icgan_training.fit.run import open_encoder, read_config
from icgan_training.networks.checkpoint import load_discriminator, load_generator, save_weights
from icgan_training.networks.discriminator import Discriminator
from icgan_training.networks.encoder import random_encoder, save_encoder
from icgan_training.networks.generator import Generator
from icgan_training.networks.presets import preset
from tests.training.pictures import TINY_ENCODER

TINY = preset("tiny").model
T = TypeVar("T")
FOR_PEOPLE = {"name", "source", "licence", "class_names", "unreadable", "encoder"}  # fields of dataset.json


def places(path: Path, count: int = 12) -> list[int]:
    """Offsets spread over a file, its first and last bytes and those of a header among them."""
    size = path.stat().st_size
    found = {*range(min(10, size)), size - 1, *np.linspace(0, size - 1, count).astype(int).tolist()}
    return sorted(place for place in found if place < size)


@contextlib.contextmanager
def flipped(path: Path, place: int, mask: int = 1) -> Iterator[None]:
    """One byte of a file is another inside the block."""
    with path.open("r+b", buffering=0) as file:
        byte = os.pread(file.fileno(), 1, place)[0]
        os.pwrite(file.fileno(), bytes([byte ^ mask]), place)
        try:
            yield
        finally:
            os.pwrite(file.fileno(), bytes([byte]), place)


@contextlib.contextmanager
def replaced(path: Path, content: bytes | None) -> Iterator[None]:
    """A file holds something else, or is gone, inside the block."""
    aside = path.with_name(path.name + ".aside")
    path.rename(aside)
    try:
        if content is not None:
            path.write_bytes(content)
        yield
    finally:
        path.unlink(missing_ok=True)
        aside.rename(path)


@contextlib.contextmanager
def linked(path: Path, outside: Path) -> Iterator[None]:
    """A file is a link to its very bytes, but elsewhere, inside the block."""
    path.rename(outside)
    path.symlink_to(outside)
    try:
        yield
    finally:
        path.unlink()
        outside.rename(path)


def unless_refused(use: Callable[[], T], *names: str) -> T | None:
    """What `use` returns, or None when it refuses with the name of a file."""
    try:
        return use()
    except TrainingError as error:
        if not any(name in str(error) for name in names):
            raise
        return None


# ---- prepared data sets ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """A labelled data set of twelve pictures."""
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "in").mkdir()
    np.save(folder / "in" / "images.npy", np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), np.uint8))
    np.save(folder / "in" / "labels.npy", np.arange(12) % 3)
    save_encoder(random_encoder(TINY_ENCODER), folder / "encoder.safetensors")
    prepare(
        folder / "in",
        folder / "out",
        resolution=8,
        encoder=str(folder / "encoder.safetensors"),
        neighbours=3,
    )
    return folder / "out"


DATA_FILES = (
    *("images.npy", "embeddings.npy", "embeddings_flipped.npy", "neighbours.npy", "radii.npy", "labels.npy"),
    "encoder.safetensors",
)


def use(prepared: Path) -> PreparedDataset:
    """What every command does first."""
    data = PreparedDataset.open(prepared)
    data.verify()
    return data


@contextlib.contextmanager
def signed(prepared: Path, name: str, content: bytes) -> Iterator[None]:
    """A file holds something else inside the block, and dataset.json agrees, as its author could have it."""
    value = json.loads((prepared / DESCRIPTION).read_text())
    with replaced(prepared / name, content):
        value["files"][name] = {"bytes": len(content), "sha256": sha256_of_file(prepared / name)}
        with replaced(prepared / DESCRIPTION, json.dumps(value).encode()):
            yield


def test_a_sound_data_set_lists_every_file_it_has(prepared):
    listed = use(prepared).meta.files
    assert listed is not None
    assert {*listed, DESCRIPTION} == {path.name for path in prepared.iterdir()}


@pytest.mark.parametrize("name", DATA_FILES)
def test_a_flipped_byte_in_a_data_set_is_found(prepared, name):
    for place in places(prepared / name):
        with flipped(prepared / name, place), pytest.raises(DataError, match=name):
            use(prepared)


def test_a_flipped_byte_in_the_description_is_refused_or_changes_words_for_people_only(prepared):
    path = prepared / DESCRIPTION
    sound = vars(use(prepared).meta)
    for place in range(0, path.stat().st_size, 3):
        with flipped(path, place, 1 << place % 8):
            meta = unless_refused(lambda: use(prepared).meta, DESCRIPTION, *DATA_FILES)
        if meta is not None:
            assert {name for name in sound if getattr(meta, name) != sound[name]} <= FOR_PEOPLE


@pytest.mark.parametrize("name", DATA_FILES)
def test_a_data_set_with_a_file_cut_short_gone_or_of_another_set_is_refused(prepared, name):
    whole = (prepared / name).read_bytes()
    other = whole[:-64] + whole[-64:][::-1]  # a file of the same kind and size, with other numbers
    for content in (b"", whole[: len(whole) // 2], whole[:-1], whole + b"\0", other, None):
        with replaced(prepared / name, content), pytest.raises(DataError, match=name):
            use(prepared)


@pytest.mark.parametrize("name", [*DATA_FILES, DESCRIPTION])
def test_a_file_of_a_data_set_linked_from_outside_is_refused(prepared, tmp_path, name):
    refusal = pytest.raises(DataError, match=rf"{name}.* a link that leaves the folder")
    with linked(prepared / name, tmp_path / "outside"), refusal:
        use(prepared)


@pytest.mark.parametrize("name", ["../encoder.safetensors", "/etc/hostname", "not-there.npy"])
def test_a_description_that_lists_files_elsewhere_is_refused(prepared, name):
    value = json.loads((prepared / DESCRIPTION).read_text())
    value["files"][name] = {"bytes": 1, "sha256": "0" * 64}
    with replaced(prepared / DESCRIPTION, json.dumps(value).encode()), pytest.raises(DataError, match=name):
        use(prepared)


def npy(header: str) -> bytes:
    """The beginning of an .npy file that says `header`, and a few numbers."""
    text = header.encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(640)


class Touch:
    """Unpickled, it leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


ABSURD = {
    "a terabyte": npy("{'descr': '|u1', 'fortran_order': False, 'shape': (1099511627776,), }"),
    "more than 64 bits": npy(
        "{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999999999999, 9), }"
    ),
    "negative": npy("{'descr': '|u1', 'fortran_order': False, 'shape': (-12, 8, 8, 3), }"),
    "objects": npy("{'descr': '|O', 'fortran_order': False, 'shape': (12,), }"),
    "code": npy("{'descr': __import__('os').abort(), 'fortran_order': False, 'shape': (12,), }"),
    "a long header": b"\x93NUMPY\x02\x00\xff\xff\xff\x7f" + b" " * 1000,
    "a zip": b"PK\x05\x06" + bytes(18),
}


@pytest.mark.parametrize("kind", ABSURD)
@pytest.mark.parametrize("name", ["images.npy", "neighbours.npy"])
def test_an_array_that_claims_the_absurd_is_refused_though_its_hash_agrees(prepared, name, kind):
    with signed(prepared, name, ABSURD[kind]), pytest.raises(DataError, match=name):
        use(prepared)


def test_a_pickle_in_place_of_an_array_runs_nothing(prepared, tmp_path):
    content = pickle.dumps(Touch(tmp_path / "ran"))
    with signed(prepared, "radii.npy", content), pytest.raises(DataError, match=r"radii\.npy"):
        use(prepared)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("text", [b"\xff", b"[" * 2_000, b"[]", b"{}", b" " * (9 << 20), b'{"files": 3}'])
def test_a_description_that_is_none_is_refused(prepared, text):
    with (
        replaced(prepared / DESCRIPTION, text),
        pytest.raises(DataError, match=r"dataset\.json cannot be used"),
    ):
        use(prepared)


def test_a_data_set_from_before_there_were_hashes_is_still_read(prepared):
    value = json.loads((prepared / DESCRIPTION).read_text())
    del value["files"]
    with replaced(prepared / DESCRIPTION, json.dumps(value).encode()):
        assert use(prepared).meta.files is None


def test_the_description_is_read_back_as_it_was_written(prepared):
    meta = PreparedDataset.open(prepared).meta
    assert DatasetMeta.from_json(json.loads(meta.to_json())) == meta
    assert isinstance((meta.files or {})["images.npy"], FileEntry)


# ---- runs and checkpoints --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(prepared, tmp_path_factory) -> Path:
    """A run directory: both networks, an encoder, a checkpoint, centroids, a description."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    save_weights(Generator(TINY), folder / "generator.safetensors")
    save_weights(Discriminator(TINY), folder / "discriminator.safetensors")
    shutil.copyfile(prepared / "encoder.safetensors", folder / "encoder.safetensors")
    save_checkpoint(folder / "step-000000001.safetensors", state(), {"step": 1})
    described = {"encoder": {"sha256": sha256_of_file(folder / "encoder.safetensors")}}
    (folder / "config.json").write_text(json.dumps(described))
    return folder


def state() -> Stateful:
    torch.manual_seed(1)
    return Stateful({"network": torch.nn.Linear(12, 12)}, {})


def load(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of one file of a run as its reader gives them."""
    if path.name.startswith("step"):
        loaded = state()
        load_checkpoint(path, loaded)
        return loaded.tensors()
    read = load_generator if path.name == "generator.safetensors" else load_discriminator
    return dict(read(path.parent).state_dict())


WEIGHTS = ("generator.safetensors", "discriminator.safetensors", "step-000000001.safetensors")
Refused = (WeightsError, CheckpointError)


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_flipped_byte_in_weights_or_a_checkpoint_is_found(run, name):
    path = run / name
    sound = load(path)
    header = int.from_bytes(path.read_bytes()[:8], "little")
    for place in sorted({*places(path, 24), *range(8, header, max(1, header // 60))}):
        with flipped(path, place, 1 << place % 8):
            found = unless_refused(lambda: load(path), name)
        if found is not None:  # in the name under which the hash is kept: it is as if there had been none
            assert place < 8 + header
            assert all(torch.equal(found[key], sound[key]) for key in sound)


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_cut_short_or_gone_are_refused(run, name):
    whole = (run / name).read_bytes()
    for content in (b"", whole[:7], whole[: len(whole) // 2], whole[:-1], whole + b"\0", None):
        with replaced(run / name, content), pytest.raises(Refused, match=name):
            load(run / name)


def header_of(length: int, header: object) -> bytes:
    text = json.dumps(header).encode()
    return (length or len(text)).to_bytes(8, "little") + text + bytes(64)


@pytest.mark.parametrize(
    "content",
    [
        header_of(1 << 62, {}),
        header_of(0, {"x": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}),
        header_of(0, {"x": {"dtype": "F32", "shape": [1 << 62, 1 << 62], "data_offsets": [0, 64]}}),
        header_of(0, {"x": {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}}),
        header_of(0, {"__metadata__": {"config": "[" * 2_000, "checkpoint": "[" * 2_000}}),
    ],
    ids=["header", "offsets", "product", "negative", "nested"],
)
@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_that_claim_the_absurd_are_refused(run, name, content):
    with replaced(run / name, content), pytest.raises(Refused, match=name):
        load(run / name)


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_pickle_in_place_of_weights_runs_nothing(run, tmp_path, name):
    for content in (pickle.dumps(Touch(tmp_path / "ran")), torch_file(Touch(tmp_path / "ran"), tmp_path)):
        with replaced(run / name, content), pytest.raises(Refused, match=name):
            load(run / name)
    assert not (tmp_path / "ran").exists()


def torch_file(content: object, folder: Path) -> bytes:
    torch.save(content, folder / "malicious.pth")
    return (folder / "malicious.pth").read_bytes()


def test_an_encoder_that_is_not_the_runs_is_refused(run):
    path = run / "encoder.safetensors"
    for place in places(path):
        with flipped(path, place), pytest.raises(ConfigError, match=r"encoder\.safetensors has SHA-256"):
            open_encoder(run, read_config(run))
    open_encoder(run, read_config(run))


@pytest.mark.parametrize("content", [None, b"", b"\xff", b"{", b"[]", b"[" * 2_000, b" " * (9 << 20)])
def test_a_description_of_a_run_that_is_none_is_refused(run, content):
    with replaced(run / "config.json", content), pytest.raises(ConfigError, match=r"config\.json"):
        read_config(run)


def test_centroids_with_a_flipped_byte_or_absurd_sizes_are_refused(prepared, tmp_path):
    model = dataclasses.replace(TINY, class_count=5, embedding_dim=None)
    data = PreparedDataset.open(prepared)
    training_labels(model, data, tmp_path, source="clusters")
    path = tmp_path / CENTROIDS
    for place in places(path):
        with flipped(path, place), pytest.raises(DataError, match=CENTROIDS):
            training_labels(model, data, tmp_path, source="clusters")
    (tmp_path / "centroids.sha256").unlink()
    for content in ABSURD.values():
        with replaced(path, content), pytest.raises(DataError, match=CENTROIDS):
            training_labels(model, data, tmp_path, source="clusters")


# ---- bundles ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundle(tiny_bundle, tmp_path_factory) -> Path:
    """An exported bundle with a file of every kind, plans included, free to be damaged."""
    folder = Path(shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("bundle") / "tiny"))
    plan = folder / "engines" / "sm89-trt10.14.1" / "generator.plan"
    plan.parent.mkdir(parents=True)
    plan.write_bytes(os.urandom(5000))
    manifest = Manifest.read(folder)
    name = plan.relative_to(folder).as_posix()
    engine = EngineEntry("generator", "fp32", name, "sm89", "10.14.1", 8, manifest.model.encoder_id)
    Manifest(**{**vars(manifest), "engines": (engine,), "files": describe_files(folder)}).write(folder)
    return folder


def hand_out(bundle: Path, name: str) -> None:
    """Both ways in which a reader gets a file."""
    opened = Bundle.open(bundle)
    with pytest.raises(IntegrityError) as caught:
        opened.read(name)
    assert caught.value.file == name
    with pytest.raises(IntegrityError) as caught:
        opened.path(name)
    assert caught.value.file == name


def test_no_file_of_a_bundle_is_handed_out_with_a_byte_flipped_cut_short_or_gone(bundle):
    names = list(Manifest.read(bundle).files)
    assert {Path(name).suffix for name in names} >= {".onnx", ".npy", ".npz", ".json", ".md", ".png", ".plan"}
    for name in names:
        for place in places(bundle / name, 4)[::3]:
            with flipped(bundle / name, place):
                hand_out(bundle, name)
        whole = (bundle / name).read_bytes()
        for content in (b"", whole[: len(whole) // 2], whole + b"\0", None):
            with replaced(bundle / name, content):
                hand_out(bundle, name)


def test_no_file_of_a_bundle_is_handed_out_from_elsewhere(bundle, tmp_path):
    for name in Manifest.read(bundle).files:
        with linked(bundle / name, tmp_path / "outside"):
            hand_out(bundle, name)
