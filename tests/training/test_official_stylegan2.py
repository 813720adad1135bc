"""Published StyleGAN2 weights become runs; nothing that they carry is run, and nothing is left over."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from icgan_training.cli import main
from icgan_training.errors import WeightsError
from icgan_training.inert_pickle import read_inert, read_inert_npy
from icgan_training.networks.checkpoint import load_discriminator, load_generator
from icgan_training.networks.stylegan2.config import StyleGAN2Config
from icgan_training.networks.stylegan2.discriminator import StyleGAN2Discriminator
from icgan_training.networks.stylegan2.generator import StyleGAN2Generator
from icgan_training.official_stylegan2 import find_stylegan2, read_stylegan2
from tests.models.snapshot import write_snapshot

CONFIG = StyleGAN2Config(16, 24, 3, dim_z=16, dim_w=16, channel_base=64, channel_max=8, half_sides=2)
CALLED: list[str] = []


def call_me(*_: object) -> dict[str, int]:
    """Stands for what a malicious file would call."""
    CALLED.append("called")
    return {}


class Calls:
    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return call_me, ()


@pytest.fixture
def networks() -> tuple[StyleGAN2Generator, StyleGAN2Discriminator]:
    torch.manual_seed(0)
    return StyleGAN2Generator(CONFIG).eval(), StyleGAN2Discriminator(CONFIG).eval()


def test_a_snapshot_becomes_a_run(tmp_path: Path, networks, capsys: pytest.CaptureFixture[str]) -> None:
    generator, discriminator = networks
    (tmp_path / "icgan_stylegan2_coco_res16").mkdir()
    write_snapshot(tmp_path / "icgan_stylegan2_coco_res16" / "best-network-snapshot.pkl", *networks)
    assert (
        main(["convert", str(tmp_path / "icgan_stylegan2_coco_res16"), "--out", str(tmp_path / "run")]) == 0
    )
    assert "non-commercial" in capsys.readouterr().out
    read, judge = load_generator(tmp_path / "run"), load_discriminator(tmp_path / "run")
    assert read.config == CONFIG
    for mine, theirs in ((generator, read), (discriminator, judge)):
        assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in mine.state_dict().items())
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["name"] == "icgan_stylegan2_coco_res16"
    assert config["provenance"]["data"] == "COCO128"
    assert config["licence"]["weights"] == "CC-BY-NC-4.0"
    assert config["data"] == {"crop": "squeeze"}  # as COCO's pictures were


def test_a_folder_of_a_state_dict_and_settings_is_taken(tmp_path: Path, networks) -> None:
    generator, _ = networks
    settings = {
        "z_dim": 16, "c_dim": 3, "h_dim": 24, "w_dim": 16, "img_resolution": 16, "img_channels": 3,
        "mapping_kwargs": {"num_layers": 2},
        "synthesis_kwargs": {"channel_base": 64, "channel_max": 8, "num_fp16_res": 2, "conv_clamp": 256},
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(settings))
    torch.save(generator.state_dict(), tmp_path / "G_ema_state_dict.pth")
    file = find_stylegan2(tmp_path)
    assert file is not None
    found = read_stylegan2(file)
    assert found.discriminator is None
    assert found.generator.config == CONFIG


@pytest.mark.parametrize("place", ["at the top", "inside a module"])
def test_what_a_snapshot_wants_called_is_refused_and_not_called(tmp_path: Path, networks, place: str) -> None:
    if place == "inside a module":
        networks[0].synthesis.b4.const.data = networks[0].synthesis.b4.const.data.clone()
        write_snapshot(tmp_path / "a.pkl", *networks, training_set_kwargs={"path": Calls()})
    else:
        write_snapshot(tmp_path / "a.pkl", *networks, augment_pipe=Calls())
    with pytest.raises(WeightsError, match="call_me"):
        read_stylegan2(tmp_path / "a.pkl")
    assert not CALLED


def test_what_hides_in_the_bytes_of_a_tensor_is_refused(tmp_path: Path, networks) -> None:
    class Storage:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return torch.storage._load_from_bytes, (pickle.dumps(Calls()),)

    write_snapshot(tmp_path / "a.pkl", *networks, augment_pipe=Storage())
    with pytest.raises(WeightsError, match="not read"):
        read_stylegan2(tmp_path / "a.pkl")
    assert not CALLED


def test_every_missing_and_every_odd_key_is_named(tmp_path: Path, networks) -> None:
    generator, discriminator = networks
    generator.register_buffer("spare", torch.zeros(2))
    del generator.mapping.w_avg
    write_snapshot(tmp_path / "a.pkl", generator, discriminator)
    with pytest.raises(WeightsError, match=r"missing mapping.w_avg; unexpected spare"):
        read_stylegan2(tmp_path / "a.pkl")


def test_a_damaged_snapshot_is_one_line(tmp_path: Path, networks) -> None:
    write_snapshot(tmp_path / "a.pkl", *networks)
    whole = (tmp_path / "a.pkl").read_bytes()
    (tmp_path / "a.pkl").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match=r"a\.pkl"):
        read_stylegan2(tmp_path / "a.pkl")
    assert main(["convert", str(tmp_path / "a.pkl"), "--out", str(tmp_path / "run")]) == 1
    assert not (tmp_path / "run").exists()


def test_stored_instances_are_read_without_unpickling(tmp_path: Path) -> None:
    features = np.random.default_rng(0).normal(size=(5, 24)).astype(np.float32)
    stored = {"instance_features": features, "labels": np.arange(5), "image_path": ["a.jpg"] * 5}
    np.save(tmp_path / "a.npy", stored)  # type: ignore[arg-type]
    found = read_inert_npy(tmp_path / "a.npy")
    assert np.array_equal(found["instance_features"], features)
    assert found["labels"].tolist() == [0, 1, 2, 3, 4]
    assert found["image_path"] == ["a.jpg"] * 5


def test_text_in_arrays_and_single_numbers_are_read(tmp_path: Path) -> None:
    value = {"names": np.array(["cat", "zebra"]), "fid": np.float64(1.5), "by column": np.ones((2, 3)).T}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(value, protocol=4))
    found = read_inert(tmp_path / "a.pkl")
    assert found["names"].tolist() == ["cat", "zebra"]
    assert found["fid"] == 1.5
    assert found["by column"].shape == (3, 2)


def test_a_npy_file_that_wants_something_called_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", {"labels": Calls()})  # type: ignore[arg-type]
    with pytest.raises(WeightsError, match="call_me"):
        read_inert_npy(tmp_path / "a.npy")
    assert not CALLED
