"""Who imports whom, held to the table of the layout: by reading every file, and by a start without torch."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = {"icgan_training", "icgan_export", "icgan_runtime"}
ALLOWED = {  # folder -> which of ours it may import, besides itself
    "training": {"icgan_training", "icgan_runtime"},  # of the runtime its ground alone, see below
    "runtime": {"icgan_runtime"},
    "export": {"icgan_export", "icgan_training", "icgan_runtime"},
    "triton_models": {"icgan_runtime"},
}
NEVER = {"runtime": {"torch", "onnx", "safetensors"}, "triton_models": {"torch", "onnx", "safetensors"}}
# What training takes of the runtime: its ground, the one reader of pictures, so that a model is trained on
# what the runtime will show it, and the prior, so that a model is scored with the instances a bundle draws.
# None needs more than numpy and Pillow, but for the one file of Ray.
GROUND = {
    f"icgan_runtime.{name}"
    for name in (
        *("cluster", "console", "cpus", "errors", "files", "identity", "images", "names", "captions"),
        "prior",
    )
}
# Wings of a package in their order: each imports the ground of its package and the wings before it. What is
# not named stands above them all and may import any.
WINGS = {
    "icgan_training": ["networks", "data", "fit", "score"],
    "icgan_export": ["source", "rewrite", "lower", "check", "edge"],
    "icgan_runtime": [
        "reader",
        "bundle",
        "marks",
        "backends",
        "search",
        "steer",
        "origin",
        "client",
        "synthesize",
        "server",
    ],
}
# Files beside the wings that wings may import. In the runtime some stand between two wings: the number of
# wings below them.
BESIDE = {
    "icgan_training": {
        "__init__": 0, "errors": 0, "integrity": 0, "progress": 0, "heap": 0, "distributed": 0,
        "inert_pickle": 0,
    },
    "icgan_export": {"errors": 0},
    "icgan_runtime": {
        "__init__": 0, "errors": 0, "files": 0, "console": 0, "cpus": 0, "identity": 0, "names": 0,
        "captions": 0, "cluster": 0, "latents": 0, "prior": 0, "refusals": 0, "route": 0, "images": 1,
        "rows": 2, "sheets": 3, "request": 3, "drawn": 3, "chain": 5,
    },
}  # fmt: skip
# Files of training that read published pickles through an allow-list of classes, each with tests of its own.
RESTRICTED_UNPICKLERS = {"official.py", "lpips.py", "inert_pickle.py"}
# In the runtime one file may import each of these; everything else runs without.
ONE_FILE = {
    "onnxruntime": "backends/ort.py",
    "faiss": "search/faiss.py",
    "openvino": "backends/openvino.py",
    "tensorrt": "backends/trt.py",
    "tritonclient": "client/library.py",
    "pillow_heif": "reader/heif.py",
    "c2pa": "marks/signed.py",
    "model_signing": "bundle/signature.py",
    "ray": "cluster.py",
    "oras": "registry.py",
    "psycopg": "bundle/shared_log.py",
    "cmaes": "steer/evolution.py",
    "tokenizers": "steer/words.py",
}
FILES = sorted(path for folder in ALLOWED for path in (ROOT / folder).rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Top-level packages that a file imports anywhere, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add((node.module or "").partition(".")[0])
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_imports_only_what_its_folder_may(path):
    folder = path.relative_to(ROOT).parts[0]
    found = imports(path)
    assert found & OURS <= ALLOWED[folder]
    assert not found & NEVER.get(folder, set())
    if path.name not in RESTRICTED_UNPICKLERS:
        assert not found & {"pickle", "cPickle", "dill", "shelve", "marshal"}


MODULES = {
    ".".join(path.relative_to(ROOT / folder).with_suffix("").parts): path
    for folder in ("training", "export", "runtime")
    for path in (ROOT / folder).rglob("*.py")
}


def needed(module: str) -> tuple[set[str], set[str]]:
    """What a module of training or export imports: libraries when it is imported itself, and ours ever."""
    tree = ast.parse(MODULES[module].read_text("utf-8"))
    libraries: set[str] = set()
    ours: set[str] = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        names = {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            whole = {f"{node.module}.{name}" for name in names} & MODULES.keys()
            names = whole or {node.module or ""}
        for name in names:
            top = name.partition(".")[0]
            if top in OURS:
                ours.add(name if name in MODULES else f"{name}.__init__")
            elif node in tree.body:
                libraries.add(top)
    return libraries, ours


def reachable(module: str, seen: set[str]) -> Iterator[str]:
    """A module of training or export and all of theirs that it imports, and those import."""
    if module not in seen and not module.startswith("icgan_runtime"):
        seen.add(module)
        yield module
        for name in needed(module)[1]:
            yield from reachable(name, seen)


def modules_imported(path: Path, modules: set[str]) -> set[str]:
    """Those of `modules` that a file imports anywhere, inside functions too."""
    named = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            named |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            named |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return named & modules


@pytest.mark.parametrize("folder", ["training", "export", "runtime"])
def test_no_modules_of_a_package_import_each_other_in_a_circle(folder):
    paths = {
        ".".join(path.relative_to(ROOT / folder).with_suffix("").parts): path
        for path in (ROOT / folder).rglob("*.py")
        if path.name != "__init__.py"
    }
    TopologicalSorter({name: modules_imported(path, set(paths)) for name, path in paths.items()}).prepare()


def height(module: str) -> int | None:
    """How many wings stand at or below a module, by WINGS and BESIDE; None for what stands on top."""
    package, _, rest = module.partition(".")
    first = rest.partition(".")[0] or "__init__"
    if first in WINGS[package]:
        return WINGS[package].index(first) + 1
    return BESIDE[package].get(first)


@pytest.mark.parametrize("module", MODULES)
def test_arrows_between_wings_point_one_way(module):
    package = module.partition(".")[0]
    mine = None if module.endswith("__init__") else height(module)  # a package's face shows what is on top
    for other in modules_imported(MODULES[module], set(MODULES)):
        if package == "icgan_training" and other.startswith("icgan_runtime"):
            assert other in GROUND, f"{module} imports {other}: training takes the runtime's ground alone"
        if mine is None or not other.startswith(f"{package}."):
            continue
        theirs = height(other)
        assert theirs is not None, f"{module} imports {other}, which stands above the wings"
        assert theirs <= mine, f"{module} imports {other}, which stands above it"


@pytest.mark.parametrize("extra", ["train", "export"])
def test_an_extra_installs_all_that_its_package_imports(extra):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"][extra]]
    installed = {re.split(r"[<>=\[ ;]", item)[0] for item in wanted}
    names = {"pillow": "PIL", "faiss-cpu": "faiss", "onnx": "ml_dtypes"}  # a dependency of onnx
    present = installed | {names[name] for name in installed & names.keys()} | set(sys.stdlib_module_names)
    # a file of edge/ is imported when its runtime is asked for, and brings the libraries of that alone
    edge = {re.split(r"[<>=]", item)[0] for item in project["optional-dependencies"]["edge"]}
    edge |= {name.replace("-", "_") for name in edge}
    # files of training that are imported for an encoder that is an ONNX file, which needs icgan[export]
    of_onnx = ("onnx_graph", "onnx_batch", "onnx_constants", "onnx_backbone", "onnx_encoder")
    onnx = {"onnx", "onnxruntime", "onnxscript"}
    folder = {"train": "training", "export": "export"}[extra]
    seen: set[str] = set()
    for path in (ROOT / folder).rglob("*.py"):
        if path.name != "__init__.py":
            name = ".".join(path.relative_to(ROOT / folder).with_suffix("").parts)
            for module in reachable(name, seen):
                missing = needed(module)[0] - present - (edge if module.endswith("_target") else set())
                missing -= onnx if module.endswith(of_onnx) else set()
                assert not missing, f"{module} is imported without {missing}"


@pytest.mark.parametrize(("library", "home"), ONE_FILE.items())
def test_a_heavy_library_has_one_home_in_the_runtime(library, home):
    package = ROOT / "runtime" / "icgan_runtime"
    importers = {
        path.relative_to(package).as_posix() for path in package.rglob("*.py") if library in imports(path)
    }
    assert importers <= {home}


def test_timm_has_one_home():
    importers = {path.name for path in FILES if {"timm", "torchvision"} & imports(path)}
    assert importers == {"timm_encoder.py"}


def test_onnxruntime_has_one_home_in_training():
    training = [path for path in FILES if path.is_relative_to(ROOT / "training")]
    assert [path.name for path in training if "onnxruntime" in imports(path)] == ["onnx_backbone.py"]


def python(code: str) -> str:
    """Run `code` in a fresh interpreter that sees only runtime/ of ours and no torch."""
    preamble = f"import sys; sys.path.insert(0, {str(ROOT / 'runtime')!r}); sys.modules['torch'] = None\n"
    done = subprocess.run([sys.executable, "-c", preamble + code], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_runtime_loads_no_heavy_library():
    heavy = sorted({*ONE_FILE, "torch", "onnx", "pandas", "matplotlib"})
    printed = python(f"import icgan_runtime; print([name for name in {heavy} if sys.modules.get(name)])")
    assert printed.strip() == "[]"


def test_the_runtime_generates_without_torch(tmp_path):
    from tests.models.make_models import make_bundle

    bundle = make_bundle(tmp_path / "tiny")
    printed = python(
        "import icgan_runtime, numpy as np\n"
        f"with icgan_runtime.Pipeline.load({str(bundle)!r}) as pipe:\n"
        "    print(pipe.generate(np.full((9, 9, 3), 200, np.uint8), n=2).images.shape)"
    )
    assert printed.strip() == "(2, 8, 8, 3)"
