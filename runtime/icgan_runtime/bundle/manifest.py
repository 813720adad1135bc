"""The bundle's table of contents: what `manifest.json` says, as frozen dataclasses.

`docs/format.md` states the format for other programs. The reader owns it: export writes bundles through these
classes, so the schema exists once. Reading is strict: an unknown key, a missing key, a wrong type
(`strict_json.py`) or a value out of range is refused with its place in the file.

How the parts are bound together:

- `Model.encoder_id` is the SHA-256 of the encoder's identity and the preprocessing before it. Encoder,
  lookup and generator graphs and the bank all carry it, because embeddings mean nothing outside the space
  they were made in.
- `Model.identity` is the SHA-256 of the whole `model` section. Every ONNX file carries it in its metadata
  (`ONNX_IDENTITY_KEY`), so a graph that was swapped in together with its hash is still found out.
- `files` holds size and SHA-256 of every file; nothing is used before its bytes have been hashed.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from icgan_runtime import files
from icgan_runtime.bundle.strict_json import LATER, Json, digest, parse, to_json
from icgan_runtime.errors import BindingError, BundleError
from icgan_runtime.identity import CENTRE, CROPS, EncoderIdentity, FileEntry

FORMAT = "icgan-bundle"
SCHEMA_VERSIONS = (1, 2)  # that this runtime reads; the first knows one meaning of truncation
TRUNCATIONS = ("noise", "mean-w")
MANIFEST_NAME = "manifest.json"
SAMPLES_NAME = "samples.npz"
ONNX_IDENTITY_KEY = "icgan.identity"
ROLES = ("encoder", "lookup", "generator")
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
DTYPES = ("uint8", "int64", "float32")  # of public tensors, at every precision

MAX_MANIFEST_BYTES = 8 << 20
MAX_FILE_BYTES = 16 << 30
MAX_RESOLUTION = 2048
MAX_WIDTH = 1 << 16  # of noise, embedding and class tables
MAX_NEIGHBOURS = 1024
_VERSION = r"[0-9]+(\.[0-9A-Za-z]+)*"


@dataclass(frozen=True)
class TensorSpec:
    """Name, dtype (one of DTYPES) and shape of a graph's tensor; a named dimension is dynamic."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Preprocessing:
    """How a decoded picture becomes the encoder graph's input, uint8 [N, size, size, 3]."""

    size: int
    orientation: str = "exif"
    alpha: str = "white"
    crop: str = CENTRE
    resize: str = "pillow-bilinear"
    colour: str = "rgb"


@dataclass(frozen=True)
class Licence:
    """The weights' licence: an SPDX expression (or a plain name) and what a user has to know about it."""

    weights: str
    notice: str = ""


@dataclass(frozen=True)
class Model:
    """What every part of the bundle must agree on."""

    name: str
    version: str
    resolution: int  # R, side of the generated image
    dim_z: int  # width of the noise
    embedding_dim: int  # D
    classes: int  # 0 for a model without labels
    class_names: tuple[str, ...] | None
    encoder: EncoderIdentity
    preprocessing: Preprocessing
    licence: Licence
    # One of TRUNCATIONS: what t bounds. "noise": normal noise within ±2t. "mean-w": the noise is not bounded,
    # and the generator takes t, by which it pulls its latent w towards the mean w (psi of StyleGAN).
    truncation: str = field(default="noise", metadata={LATER: True})

    @cached_property
    def encoder_id(self) -> str:
        """SHA-256 of encoder and preprocessing: the name of the embedding space."""
        return digest({"encoder": to_json(self.encoder), "preprocessing": to_json(self.preprocessing)})

    @cached_property  # every result says it
    def identity(self) -> str:
        """SHA-256 of this whole section."""
        return digest(to_json(self))


@dataclass(frozen=True)
class KeptNode:
    """A node that stays in FP32 inside a lower-precision graph, and why."""

    node: str
    reason: str


@dataclass(frozen=True)
class GraphEntry:
    """One ONNX file: what it computes, at which precision, and for which embedding space."""

    role: str  # one of ROLES
    precision: str  # one of PRECISIONS
    file: str
    opset: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    encoder_id: str
    kept_fp32: tuple[KeptNode, ...] = ()


@dataclass(frozen=True)
class BankEntry:
    """The stored instances: `bank/` holds embeddings, ids, optional labels and thumbnails (see bank.py)."""

    encoder_id: str
    count: int
    neighbours: int  # k of search results and of the lookup graph
    labelled: bool
    thumbnail_size: int | None
    source: str  # the data set, for people
    licence: str  # of the pictures behind the thumbnails


@dataclass(frozen=True)
class EngineEntry:
    """A TensorRT plan, built for one compute capability and one TensorRT version."""

    role: str
    precision: str
    file: str  # engines/<sm>-trt<version>/...
    compute_capability: str  # "sm90"
    tensorrt_version: str  # "10.14.1"
    max_batch: int
    encoder_id: str


@dataclass(frozen=True)
class Manifest:
    """Everything `manifest.json` says. Build it, then `write`; `read` gives back an equal value.

    `provenance`, `metrics`, `parity` and `bench` are reports for people and dashboards: any JSON object
    without NaN. Nothing in the runtime depends on them.
    """

    model: Model
    graphs: tuple[GraphEntry, ...]
    bank: BankEntry
    files: Mapping[str, FileEntry]
    engines: tuple[EngineEntry, ...] = ()
    provenance: Json = field(default_factory=dict)
    metrics: Json = field(default_factory=dict)
    parity: Json = field(default_factory=dict)
    bench: Json = field(default_factory=dict)

    @classmethod
    def read(cls, bundle: str | Path) -> Manifest:
        """Read and validate `bundle/manifest.json`. Raises BundleError naming the place in the file."""
        root = Path(bundle)
        if not root.is_dir():
            found = "not a folder" if root.exists() else "no such folder"
            raise BundleError(str(bundle), f"{found}; expected a bundle written by `icgan-export bundle`")
        if not (root / MANIFEST_NAME).exists():
            raise BundleError(
                str(bundle), f"holds no {MANIFEST_NAME}; expected a bundle written by `icgan-export bundle`"
            )
        text = files.read_bounded(files.locate(root, MANIFEST_NAME), MAX_MANIFEST_BYTES, MANIFEST_NAME)
        return cls.from_bytes(text)

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Parse and validate the text of a manifest."""
        manifest: Manifest = parse(cls, data, MANIFEST_NAME, FORMAT, *SCHEMA_VERSIONS)
        manifest.validate()
        said = json.loads(data)["schema_version"]
        if said != manifest.schema_version:
            raise BundleError(
                MANIFEST_NAME, f"schema_version {said} with model.truncation {manifest.model.truncation!r}"
            )
        return manifest

    @property
    def schema_version(self) -> int:
        """The first version of the format that can say what this manifest says."""
        return 1 if self.model.truncation == "noise" else 2

    def to_bytes(self) -> bytes:
        """The manifest's text: UTF-8 JSON, keys in a fixed order, so that equal manifests are equal bytes."""
        value = {"format": FORMAT, "schema_version": self.schema_version, **to_json(self)}
        return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()

    def write(self, bundle: str | Path) -> None:
        """Validate, then write `bundle/manifest.json` atomically."""
        self.validate()
        with files.atomic_file(Path(bundle) / MANIFEST_NAME) as path:
            path.write_bytes(self.to_bytes())

    def graph(self, role: str, precision: str | None = None) -> GraphEntry:
        """The graph of `role`, at `precision` or at the highest precision there is."""
        held = {entry.precision: entry for entry in self.graphs if entry.role == role}
        for wanted in (precision,) if precision else PRECISIONS:
            if wanted in held:
                return held[wanted]
        raise BundleError(
            MANIFEST_NAME, f"no {role} graph at {precision or 'any precision'}; the bundle has {sorted(held)}"
        )

    def specs(self, role: str) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """Inputs and outputs that docs/format.md prescribes for a graph of `role` in this bundle."""
        return graph_specs(self.model, role, self.bank.neighbours)

    def validate(self) -> None:
        """Raise BundleError (BindingError for parts that do not belong together) unless all is consistent."""
        model = self.model
        _validate_model(model)
        for name, entry in self.files.items():
            if not files.is_safe_name(name) or name == MANIFEST_NAME:
                raise BundleError(MANIFEST_NAME, f"files: {name!r} is not a plain relative file name")
            _in_range(f"files.{name}.bytes", entry.bytes, 0, MAX_FILE_BYTES)
            _hex(f"files.{name}.sha256", entry.sha256)
        bank = self.bank
        _in_range("bank.count", bank.count, 1, 1 << 32)
        _in_range("bank.neighbours", bank.neighbours, 1, min(MAX_NEIGHBOURS, bank.count))
        if bank.thumbnail_size is not None:
            _in_range("bank.thumbnail_size", bank.thumbnail_size, 1, MAX_RESOLUTION)
        _must_match("bank", bank.encoder_id, model)
        seen = set()
        for graph in self.graphs:
            where = f"graphs[{graph.role} {graph.precision}]"
            _one_of(f"{where}.role", graph.role, ROLES)
            _one_of(f"{where}.precision", graph.precision, PRECISIONS)
            _in_range(f"{where}.opset", graph.opset, 17, 30)
            self._must_list(where, graph.file)
            _must_match(graph.file, graph.encoder_id, model)
            if (graph.role, graph.precision) in seen:
                raise BundleError(MANIFEST_NAME, f"{where}: listed twice")
            seen.add((graph.role, graph.precision))
            expected = self.specs(graph.role)
            if (graph.inputs, graph.outputs) != expected:
                raise BundleError(
                    MANIFEST_NAME,
                    f"{where}: computes {show_specs(graph.inputs)} -> {show_specs(graph.outputs)}, "
                    f"the format says {show_specs(expected[0])} -> {show_specs(expected[1])}",
                )
        for role in ("encoder", "generator"):  # a large bank has no lookup graph
            self.graph(role)
        for engine in self.engines:
            where = f"engines[{engine.file}]"
            _one_of(f"{where}.role", engine.role, ROLES)
            _one_of(f"{where}.precision", engine.precision, PRECISIONS)
            _in_range(f"{where}.max_batch", engine.max_batch, 1, 4096)
            # both become part of a file's name in a model repository
            _spelt(f"{where}.compute_capability", engine.compute_capability, r"sm[0-9]{2,3}", "sm90")
            _spelt(f"{where}.tensorrt_version", engine.tensorrt_version, _VERSION, "10.14.1")
            self._must_list(where, engine.file)
            _must_match(engine.file, engine.encoder_id, model)

    def _must_list(self, where: str, name: str) -> None:
        if name not in self.files:
            raise BundleError(MANIFEST_NAME, f"{where}: {name!r} is not among the files")


def graph_specs(
    model: Model, role: str, neighbours: int
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """(inputs, outputs) of a graph of `role` as docs/format.md says, with the batch axis named "N"."""
    embedding = TensorSpec("embedding", "float32", ("N", model.embedding_dim))
    if role == "encoder":
        side = model.preprocessing.size
        return (TensorSpec("image", "uint8", ("N", side, side, 3)),), (embedding,)
    if role == "lookup":
        ids = TensorSpec("ids", "int64", ("N", neighbours))
        return (embedding,), (ids, TensorSpec("scores", "float32", ("N", neighbours)))
    if role == "generator":
        inputs = [TensorSpec("noise", "float32", ("N", model.dim_z)), embedding]
        if model.classes:
            inputs.append(TensorSpec("label", "int64", ("N",)))
        if model.truncation == "mean-w":
            inputs.append(TensorSpec("truncation", "float32", ("N",)))
        side = model.resolution
        return tuple(inputs), (TensorSpec("image", "uint8", ("N", side, side, 3)),)
    raise ValueError(f"role {role!r}, expected one of {ROLES}")


def onnx_metadata(model: Model, role: str, precision: str) -> dict[str, str]:
    """The metadata every ONNX file of a bundle carries."""
    return {
        "icgan.name": model.name,
        "icgan.version": model.version,
        "icgan.role": role,
        "icgan.precision": precision,
        "icgan.resolution": str(model.resolution),
        "icgan.dim_z": str(model.dim_z),
        "icgan.embedding_dim": str(model.embedding_dim),
        "icgan.classes": str(model.classes),
        "icgan.licence": model.licence.weights,
        ONNX_IDENTITY_KEY: model.identity,
    }


def check_onnx_metadata(file: str, metadata: Mapping[str, str], model: Model, role: str) -> None:
    """Raise BindingError unless an ONNX file's metadata says it is `model`'s graph of `role`."""
    found = metadata.get("icgan.role"), metadata.get(ONNX_IDENTITY_KEY)
    if found[1] != model.identity:
        made_for = metadata.get("icgan.name", "no bundle at all")
        raise BindingError(
            file, f"made for {made_for} (identity {found[1]}), not for {model.name} ({model.identity})"
        )
    if found[0] != role:
        raise BindingError(file, f"its metadata calls it the {found[0]} graph, the manifest the {role} graph")


def describe_file(path: Path) -> FileEntry:
    """The entry for a finished file."""
    return FileEntry(path.stat().st_size, files.sha256_of_file(path))


def describe_files(bundle: Path) -> dict[str, FileEntry]:
    """Entries for every file under `bundle` but the manifest, in sorted order."""
    found = sorted(path for path in bundle.rglob("*") if path.is_file() and path != bundle / MANIFEST_NAME)
    return {path.relative_to(bundle).as_posix(): describe_file(path) for path in found}


def _validate_model(model: Model) -> None:
    _in_range("model.resolution", model.resolution, 4, MAX_RESOLUTION)
    _in_range("model.dim_z", model.dim_z, 1, MAX_WIDTH)
    _in_range("model.embedding_dim", model.embedding_dim, 1, MAX_WIDTH)
    _in_range("model.classes", model.classes, 0, MAX_WIDTH)
    _one_of("model.truncation", model.truncation, TRUNCATIONS)
    if model.class_names is not None and len(model.class_names) != model.classes:
        raise BundleError(
            MANIFEST_NAME, f"model.class_names: {len(model.class_names)} names for {model.classes} classes"
        )
    _hex("model.encoder.sha256", model.encoder.sha256)
    _in_range("model.encoder.input_size", model.encoder.input_size, 1, MAX_RESOLUTION)
    if model.encoder.embedding_dim != model.embedding_dim:
        raise BindingError(
            MANIFEST_NAME,
            f"the generator takes embeddings of width {model.embedding_dim}, "
            f"encoder {model.encoder.name} gives {model.encoder.embedding_dim}",
        )
    _in_range("model.preprocessing.size", model.preprocessing.size, 1, MAX_RESOLUTION)
    known = Preprocessing(model.preprocessing.size)
    for item in dataclasses.fields(Preprocessing):
        _one_of(
            f"model.preprocessing.{item.name}",
            getattr(model.preprocessing, item.name),
            CROPS if item.name == "crop" else (getattr(known, item.name),),
        )


def _must_match(file: str, encoder_id: str, model: Model) -> None:
    if encoder_id != model.encoder_id:
        raise BindingError(
            file,
            f"made for embedding space {encoder_id[:12]}, but encoder {model.encoder.name} with its "
            f"preprocessing spans {model.encoder_id[:12]}; make it again with this encoder",
        )


def _in_range(where: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise BundleError(MANIFEST_NAME, f"{where} is {value}, expected {low}..{high}")


def _one_of(where: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        raise BundleError(MANIFEST_NAME, f"{where} is {value!r}, this runtime knows {list(allowed)}")


def _spelt(where: str, value: str, pattern: str, example: str) -> None:
    if not re.fullmatch(pattern, value):
        raise BundleError(MANIFEST_NAME, f"{where} is {value!r}, expected something like {example}")


def _hex(where: str, value: str) -> None:
    if not re.fullmatch(r"[0-9a-f]{64}", value):
        raise BundleError(MANIFEST_NAME, f"{where} is not a lower-case hex SHA-256")


def show_specs(specs: tuple[TensorSpec, ...]) -> str:
    """Tensors as people write them: "noise float32[N, 120], ..."."""
    return ", ".join(f"{spec.name} {spec.dtype}[{', '.join(map(str, spec.shape))}]" for spec in specs)
