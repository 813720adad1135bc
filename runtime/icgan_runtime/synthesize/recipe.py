"""What decides the bytes of a run's shards, and how the run is cut into units of work.

Two workers with the same recipe write the same bytes, and a shard is named by the recipe and its number: a
shard that is there is done, whoever wrote it, and one that is lost is made again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import features

from icgan_runtime import files
from icgan_runtime.bundle.strict_json import digest, parse, to_json
from icgan_runtime.errors import BundleError, MissingExtraError, RequestError
from icgan_runtime.latents import MAX_SEED
from icgan_runtime.request import check_truncation
from icgan_runtime.rows import CONDITIONS

FORMAT, SCHEMA_VERSION = "icgan-variants", 1
NAME = "recipe.json"
FORMATS = {"webdataset": ".tar", "parquet": ".parquet", "files": ""}
IMAGES = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}
MOST_CANDIDATES = 1_000_000  # samples of one instance


@dataclass(frozen=True)
class Unit:
    """A unit of work: some samples of some instances, which become one shard."""

    number: int
    instances: range
    samples: range  # those written without a choice; with one, all `per` of them


@dataclass(frozen=True)
class Settings:
    """How the variants are drawn and written, as it was asked for. RequestError for what is out of range."""

    per: int = 10  # variants of each instance
    best_of: int | None = None  # candidates of each instance, of which the best `per` are kept
    scorer: str = "none"  # "none", "similarity", or the SHA-256 of an ONNX scorer
    seed: int = 0
    truncation: float | None = 1.0
    condition: str = "query"
    labels: str = "own"  # a rule of labels.RULES, a class, or the SHA-256 of a file
    format: str = "webdataset"
    image: str = "png"
    mark: bool = True
    shard: int = 1000  # variants in a shard, or some less

    def check(self) -> None:
        """Raise RequestError naming the first setting that is out of range."""
        most = self.best_of or MOST_CANDIDATES
        for field, value, low, high in (
            ("per", self.per, 1, MOST_CANDIDATES),
            ("best-of", most, 1, MOST_CANDIDATES),
            ("seed", self.seed, 0, MAX_SEED),
            ("shard", self.shard, 1, MOST_CANDIDATES),
        ):
            if not low <= value <= high:
                raise RequestError(field, f"{value}, expected {low}..{high}")
        if self.per > most:
            raise RequestError("best-of", f"{most}, fewer than the {self.per} of --per that are to be kept")
        check_truncation(self.truncation)
        for field, text, known in (
            ("condition", self.condition, CONDITIONS),
            ("format", self.format, tuple(FORMATS)),
            ("image", self.image, tuple(IMAGES)),
        ):
            if text not in known:
                raise RequestError(field, f"{text!r}, expected one of {', '.join(known)}")


@dataclass(frozen=True)
class Recipe:
    """All that the bytes of a run's shards depend on."""

    model: Mapping[str, str]  # name, version, identity, and hashes of what draws
    programs: Mapping[str, str]  # what computes and encodes, with versions: others may round otherwise
    source: str  # what kind of instances
    instances: int
    instances_sha256: str
    class_names: tuple[str, ...] | None  # of the labels, where they are known
    licence: str  # of the weights
    resolution: int  # R, side of an image
    batch: int  # rows of one run of the generator
    settings: Settings

    @property
    def id(self) -> str:
        """The first 16 hex digits of the recipe's SHA-256, which name its shards."""
        return digest(to_json(self))[:16]

    @property
    def instances_per_unit(self) -> int:
        """How many instances a shard holds."""
        return max(1, self.settings.shard // self.settings.per)

    @property
    def parts(self) -> int:
        """Shards that the samples of one instance are spread over; one where the best are chosen."""
        if self.settings.best_of is not None:
            return 1
        return max(1, -(-self.settings.per // self.settings.shard))

    @property
    def units(self) -> int:
        """How many units there are."""
        return -(-self.instances // self.instances_per_unit) * self.parts

    @property
    def variants(self) -> int:
        """How many variants there will be, where no instance is skipped."""
        return self.instances * self.settings.per

    def unit(self, number: int) -> Unit:
        """One unit of range(units)."""
        block, part = divmod(number, self.parts)
        first = block * self.instances_per_unit
        instances = range(first, min(first + self.instances_per_unit, self.instances))
        settings = self.settings
        if self.parts == 1:
            return Unit(number, instances, range(settings.per))
        start = part * settings.shard
        return Unit(number, instances, range(start, min(start + settings.shard, settings.per)))

    def shard_name(self, number: int) -> str:
        """Of a unit's shard. All have the same length, so that `{00000000..00000042}` names several."""
        return f"{self.id}-{number:08}{FORMATS[self.settings.format]}"

    def skipped_name(self, number: int) -> str:
        """Of the list of a unit's instances that could not be read, which is there if there are any."""
        return f"{self.id}-{number:08}.skipped.jsonl"

    def write(self, folder: Path) -> None:
        """Write recipe.json, or RequestError where another recipe is there already."""
        if (folder / NAME).exists():
            other = read_recipe(folder)
            if other == self:
                return
            mine, theirs = _flat(self), _flat(other)
            differing = sorted(key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key))
            raise RequestError(
                "out",
                f"{folder} holds variants of another recipe ({', '.join(differing)}): name another folder",
            )
        fields = {"format": FORMAT, "schema_version": SCHEMA_VERSION, **to_json(self)}
        text = json.dumps(fields, indent=1) + "\n"
        files.write_whole(folder / NAME, text.encode(), "out")


def read_recipe(folder: Path) -> Recipe:
    """The recipe of a folder of variants. RequestError where there is none or it cannot be read."""
    try:
        data = files.read_bounded(folder / NAME, 64 << 20)
        recipe: Recipe = parse(Recipe, data, NAME, FORMAT, SCHEMA_VERSION)
    except BundleError as error:
        raise RequestError("out", f"{folder} holds no recipe of variants ({error})") from None
    recipe.settings.check()
    return recipe


def instance_seed(seed: int, instance: str) -> int:
    """The noise seed of an instance: 63 bits of SHA-256, so that each has noise of its own.

    It depends on the instance's id alone: the variants stay when others join the data set or leave it.
    """
    text = f"{seed}:{instance}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


def programs(settings: Settings, backend: str) -> dict[str, str]:
    """The libraries that decide bytes, with their versions: what computes, and what encodes."""
    import PIL

    # the pictures of a folder are decoded by Pillow's libraries, too
    found = {"backend": backend, "pillow": PIL.__version__}
    found["libjpeg"] = str(features.version("libjpeg_turbo") or features.version("jpg"))
    if settings.image == "png":
        found["zlib"] = zlib.ZLIB_RUNTIME_VERSION
    if settings.image == "webp":
        found["webp"] = str(features.version("webp"))
    if backend.startswith("ort"):
        import importlib.metadata

        held = [name for name in ("onnxruntime", "onnxruntime-gpu") if _is_installed(name)]
        found["onnxruntime"] = importlib.metadata.version(held[0]) if held else "unknown"
    if settings.format == "parquet":
        try:
            import pyarrow
        except ImportError:
            raise MissingExtraError("pyarrow", "parquet") from None
        found["pyarrow"] = str(pyarrow.__version__)
    return found


def _is_installed(name: str) -> bool:
    import importlib.metadata

    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _flat(value: Any) -> dict[str, Any]:
    """Every field of a recipe by its own name, those within others too."""
    found: dict[str, Any] = {}
    for item in dataclasses.fields(value):
        held = getattr(value, item.name)
        if dataclasses.is_dataclass(held):
            found |= _flat(held)
        elif isinstance(held, Mapping):
            found |= {f"{item.name} {key}": one for key, one in held.items()}
        else:
            found[item.name] = held
    return found
