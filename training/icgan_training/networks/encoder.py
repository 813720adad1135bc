"""The encoder: pictures in, unit embeddings out; its weights file; readers for the published weights.

An encoder file is safetensors whose metadata entry `config` holds an `EncoderConfig` as JSON. Everything the
network needs to be run right (input size, normalisation, stride variant) is in the file, so swapping the
encoder never changes code.
"""

import dataclasses
import json
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from icgan_runtime.errors import MissingExtraError
from icgan_runtime.files import atomic_file
from icgan_training.errors import WeightsError
from icgan_training.networks.efficientnet import EMBEDDING_DIM as EFFICIENTNET_LITE0_DIM
from icgan_training.networks.efficientnet import EfficientNetLite0
from icgan_training.networks.resnet import EMBEDDING_DIM as RESNET50_DIM
from icgan_training.networks.resnet import ResNet50, StridePlace
from icgan_training.networks.timm_encoder import PREFIX as TIMM
from icgan_training.networks.timm_encoder import (
    RESIZES,
    describe,
    read_timm_weights,
    timm_backbone,
    timm_first_convolution,
)

SCHEMA_VERSION = 1
ONNX = "onnx:"
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
Network = TypeVar("Network", bound=nn.Module)
EMBEDDING_DIMS = {"resnet50": RESNET50_DIM, "efficientnet-lite0": EFFICIENTNET_LITE0_DIM}


@dataclass(frozen=True)
class EncoderConfig:
    """What turns a weights file into an encoder."""

    architecture: str  # one of EMBEDDING_DIMS, timm:NAME, or onnx:NAME, whose graph is in the file
    embedding_dim: int  # D, columns of the embedding
    input_size: int  # pictures are enlarged to this side, in pixels, before the network
    mean: tuple[float, float, float]  # RGB, on the [0, 1] scale
    std: tuple[float, float, float]
    stride_place: StridePlace = "3x3"  # ResNet only
    source: str = ""  # where the weights come from, for people
    licence: str = ""
    resize: str = "bicubic"  # how pictures are enlarged, one of RESIZES

    @property
    def is_graph(self) -> bool:
        """Whether the network is an ONNX graph rather than weights of an architecture."""
        return self.architecture.startswith(ONNX)

    def __post_init__(self) -> None:
        if self.resize not in RESIZES:
            raise WeightsError(f"encoder resize is {self.resize!r}, known: {', '.join(RESIZES)}")
        if self.is_graph or self.architecture.startswith(TIMM):
            return  # its width is compared when it is built
        expected = EMBEDDING_DIMS.get(self.architecture)
        if expected is None:
            raise WeightsError(
                f"encoder architecture {self.architecture!r} is unknown; known: {', '.join(EMBEDDING_DIMS)},"
                f" {TIMM}NAME"
            )
        if self.embedding_dim != expected:
            raise WeightsError(
                f"encoder embedding_dim is {self.embedding_dim}, {self.architecture} gives {expected}"
            )


class Encoder(nn.Module):
    """uint8 RGB pictures [N, S, S, 3] of any S -> embeddings float32 [N, D], unit rows.

    The published protocol (IC-GAN, section 4.1): the picture already reduced to the model's resolution S is
    enlarged bicubically (align_corners=False, no clamping) to the network's own input size and normalised;
    the pooled feature is divided by its Euclidean norm. backbone: a network that has its weights already.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: EncoderConfig, backbone: nn.Module | None = None) -> None:
        super().__init__()
        self.config = config
        self.backbone = _backbone(config) if backbone is None else backbone
        self.register_buffer("mean", torch.tensor(config.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        x = image.permute(0, 3, 1, 2).float() / 255  # [N, 3, S, S] in [0, 1]; channels stay last in memory
        size = self.config.input_size
        if image.shape[1] != size:
            x = F.interpolate(x, size=(size, size), mode=self.config.resize, align_corners=False)
        feature = self.backbone((x - self.mean) / self.std)
        return F.normalize(feature.float(), dim=1)


def _backbone(config: EncoderConfig) -> nn.Module:
    if config.architecture == "resnet50":
        return ResNet50(config.stride_place)
    if config.architecture == "efficientnet-lite0":
        return EfficientNetLite0()
    if config.is_graph:
        raise WeightsError(f"encoder {config.architecture} is a graph of its own: it has no other weights")
    return timm_backbone(config.architecture.removeprefix(TIMM), config.input_size)


def random_encoder(config: EncoderConfig, seed: int = 0) -> Encoder:
    """An untrained encoder (He initialisation), for baselines and tests; the global random state is kept."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = Encoder(config)
        for module in encoder.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return encoder.eval()


def save_encoder(encoder: Encoder, path: Path) -> None:
    """Write the weights and the config to one safetensors file, through a temporary sibling."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as partial:
        partial.write_bytes(encoder_bytes(encoder))


def encoder_bytes(encoder: Encoder) -> bytes:
    """The content of an encoder file: equal encoders give equal bytes, and so one identity."""
    config = {"schema_version": SCHEMA_VERSION, **dataclasses.asdict(encoder.config)}
    if encoder.config.resize == "bicubic":
        del config["resize"]  # files from before it keep their bytes, and so their identity
    tensors = {key: value.contiguous() for key, value in encoder.backbone.state_dict().items()}
    return save(tensors, metadata={"config": json.dumps(config)})


def read_encoder_config(path: Path) -> EncoderConfig:
    """The config of an encoder file, without reading its tensors. Raises WeightsError."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except FileNotFoundError as error:
        raise WeightsError(f"encoder file {path} does not exist") from error
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is not a readable safetensors file: {error}") from error
    if "config" not in metadata:
        raise WeightsError(f"{path} carries no encoder config: it was not written by icgan-train")
    try:
        fields: dict[str, Any] = json.loads(metadata["config"])
        version = fields.pop("schema_version", None)
    except (ValueError, RecursionError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path}: its encoder config cannot be read: {error}") from error
    if version != SCHEMA_VERSION:
        raise WeightsError(
            f"{path}: encoder schema_version is {version}, this program reads {SCHEMA_VERSION}"
        )
    try:
        return EncoderConfig(**fields | {key: tuple(fields[key]) for key in ("mean", "std")})
    except (KeyError, TypeError) as error:
        raise WeightsError(f"{path}: encoder config has wrong fields: {error}") from error


def load_encoder(path: Path | str) -> Encoder:
    """Read an encoder file strictly; the result is in eval mode, float32. Raises WeightsError."""
    path = Path(path)
    config = read_encoder_config(path)
    with safe_open(path, framework="pt") as file:
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    if config.is_graph:
        return Encoder(config, _stored_graph(config, state, path)).eval()
    encoder = Encoder(config)
    load_backbone(encoder, {key: value.float() for key, value in state.items()}, path)
    return encoder.eval()


def _stored_graph(config: EncoderConfig, state: Mapping[str, Tensor], path: Path) -> nn.Module:
    try:
        from icgan_training.networks.onnx_backbone import stored_backbone
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "onnx", "export") from error
    return stored_backbone(state, config.input_size, config.embedding_dim, path)


def load_backbone(encoder: Encoder, state: Mapping[str, Tensor], origin: Path) -> None:
    """Load `state` strictly: every tensor used, none missing; batch norm's counters do not matter.

    Raises WeightsError, which names `origin`, for one that does not fit.
    """
    wanted = {key for key in encoder.backbone.state_dict() if not key.endswith("num_batches_tracked")}
    given = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    missing, unexpected = sorted(wanted - given.keys()), sorted(given.keys() - wanted)
    if missing or unexpected:
        raise WeightsError(
            f"{origin} does not fit {encoder.config.architecture}: "
            f"missing {_some(missing)}; unexpected {_some(unexpected)}"
        )
    try:
        encoder.backbone.load_state_dict(given, strict=False)
    except RuntimeError as error:  # shapes
        raise WeightsError(f"{origin} does not fit {encoder.config.architecture}: {error}") from error


def _some(keys: list[str]) -> str:
    if not keys:
        return "none"
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def resnet50_from_torch(path: Path, *, source: str, licence: str) -> Encoder:
    """Read the three kinds of ResNet-50 files the published models were trained with.

    * torchvision: a flat state dict;
    * SwAV: flat, keys behind `module.`, with `projection_head.*` and `prototypes.*` that are not used;
    * classifier-balancing: the network under `["state_dict_best"]["feat_model"]`, keys behind `module.`,
      sometimes with a further `_feature_blocks.`.

    The file is opened with `weights_only=True`: code inside it never runs. Raises WeightsError.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch remarks on pickle protocols; the errors below say enough
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise WeightsError(f"weights file {path} does not exist") from error
    # torch reports broken files with many types, all of them the file's fault, and would have code in it run
    except Exception as error:
        raise WeightsError(
            f"{path} is not a plain torch state dict: it is damaged, of another kind, or carries code"
        ) from error
    for key in ("state_dict_best", "feat_model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(f"{path} is not a plain torch state dict: expected a mapping of names to tensors")
    state: dict[str, Tensor] = {}
    for key, value in content.items():
        name = key.removeprefix("module.").removeprefix("_feature_blocks.")
        if not name.startswith(("projection_head.", "prototypes.", "fc.")):
            state[name] = value.float()
    config = EncoderConfig(
        "resnet50", RESNET50_DIM, 224, IMAGENET_MEAN, IMAGENET_STD, source=source, licence=licence
    )
    encoder = Encoder(config)
    load_backbone(encoder, state, path)
    return encoder.eval()


def encoder_from_timm(architecture: str, weights: Path | None, input_size: int | None = None) -> Encoder:
    """`timm:NAME` with the weights of a file, and preprocessing as timm describes it.

    input_size: the side that pictures are enlarged to; None takes timm's. Raises WeightsError for an unknown
    name, preprocessing that ours cannot be, or a file of another model; MissingExtraError without timm.
    """
    name = architecture.removeprefix(TIMM)
    if weights is None:
        raise WeightsError(f"--encoder {architecture} needs the file of its weights: --weights FILE")
    given = describe(name)
    size = input_size or given.input_size
    config = EncoderConfig(
        architecture,
        given.embedding_dim,
        size,
        given.mean,
        given.std,
        source=f"{architecture}, {weights.name}",
        licence="see the origin of the file",
        resize=given.resize,
    )
    encoder = Encoder(config, read_timm_weights(name, weights, size)).eval()
    try:
        with torch.inference_mode():
            found = encoder(torch.zeros(1, size, size, 3, dtype=torch.uint8)).shape
    except (RuntimeError, ValueError, AssertionError) as error:
        raise WeightsError(f"{architecture} does not run on pictures of {size} px: {error}") from error
    if found != (1, given.embedding_dim):
        raise WeightsError(
            f"{architecture} gives {list(found[1:])} numbers for a picture, timm says {given.embedding_dim}:"
            " it is no encoder of one vector"
        )
    return encoder


def bind_encoder(path: Path, copy: Path, input_size: int | None = None) -> None:
    """Put the encoder of a file, ours or a torch ResNet-50 state dict, at `copy`, in our format.

    A file of ours keeps its bytes, and so its identity. input_size: the side that pictures are enlarged to;
    None keeps what the file says. Raises WeightsError for anything that is not an encoder.
    """
    ours = path.suffix == ".safetensors"
    network = (
        load_encoder(path)
        if ours
        else resnet50_from_torch(path, source=path.name, licence="see the origin of the file")
    )
    if ours and input_size is None:
        shutil.copyfile(path, copy)
        return
    if input_size is not None:
        if network.config.is_graph and input_size != network.config.input_size:
            raise WeightsError(
                f"--input-size is {input_size}, the graph in {path} takes {network.config.input_size}:"
                " prepare with the ONNX file that it is from"
            )
        network.config = dataclasses.replace(network.config, input_size=input_size)
    save_encoder(network, copy)


def first_convolution(encoder: Encoder) -> nn.Conv2d | None:
    """The layer that sees the picture; None where scales of the picture cannot move into its weights."""
    if encoder.config.architecture.startswith(TIMM):
        return timm_first_convolution(encoder.backbone)
    return next(module for module in encoder.backbone.modules() if isinstance(module, nn.Conv2d))


def fold_batch_norm(network: Network) -> Network:
    """The same function with every batch norm folded into the convolution before it, channels last in memory.

    Changes the network, which is in eval mode, in place; 1.6 times the encoders' speed on a CPU, results
    equal to float rounding. Networks of timm are left as they are: the order in which they name their layers
    need not be that in which they run.
    """
    of_timm = {part for top in network.modules() if hasattr(top, "pretrained_cfg") for part in top.modules()}
    for parent in [module for module in network.modules() if module not in of_timm]:
        for (conv_name, conv), (norm_name, norm) in pairwise(list(parent.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, conv_name, fuse_conv_bn_eval(conv, norm))
                setattr(parent, norm_name, nn.Identity())
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
