"""Which mistakes would the tests notice? Mutation testing of the runtime and of the exact rewrites.

    python -m benchmarks.mutation --sample 100 --seed 0 --out bench/mutation.md

mutmut makes thousands of small mistakes (a number off by one, `<` for `<=`, an argument left out, a message
spoilt) and runs, for each, the tests that call the function. It wants packages at the top of one folder, and
ours are not: they are copied into `mutation/` first. Functions with decorators (properties, context managers)
and constants outside functions are not mutated. Of a file with more than `--sample` mutants, that many are
drawn at random.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
SCENE = ROOT / "mutation"
PACKAGES = ("runtime/icgan_runtime", "export/icgan_export", "training/icgan_training")
RUNTIME = ROOT / "runtime" / "icgan_runtime"
# The logger is a class of TensorRT's; the others run nothing.
LEFT_OUT = ("__init__", "__main__", "trt_logger")
FILES = sorted(
    path.relative_to(RUNTIME).with_suffix("").as_posix()
    for path in RUNTIME.rglob("*.py")
    if path.stem not in LEFT_OUT
)
EXACT = ("attention", "blocks", "conditions", "fold", "choice", "whole")  # of icgan_export/rewrite
MUTATED = (
    *(f"icgan_runtime/{name}.py" for name in FILES),
    *(f"icgan_export/rewrite/{name}.py" for name in EXACT),
)
TESTS = (
    "tests/runtime",
    *(f"tests/export/rewrite/test_{name}.py" for name in ("blocks", "fold", "choice", "whole")),
)
HELPERS = (  # what the tests use
    *("tests/models", "tests/golden", "tests/gpu/fakes.py", "tests/export/kernels.py", "triton_models"),
)
SLOW = (
    "tests/runtime/bundle/test_opened.py::"
    "test_a_flipped_byte_in_the_manifest_is_refused_or_changes_a_report_only"
)
# Tests failed, took far more processor time than they need, or crashed.
KILLED = {1, 3, 24, -24, 36, 152, -6, -11}

Outcomes = dict[str, int | None]  # mutant -> exit code of its tests, None for one that was not drawn


def source(file: str) -> Path:
    """Where a mutated file lives in the repository."""
    return next(path for package in PACKAGES if (path := ROOT / Path(package).parent / file).exists())


def set_up(files: Sequence[str], tests: Sequence[str]) -> bool:
    """Lay our packages and tests side by side; whether the mutants of some file have to be made (again).

    Outcomes of functions that are still the same stay.
    """
    SCENE.mkdir(exist_ok=True)
    stale = not all(
        (SCENE / "mutants" / f"{file}.meta").exists()
        and (SCENE / file).read_bytes() == source(file).read_bytes()
        for file in files
    )
    ignore = shutil.ignore_patterns("__pycache__")
    for folder in (*PACKAGES, *TESTS, *HELPERS):
        place = ROOT / folder
        target = SCENE / (place.name if folder in PACKAGES else folder)
        if place.is_dir():
            shutil.copytree(place, target, dirs_exist_ok=True, ignore=ignore)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(place, target)
    for file in (ROOT / "tests").glob("*.py"):
        shutil.copy2(file, SCENE / "tests")
    settings = {
        "source_paths": ["icgan_runtime", "icgan_export"],
        "only_mutate": [*files],
        "also_copy": ["icgan_training"],
        "pytest_add_cli_args_test_selection": [*tests, f"--deselect={SLOW}"],
        "pytest_add_cli_args": ["--hypothesis-profile=mutation", "-p", "no:cacheprovider"],
        "process_isolation": "forkserver",  # ONNX Runtime's threads do not survive a fork
        "use_git_change_detection": False,
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    pytest_ini = '[tool.pytest.ini_options]\naddopts = "--import-mode=importlib"\npythonpath = ["."]\n'
    (SCENE / "pyproject.toml").write_text(pytest_ini + "\n[tool.mutmut]\n" + "\n".join(lines) + "\n")
    return stale


def mutmut(*arguments: str) -> str:
    """Run mutmut in the scene with one process of one thread; its output."""
    command = [str(Path(sys.executable).with_name("mutmut")), *arguments]
    done = subprocess.run(
        command, cwd=SCENE, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"mutmut {arguments[0]} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done.stdout


def outcomes(file: str) -> Outcomes:
    """The mutants of a file and what has become of them."""
    meta = json.loads((SCENE / "mutants" / f"{file}.meta").read_text())
    found: Outcomes = meta["exit_code_by_key"]
    return found


def table(files: Sequence[str], drawn: set[str]) -> str:
    """Killed and drawn mutants of each file as Markdown, and the survivors one by one."""
    lines = ["| file | mutants | drawn | tried | killed | share |", "|---|---|---|---|---|---|"]
    survivors = []
    total = total_killed = 0
    for file in files:
        codes = outcomes(file)
        ours = [name for name in codes if name in drawn]
        tried = [name for name in ours if codes[name] is not None]  # fewer when mutmut was stopped
        killed = [name for name in tried if codes[name] in KILLED]
        survivors += [name for name in tried if codes[name] not in KILLED]
        total, total_killed = total + len(tried), total_killed + len(killed)
        share = f"{len(killed) / len(tried):.0%}" if tried else ""
        lines.append(f"| `{file}` | {len(codes)} | {len(ours)} | {len(tried)} | {len(killed)} | {share} |")
    lines.append(f"| all | | {len(drawn)} | {total} | {total_killed} | {total_killed / max(1, total):.1%} |")
    return "\n".join([*lines, "", "Survivors:", "", *(f"- `{name}`" for name in survivors), ""])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sample", type=int, default=100, help="mutants of each file, at most")
    parser.add_argument("--seed", type=int, default=0, help="which are drawn")
    parser.add_argument(
        "--files", nargs="+", default=MUTATED, metavar="FILE", help="icgan_runtime/rows.py, ..."
    )
    parser.add_argument("--tests", nargs="+", default=TESTS, metavar="PATH", help="the tests that are run")
    parser.add_argument("--out", type=Path, required=True, help="the report, Markdown")
    options = parser.parse_args()
    if set_up(options.files, options.tests):
        smallest = min(options.files, key=lambda file: source(file).stat().st_size)
        module = smallest.removesuffix(".py").replace("/", ".")
        mutmut("run", "--max-children", "1", f"{module}.*__mutmut_1")  # makes the mutants of all files
    drawn: set[str] = set()
    for file in options.files:
        names = sorted(outcomes(file))
        drawn.update(random.Random(f"{options.seed} {file}").sample(names, min(options.sample, len(names))))
        print(f"{file}: {len(names)} mutants", flush=True)
    codes = {name: code for file in options.files for name, code in outcomes(file).items()}
    undecided = sorted(name for name in drawn if codes[name] not in KILLED)  # tests may have been added since
    if undecided:
        mutmut("run", "--max-children", "1", *undecided)
    report = table(options.files, drawn)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(report)
    print(report)


if __name__ == "__main__":
    main()
