import dataclasses
import json
import shutil
from hashlib import sha256

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from icgan_runtime.cli import main as icgan
from icgan_runtime.images import encode
from icgan_runtime.origin import weight_key
from icgan_runtime.origin.key_feature import Seen
from icgan_runtime.origin.likeness import WHOLE
from icgan_training.cli import main
from icgan_training.errors import ConfigError
from icgan_training.fit import mark
from tests.tiny_model import lively_generator, tiny_config

SECRET = b"0123456789abcdef"
CONFIG = dataclasses.replace(tiny_config(), resolution=64)


def draw(count, seed, side=64):
    """Soft noise of several scales, as in natural pictures, float32 [count, 3, side, side] in [-1, 1]."""
    random = torch.Generator().manual_seed(seed)
    layers = [
        F.interpolate(torch.randn(count, 3, s, s, generator=random), size=side, mode="bicubic") / s
        for s in (4, 8, 16, 32)
    ]
    return torch.tanh(2 * torch.stack(layers).sum(0))


def to_bytes(images):
    return np.asarray(mark.levels(images).round().byte().permute(0, 2, 3, 1))


@pytest.fixture(scope="module")
def marked():
    with pytest.MonkeyPatch.context() as patch:  # fewer images, sooner
        patch.setattr(mark, "POOL", 64)
        patch.setattr(mark, "BATCH", 16)
        return mark.mark_generator(lively_generator(CONFIG), draw, SECRET, steps=60)


def shown(marked, count=8):
    before = draw(count, 3)
    return to_bytes(torch.tanh(mark.before_tanh(before) + marked[0].output_map.detach()))


def test_marked_images_carry_the_key_and_stay_near(marked):
    assert marked[1].psnr >= 36
    assert marked[1].found >= 0.9
    assert weight_key.detect(list(shown(marked)), SECRET).found


@pytest.mark.parametrize("edit", ["mirrored", "cropped"])
def test_the_key_is_found_after_edits(marked, edit):
    images = shown(marked)
    images = images[:, :, ::-1] if edit == "mirrored" else images[:, 1:62, 2:63]
    found = weight_key.detect([np.ascontiguousarray(image) for image in images], SECRET)
    assert found.found
    assert found.mirrored == (edit == "mirrored")


def test_other_keys_and_unmarked_images_are_not_found(marked):
    assert not weight_key.detect(list(shown(marked)), b"another secret of 16").found
    assert not weight_key.detect(list(to_bytes(draw(8, 3))), SECRET).found


def test_both_sides_agree_on_key_and_feature():
    assert np.array_equal(mark.key_direction(SECRET, 99), weight_key.key_direction(SECRET, 99))
    for side in (64, 32):
        images = to_bytes(draw(3, 5, side))
        feature = mark.MarkFeature(side)
        ours = F.normalize(feature(torch.from_numpy(images.copy()).permute(0, 3, 1, 2).float()))
        theirs = np.stack([Seen(image, side).at(False, WHOLE) for image in images])
        assert np.abs(ours.numpy() - theirs).max() < 1e-4


def test_random_keys_are_as_unlikely_as_the_bound_says():
    feature = Seen(to_bytes(draw(1, 7))[0], 64).at(False, WHOLE)
    cosines = np.array(
        [feature @ weight_key.key_direction(b"key %06d of sixteen" % n, len(feature)) for n in range(4000)]
    )
    for share in (0.1, 0.01, 0.001):
        assert (weight_key.cap(cosines, len(feature)) <= share).mean() <= share


def test_the_rough_look_at_all_places_is_the_exact_one_but_for_a_length():
    seen, sides = Seen(to_bytes(draw(1, 7))[0], 64), weight_key.SIDES
    places, shares = weight_key.searched()
    direction = weight_key.key_direction(SECRET, len(seen.at(False, WHOLE))).astype(np.float32)
    rough = seen.rough(direction, sides).ravel()
    exact = np.array([seen.at(*place) @ direction for place in places])
    assert np.abs(rough[0] - exact[0]) < 1e-5
    assert np.abs(rough - exact).max() < 0.1 * np.abs(exact).max() + 1e-3
    assert abs(shares.sum() - 1) < 1e-9


def test_the_rewritten_generator_adds_the_map(marked):
    from icgan_export.rewrite.choice import Rewrites
    from icgan_export.rewrite.whole import rewrite

    generator = marked[0]
    noise = torch.randn(2, CONFIG.dim_z)
    embedding = F.normalize(torch.randn(2, CONFIG.embedding_dim or 0))
    with torch.no_grad():
        expected = generator(noise, embedding)
        found = rewrite(generator, Rewrites.best(CONFIG))(noise, embedding)
    assert torch.allclose(found, expected, atol=1e-4)
    assert (expected - lively_generator(CONFIG)(noise, embedding)).abs().max() > 0.01


def test_a_marked_generator_is_not_marked_again(marked):
    with pytest.raises(ConfigError, match="has a key already"):
        mark.mark_generator(marked[0], draw, SECRET)


def test_a_short_key_is_refused(tiny_run, tmp_path, capsys):
    key = tmp_path / "key.txt"
    key.touch(0o600)
    key.write_text("short")
    assert main(["mark", str(tiny_run), "--key", str(key), "--out", str(tmp_path / "out")]) == 1
    assert "16 are needed" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_detect_says_what_it_found_by_its_status(marked, tmp_path, capsys):
    key = tmp_path / "key.txt"
    key.touch(0o600)
    key.write_bytes(SECRET)
    paths = []
    for number, image in enumerate(shown(marked, 4)):
        paths.append(tmp_path / f"{number}.png")
        paths[-1].write_bytes(encode(image))
    assert icgan(["detect", *map(str, paths), "--key", str(key), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["found"]
    key.write_bytes(b"another secret of 16")
    assert icgan(["detect", *map(str, paths), "--key", str(key)]) == 4
    assert "not found" in capsys.readouterr().out


@pytest.fixture
def mark_tiny(tiny_run, make_prepared, tmp_path, monkeypatch):
    """Marks a run by the command, in a few steps; returns the folder that it wrote."""
    config = json.loads((tiny_run / "config.json").read_text())["model"]
    data = make_prepared(count=40, resolution=config["resolution"], embedding_dim=config["embedding_dim"])
    monkeypatch.setattr(mark, "POOL", 64)
    monkeypatch.setattr(mark.mark_generator, "__defaults__", (None, 2))
    key = tmp_path / "key.txt"
    key.touch(0o600)
    key.write_bytes(SECRET)

    def run(source, out):
        assert main(["mark", str(source), "--key", str(key), "--data", str(data), "--out", str(out)]) == 0
        return out

    return run


def test_a_run_is_marked_as_a_whole(tiny_run, mark_tiny, tmp_path):
    out = mark_tiny(tiny_run, tmp_path / "marked")
    described = json.loads((out / "config.json").read_text())
    assert described["model"]["output_map"]
    assert (out / "encoder.safetensors").read_bytes() == (tiny_run / "encoder.safetensors").read_bytes()
    assert SECRET not in b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())


def test_a_run_that_shares_its_encoder_is_marked_with_a_copy_of_it(tiny_run, mark_tiny, tmp_path):
    from icgan_training.fit.run import open_encoder, read_config
    from icgan_training.networks.encoder import encoder_bytes

    source = tmp_path / "models" / "shared"
    shutil.copytree(tiny_run, source)
    (tmp_path / "models" / "encoders").mkdir()
    (source / "encoder.safetensors").rename(tmp_path / "models" / "encoders" / "one.safetensors")
    config = read_config(tiny_run)
    encoder, _ = open_encoder(tiny_run, config)
    described = config | {"encoder": {"sha256": sha256(encoder_bytes(encoder)).hexdigest()}}
    (source / "config.json").write_text(json.dumps(described))
    note = {"file": "../encoders/one.safetensors", "input_size": encoder.config.input_size}
    (source / "encoder.json").write_text(json.dumps(note))
    out = mark_tiny(source, tmp_path / "elsewhere" / "marked")
    assert not (out / "encoder.json").exists()
    assert open_encoder(out, read_config(out))[1] == open_encoder(source, read_config(source))[1]
