import stat

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch.nn import functional as F

from icgan_export.cli import main
from icgan_runtime.images import resize
from icgan_runtime.origin.weight_key import FALSE_POSITIVE, detect, key_direction
from icgan_training.fit.mark import MarkFeature, levels

SECRET = b"0123456789abcdef"


def pictures(side, marked, count=3):
    """Soft noise [count, side, side, 3], with a faint pattern along the key where it is marked."""
    random = torch.Generator().manual_seed(side)
    layers = [
        F.interpolate(torch.randn(count, 3, s, s, generator=random), size=side, mode="bicubic") / s
        for s in (4, 8, 16)
    ]
    grey = levels(torch.tanh(2 * torch.stack(layers).sum(0)))
    if marked:
        feature = MarkFeature(side)
        direction = torch.from_numpy(key_direction(SECRET, feature.dimensions)).float()
        pattern = feature.pattern(direction[None])[0]
        grey = grey + 4 * pattern / pattern.std()
    return np.asarray(grey.round().clamp(0, 255).byte().permute(0, 2, 3, 1)).copy()


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    folder = tmp_path_factory.mktemp("key")
    key = folder / "key.txt"
    key.write_bytes(SECRET)
    key.chmod(0o600)
    assert main(["detector", "--key", str(key), "--out", str(folder / "app" / "detector.onnx")]) == 0
    return folder / "app" / "detector.onnx"


@pytest.fixture(scope="module")
def session(detector):
    return onnxruntime.InferenceSession(detector, providers=["CPUExecutionProvider"])


def said(session, images):
    chance, each = session.run(None, {"image": np.stack(images)})
    return float(chance[0]), each


@pytest.mark.parametrize("side", [64, 32])
def test_the_graph_finds_the_key_where_icgan_detect_does(session, side):
    images = pictures(side, marked=True)
    chance, each = said(session, images)
    assert chance <= FALSE_POSITIVE
    assert detect(list(images), SECRET).found
    for image, graph in zip(images, each, strict=True):  # three images are three times two tries
        alone = detect([image], SECRET).chance
        assert alone <= FALSE_POSITIVE
        assert np.log(max(graph / 6, 1e-30)) == pytest.approx(np.log(max(alone, 1e-30)), rel=0.05)


def test_the_graph_finds_the_key_after_a_crop_a_mirror_and_another_size(session):
    images = pictures(64, marked=True)
    cropped = np.stack([resize(np.ascontiguousarray(each[1:62, 2:63]), 64) for each in images])
    for edited in (cropped, images[:, :, ::-1], np.stack([resize(each, 150) for each in images])):
        assert said(session, np.ascontiguousarray(edited))[0] <= FALSE_POSITIVE


def test_the_graph_finds_nothing_in_pictures_without_the_key(session):
    for side in (64, 32):
        images = pictures(side, marked=False)
        assert said(session, images)[0] > 1e-3
        assert said(session, images[:1])[0] > 1e-3
        assert detect(list(images), SECRET).chance > 1e-3


def test_one_picture_alone_is_not_counted_twice(session):
    chance, each = said(session, pictures(64, marked=True)[:1])
    assert chance == each[0]


def test_the_file_is_small_and_closed_to_others(detector):
    assert stat.S_IMODE(detector.stat().st_mode) == 0o600
    assert detector.stat().st_size < 1_000_000
    model = onnx.load(detector)
    assert [each.name for each in model.graph.output] == ["chance", "each"]


def test_a_key_that_is_too_short_is_refused_before_anything_is_written(tmp_path, capsys):
    key = tmp_path / "key.txt"
    key.write_text("short")
    key.chmod(0o600)
    assert main(["detector", "--key", str(key), "--out", str(tmp_path / "d.onnx")]) == 1
    assert "at least 16" in capsys.readouterr().err
    assert not (tmp_path / "d.onnx").exists()


def test_a_folder_in_place_of_the_file_is_refused_before_anything_is_traced(tmp_path, capsys):
    key = tmp_path / "key.txt"
    key.write_bytes(SECRET)
    key.chmod(0o600)
    assert main(["detector", "--key", str(key), "--out", str(tmp_path)]) == 1
    assert f"{tmp_path} is a folder" in capsys.readouterr().err
