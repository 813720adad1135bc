"""Bundle + `triton_models/` -> a model repository, for a stock Triton image and for an embedded CPU server.

A repository holds releases. A release is one bundle's encoder, preprocessing, bank and generator; models
whose files did not change share a version between releases. `icgan.json` at the root says which versions
belong together, and the ensembles pin those of the current one: a step forward or back is one load of them.
Each model serves the versions of the current release and of the one before, which requests in flight and a
step back need.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from icgan_runtime import files, images
from icgan_runtime.backends.select import read_graph
from icgan_runtime.bundle import arrays
from icgan_runtime.bundle.bank import FOLDER, Bank, embeddings_sha256
from icgan_runtime.bundle.manifest import MANIFEST_NAME, SAMPLES_NAME, EngineEntry, Model
from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.bundle.prior_files import has_prior
from icgan_runtime.bundle.strict_json import from_json, to_json
from icgan_runtime.errors import RepositoryError
from icgan_runtime.marks.claim import Source
from icgan_runtime.prior import FOLDER as PRIOR_FOLDER
from icgan_runtime.rows import CONDITIONS
from icgan_runtime.server import pbtxt as tc
from icgan_runtime.server.changes import changes_file, refuse_changes
from icgan_runtime.server.environment import model_sources
from icgan_runtime.server.models import (
    CANARY_ID,
    ENSEMBLES,
    ServedModel,
    configurations,
    cpu_configurations,
    ensembles,
    runs_staged,
)
from icgan_runtime.server.options import RepositoryOptions
from icgan_runtime.server.stage import RELEASES_NAME
from icgan_runtime.server.watchdog import CANARY_NAME

SOURCE_NAME = "source.json"  # of the stage that writes files
FORMAT = "icgan-triton"
CPU_CONFIG = "cpu"  # what --model-config-name selects on a machine without a GPU

# Which names of samples.npz hold real rows for which graph input, for warm-up.
_SAMPLES = {"image": "picture"} | {name: name for name in ("noise", "embedding", "label", "truncation")}

# The version policy's line in a model's configuration, the one thing there that a release changes.
_VERSIONS = re.compile(r"versions: \[([\d, ]*)\]")

Sources = dict[str, Path | bytes]  # file name in a version folder -> where it comes from
Say = Callable[[str], None]


def write_repository(bundle_path: Path, out: Path, options: RepositoryOptions, say: Say = print) -> None:
    """Write a repository with one release, replacing `out`. Every file of the bundle is verified."""
    bundle = Bundle.open(bundle_path)
    refuse_changes(bundle, options, say)
    served = describe(bundle, options, say)
    with files.atomic_directory(out) as root:
        for name, config in (configurations(served) | ensembles(served, {})).items():
            _write_config(root / name / "config.pbtxt", config)
        for name, config in cpu_configurations(served).items():
            _write_config(root / name / "configs" / f"{CPU_CONFIG}.pbtxt", config)
        for ensemble in ENSEMBLES:
            # a version folder without a file would be lost in git, in object stores and in archives
            (root / ensemble.name / "1").mkdir()
            (root / ensemble.name / "1" / "README").write_text("An ensemble has no files of its own.\n")
        samples = arrays.read_npz(bundle.read(SAMPLES_NAME), SAMPLES_NAME)
        _write_warm_up(samples, served, root)
        (root / CANARY_NAME).write_text(json.dumps(_canary(samples["picture"][0], served)) + "\n")
        digests = {}
        for name, sources in version_sources(bundle, served).items():
            _write_version(root / name / "1", sources)
            digests[name] = {"1": _digest(sources)}
        release = {"release": 1, **_about(bundle), "versions": dict.fromkeys(digests, 1)}
        book = {
            "current": 1,
            "options": dataclasses.asdict(options),
            "releases": [release],
            "digests": digests,
        }
        _write_releases(root, book)


def add_release(bundle_path: Path, repository: Path, say: Say = print) -> list[str]:
    """Add `bundle` to a repository as its next release; returns the models to load, in this order.

    Nothing changes for a running server until it is asked to load them. Requests are answered throughout:
    first the new versions come up beside the old, then each ensemble moves over in one moment.
    """
    book = read_releases(repository)
    options = _options(book, repository)
    bundle = Bundle.open(bundle_path)
    _refuse_other_bundles(book, bundle)
    refuse_changes(bundle, options, say)
    served = describe(bundle, options, say)
    _refuse_other_shapes(repository, served)
    versions, made = {}, []
    for name, sources in version_sources(bundle, served).items():
        digest, known = _digest(sources), book["digests"][name]
        version = next((int(number) for number, held in known.items() if held == digest), None)
        if version is None:
            version = max(int(number) for number in known) + 1
            with files.atomic_directory(repository / name / str(version)) as folder:
                _write_version(folder, sources)
            known[str(version)] = digest
            made.append(name)
        versions[name] = version
    number = max(release["release"] for release in book["releases"]) + 1
    book["releases"].append({"release": number, **_about(bundle), "versions": versions})
    _write_releases(repository, book)
    return list(dict.fromkeys(made + set_release(repository, number)))


def set_release(repository: Path, number: int) -> list[str]:
    """Make release `number` current: the ensembles pin its versions. Returns the models to load, in order."""
    book = read_releases(repository)
    release = next((release for release in book["releases"] if release["release"] == number), None)
    if release is None:
        held = [release["release"] for release in book["releases"]]
        raise RepositoryError(f"release {number} is not in {repository}, which holds {held}")
    before = next(release for release in book["releases"] if release["release"] == book["current"])
    loads = [
        name
        for name, version in release["versions"].items()
        if _serve(repository / name, {before["versions"][name], version})
    ]
    about: Model = from_json(Model, release["model"], RELEASES_NAME)
    options, draws = _options(book, repository), release.get("prior", False)
    served = ServedModel(about, release["neighbours"], release["labelled"], options, prior=draws)
    for name, config in ensembles(served, release["versions"]).items():
        with files.atomic_file(repository / name / "config.pbtxt") as path:
            path.write_text(tc.to_pbtxt(config))
    book["current"] = number
    _write_releases(repository, book)
    return [*loads, *(ensemble.name for ensemble in ENSEMBLES)]


def _serve(model: Path, versions: set[int]) -> bool:
    """Let the model in this folder serve `versions`; whether it did not already, and has to be loaded."""
    news = False
    for path in (model / "config.pbtxt", *(model / "configs").glob("*.pbtxt")):
        text = path.read_text()
        if versions <= {int(number) for number in _VERSIONS.findall(text)[0].split(",")}:
            continue
        news = True
        with files.atomic_file(path) as partial:
            partial.write_text(_VERSIONS.sub(f"versions: {sorted(versions)}", text))
    return news


def read_releases(repository: Path) -> dict[str, Any]:
    """The repository's book of releases. Raises RepositoryError when the folder is not such a repository."""
    path = repository / RELEASES_NAME
    if not path.exists():
        raise RepositoryError(
            f"{repository} holds no {RELEASES_NAME}: not a repository written by `icgan-export triton`"
        )
    book: dict[str, Any] = json.loads(path.read_text())
    return book


def read_options(repository: Path) -> RepositoryOptions:
    """What a repository was made with. Raises RepositoryError."""
    return _options(read_releases(repository), repository)


def _options(book: Mapping[str, Any], repository: Path) -> RepositoryOptions:
    try:
        return RepositoryOptions(**book["options"])
    except (KeyError, TypeError):
        raise RepositoryError(f"{repository} is of another version of icgan: write a new one") from None


def describe(bundle: Bundle, options: RepositoryOptions, say: Say = print) -> ServedModel:
    """What the bundle means for the configurations; says so when a GPU will run ONNX for want of plans."""
    manifest = bundle.manifest
    if options.search == "graph" and not any(entry.role == "lookup" for entry in manifest.graphs):
        raise RepositoryError(
            f"--search graph: {bundle.root} has no lookup.onnx, its bank is too large: faiss-ivf or faiss"
        )
    plans, gpu_files, engine_folders = {}, {}, {}
    for role in ("encoder", "generator", "lookup") if options.search == "graph" else ("encoder", "generator"):
        engines = _engines(bundle, role, options.precision)
        for engine in engines.values():
            if engine.max_batch < options.max_batch:
                raise RepositoryError(
                    f"--max-batch is {options.max_batch}, {engine.file} takes {engine.max_batch} rows: "
                    f"serve with --max-batch {engine.max_batch}, or build it again with icgan-export engine"
                )
        if engines:
            plans[role] = {_dotted(capability): _plan_name(engine) for capability, engine in engines.items()}
            continue
        precise = role == "lookup"  # there is one lookup graph, at full precision
        on_gpu = manifest.graph(role, None if precise else options.precision)
        if on_gpu != manifest.graph(role, None if precise else options.cpu_precision):
            gpu_files[role] = f"model.{on_gpu.precision}.onnx"
        if options.engine_cache:
            # of these weights alone: ONNX Runtime tells engines apart by the names in a graph
            digest = manifest.files[on_gpu.file].sha256[:16]
            engine_folders[role] = f"{options.engine_cache.rstrip('/')}/{digest}"
        say(f"icgan_{role}: the bundle has no TensorRT plan, a GPU will run {on_gpu.file} on ONNX Runtime")
    bank = manifest.bank
    return ServedModel(
        manifest.model,
        bank.neighbours,
        bank.labelled,
        options,
        plans,
        gpu_files,
        engine_folders,
        has_prior(manifest),
    )


def version_sources(bundle: Bundle, served: ServedModel) -> dict[str, Sources]:
    """For every model but the ensembles: the verified files of its version folder."""
    manifest = bundle.manifest
    about = {MANIFEST_NAME: manifest.to_bytes()}
    held = (f"{FOLDER}/", f"{PRIOR_FOLDER}/")
    bank = {name: bundle.path(name) for name in manifest.files if name.startswith(held)}
    found: dict[str, Sources] = {
        "icgan_admit": _code("icgan_admit"),
        "icgan_preprocess": _code("icgan_preprocess"),
        "icgan_condition": {
            **_code("icgan_condition"),
            **about,
            **bank,
            **changes_file(bundle, served.options),
        },
        "icgan_picture": {**_code("icgan_picture"), SOURCE_NAME: _source(bundle)},
    }
    for role in ("encoder", "generator", "lookup"):
        if role == "lookup" and served.options.search != "graph":
            continue
        precision = None if role == "lookup" else served.options.cpu_precision
        files: Sources = {"model.onnx": _graph(bundle, role, precision)}
        if runs_staged(served.options, role):
            files["model.py"] = model_sources() / "backends" / "onnxruntime" / "model.py"
        if role in served.gpu_files:
            files[served.gpu_files[role]] = _graph(bundle, role, served.options.precision)
        if role in served.plans:
            for engine in _engines(bundle, role, served.options.precision).values():
                files[_plan_name(engine)] = bundle.path(engine.file)
        found[f"icgan_{role}"] = files
    return found


def _source(bundle: Bundle) -> bytes:
    """What a served file claims to be drawn by. Which graph or plan draws is decided on the server."""
    model = bundle.manifest.model
    bank = Bank.of_bundle(bundle)
    state = str(bank.state) if bank.state and bank.state.number else None
    named = (model.name, model.version, model.identity)
    source = Source(*named, bank=embeddings_sha256(bank), backend="triton", state=state)
    return json.dumps(to_json(source)).encode()


def _graph(bundle: Bundle, role: str, precision: str | None) -> Path:
    """An ONNX file, checked as it is before it runs in-process: the server opens it without asking us."""
    entry = bundle.manifest.graph(role, precision)
    read_graph(bundle, entry)
    return bundle.path(entry.file)


def _code(model: str) -> Sources:
    return {"model.py": model_sources() / model / "1" / "model.py"}


def _engines(bundle: Bundle, role: str, precision: str | None) -> dict[str, EngineEntry]:
    """Per compute capability ("sm90") the engine of `role` made with the newest TensorRT.

    Not those of TensorRT-RTX, which Triton's backend cannot read.
    """
    found = [
        engine
        for engine in bundle.manifest.engines
        if engine.role == role and precision in (None, engine.precision) and "-trtrtx" not in engine.file
    ]
    found.sort(key=lambda engine: [int(part) for part in re.findall(r"\d+", engine.tensorrt_version)])
    return {engine.compute_capability: engine for engine in found}


def _plan_name(engine: EngineEntry) -> str:
    return f"{engine.compute_capability}-trt{engine.tensorrt_version}-{engine.precision}.plan"


def _dotted(capability: str) -> str:
    """ "sm90" -> "9.0", Triton's spelling."""
    digits = capability.removeprefix("sm")
    return f"{digits[:-1]}.{digits[-1]}"


def _about(bundle: Bundle) -> dict[str, Any]:
    """What a release says of its bundle."""
    manifest = bundle.manifest
    return {
        "model": to_json(manifest.model),
        "neighbours": manifest.bank.neighbours,
        "labelled": manifest.bank.labelled,
        "bank": manifest.files[f"{FOLDER}/embeddings.npy"].sha256,
        "prior": has_prior(manifest),
    }


def _refuse_other_bundles(book: Mapping[str, Any], bundle: Bundle) -> None:
    """Raise RepositoryError for a field that all releases share, with what makes the bundle fit."""
    first = book["releases"][0]
    asked = _shared_fields(_about(bundle))
    for field, held in _shared_fields(first).items():
        if asked[field] == held:
            continue
        how = {
            "neighbours": f"export it with --neighbours {held}",
            "labelled": "export it with a bank of pictures in "
            + ("one folder for each class" if held else "one folder, without classes"),
        }.get(field, "it needs a repository of its own, another --out")
        raise RepositoryError(
            f"{field}: {json.dumps(asked[field])} in {bundle.root}, "
            f"{json.dumps(held)} in the releases that are there: {how}"
        )


def _shared_fields(release: Mapping[str, Any]) -> dict[str, Any]:
    """What a release says of the shapes and names on the wire, which its clients rely on."""
    model = release["model"]
    names = ("resolution", "dim_z", "embedding_dim", "classes", "truncation")
    return {
        **{f"model.{name}": model.get(name) for name in names},
        "model.preprocessing.size": model["preprocessing"]["size"],
        "neighbours": release["neighbours"],
        "labelled": release["labelled"],
    }


def _refuse_other_shapes(repository: Path, served: ServedModel) -> None:
    """A configuration covers all versions of a model: nothing in it can change between releases."""
    for name, config in configurations(served).items():
        text = _VERSIONS.sub("", (repository / name / "config.pbtxt").read_text()).splitlines()
        wanted = _VERSIONS.sub("", tc.to_pbtxt(config)).splitlines()
        if text == wanted:
            continue
        new = next((line.strip() for line in wanted if line not in text), "fewer lines")
        if "trt_engine_cache_path" in new:
            raise RepositoryError(
                f"{name}: other weights, while the repository keeps engines (--engine-cache), which a server "
                "finds by the names in a graph, not by its weights: write a new repository"
            )
        raise RepositoryError(
            f"{name}/config.pbtxt would change ({new}), and a release cannot change it (such as a graph of "
            "another precision, or a plan of another TensorRT): write a new repository, with --replace or "
            "another --out"
        )


def _write_config(path: Path, config: tc.ModelConfig) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(tc.to_pbtxt(config))


def _write_version(folder: Path, sources: Sources) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, source in sources.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        if isinstance(source, bytes):
            path.write_bytes(source)
        else:
            shutil.copyfile(source, path)
    if "model.py" in sources:
        # a file where Python would make a folder: what it compiles would be a change to the server, which
        # would load the stage again with the next ensemble
        (folder / "__pycache__").write_text("No compiled files here: the server takes them for a change.\n")


def _canary(picture: images.U8, served: ServedModel) -> dict[str, object]:
    """A request to the ensemble of all stages, for watchdogs and probes."""
    return {
        "id": CANARY_ID,
        "IMAGE": base64.b64encode(images.encode(picture)).decode(),
        "SEED": 0,
        "SAMPLE": 0,
        "TRUNCATION": 1.0,
        "CONDITION": CONDITIONS.index("nearest"),  # reads the stored embeddings too
        **({"LABEL": 0} if served.model.classes else {}),
        "FORMAT": "image/png;base64",
    }


def _write_warm_up(samples: Mapping[str, arrays.Array], served: ServedModel, root: Path) -> None:
    """The first row of the bundle's pinned samples, as raw bytes, for each model that warms up on it."""
    for config in configurations(served).values():
        for warm_up in config.model_warmup:
            for name in warm_up.inputs:
                folder = root / config.name / "warmup"
                folder.mkdir(exist_ok=True)
                (folder / name).write_bytes(samples[_SAMPLES[name]][:1].tobytes())


def _digest(sources: Sources) -> str:
    """SHA-256 over names and contents."""
    lines = []
    for name, source in sorted(sources.items()):
        digest = files.sha256(source) if isinstance(source, bytes) else files.sha256_of_file(source)
        lines.append(f"{digest}  {name}\n")
    return files.sha256("".join(lines).encode())


def _write_releases(repository: Path, book: Mapping[str, Any]) -> None:
    with files.atomic_file(repository / RELEASES_NAME) as path:
        path.write_text(json.dumps({"format": FORMAT, "schema_version": 1, **book}, indent=1) + "\n")
