"""Commands that are killed, or whose disk is full, at every change they make to the disk: `make faults`.

    python -m tests.abuse.faults [prepare fit bundle engine triton add release synthesize bank-add
        bank-remove bank-compact] [--every N] [--out FILE]

Each command runs on a tiny case, once undisturbed, which counts its writes, renames, new and removed files.
Then, for each of these steps, three times in a process of its own: killed before the step, killed half way
through its write, and with a disk that takes half of that write and nothing more. Afterwards, what stands
under the final names must be whole (or absent, or what was there before), the message of a full disk one
line, and the same command given again must finish with the result of the undisturbed run. Needs a C compiler
for the library that is put under the process (faults.c).
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import ctypes
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.report import machine

HERE = Path(__file__).parent
ARMED = "ICGAN_FAULTS"  # set in the process that has the library under it
COUNT, KILL, KILL_HALFWAY, FULL = range(4)
MODES = {KILL: "killed", KILL_HALFWAY: "killed half way", FULL: "disk full"}
LONGEST_S = 300


@dataclass
class Case:
    """A command on a tiny case, in a folder that it changes."""

    name: str
    command: Callable[[Path], int]  # runs in the folder; the exit status
    whole: Callable[[Path], None]  # raises unless what stands there may be used
    result: Callable[[Path], object]  # of a finished command, to be compared
    before: Path | None = None  # what the folder holds at first


@dataclass
class Outcome:
    """What came of one case."""

    name: str
    steps: int = 0
    tried: int = 0
    refused: int = 0  # ended with a message instead of a kill
    unharmed: int = 0  # went through in spite of it: the step was not needed for the result
    faults: list[str] = field(default_factory=list)


def library(folder: Path) -> Path:
    """faults.c, compiled."""
    built = folder / "faults.so"
    compiler = shutil.which("cc")
    if compiler is None:
        raise SystemExit("faults.c needs a C compiler: apt-get install gcc")
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", built, HERE / "faults.c", "-ldl"], check=True)
    return built


def in_child(work: Callable[[], int], complaint: Path) -> int:
    """Run `work` in a fork; its exit status, negative for a signal. Its stderr goes to `complaint`."""
    child = os.fork()
    if child == 0:
        status = 120
        try:
            stream = os.open(complaint, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.dup2(stream, 1)
            os.dup2(stream, 2)
            signal.alarm(LONGEST_S)
            status = work()
        except SystemExit as end:
            status = int(end.code or 0)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def disturbed(case: Case, folder: Path, at: int, mode: int, complaint: Path) -> tuple[int, int]:
    """Run the command with its `at`-th step disturbed; exit status, and steps where it came that far."""
    seen = complaint.with_name("seen")
    seen.unlink(missing_ok=True)

    def work() -> int:
        shim = ctypes.CDLL(None)
        shim.fault_seen.restype = ctypes.c_long
        shim.fault_arm(str(folder).encode(), ctypes.c_long(at), mode)
        status = case.command(folder)
        seen.write_text(str(shim.fault_seen()))
        return status

    status = in_child(work, complaint)
    return status, int(seen.read_text()) if seen.exists() else 0


def fresh(case: Case, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if case.before is None:
        folder.mkdir(parents=True)
    else:
        shutil.copytree(case.before, folder)


def sound(check: Callable[[], object]) -> str | None:
    """What is wrong with the result, if anything is."""
    try:
        check()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def try_case(case: Case, work: Path, first: int, every: int, say: Callable[[str], None]) -> Outcome:
    """All steps (every n-th, from a first one on) of one command, in all three ways."""
    outcome, folder, complaint = Outcome(case.name), work / case.name, work / "complaint"
    fresh(case, folder)
    status, outcome.steps = disturbed(case, folder, 0, COUNT, complaint)
    if status:
        raise SystemExit(f"{case.name} fails undisturbed: {complaint.read_text()}")
    case.whole(folder)
    wanted = case.result(folder)
    say(f"{case.name}: {outcome.steps} steps")
    for at in range(first, outcome.steps + 1, every):
        for mode, what in MODES.items():
            label = f"{case.name}, step {at} {what}"
            fresh(case, folder)
            status, _ = disturbed(case, folder, at, mode, complaint)
            words = complaint.read_text()
            outcome.tried += 1
            outcome.refused += status == 1
            outcome.unharmed += status == 0
            if status not in (0, 1, -signal.SIGKILL) or "Traceback" in words:
                outcome.faults.append(f"{label}: status {status}, {words.strip()[-400:]}")
            if wrong := sound(lambda: case.whole(folder)):
                outcome.faults.append(f"{label}: left {wrong}")
            status = in_child(lambda: case.command(folder), complaint)
            if status:
                outcome.faults.append(f"{label}: again gave {status}, {complaint.read_text().strip()[-400:]}")
            elif sound(lambda: case.whole(folder)) or case.result(folder) != wanted:
                outcome.faults.append(f"{label}: again gave another result")
    return outcome


# ---- the commands ----------------------------------------------------------------------------------------


def remember(module: Any, *names: str) -> None:
    """Let costly functions compute once: what is tried here is what is written, not what is computed."""

    def once(function: Callable[..., Any]) -> Callable[..., Any]:
        kept: list[Any] = []

        def call(*arguments: Any, **options: Any) -> Any:
            if not kept:
                kept.append(function(*arguments, **options))
            return copy.copy(kept[0])

        return call

    for name in names:
        setattr(module, name, once(getattr(module, name)))


def every_file(folder: Path) -> dict[str, str]:
    """Hash of every file that is not hidden."""
    from icgan_runtime.files import sha256_of_file

    return {
        path.relative_to(folder).as_posix(): sha256_of_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }


def prepare_case(work: Path) -> Case:
    import numpy as np

    from icgan_training.cli import main
    from icgan_training.data.dataset import PreparedDataset
    from icgan_training.networks.encoder import random_encoder, save_encoder
    from tests.training.pictures import TINY_ENCODER

    before = work / "prepare-before"
    (before / "in").mkdir(parents=True)
    pictures = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3), np.uint8)
    np.save(before / "in" / "images.npy", pictures)
    np.save(before / "in" / "labels.npy", np.arange(10) % 2)
    save_encoder(random_encoder(TINY_ENCODER), before / "encoder.safetensors")

    def command(folder: Path) -> int:
        flags = ["--resolution", "8", "--neighbours", "3", "--encoder", str(folder / "encoder.safetensors")]
        if (folder / "out" / "dataset.json").exists():  # done; once more is refused, as it should be
            return 0
        return main(["prepare", str(folder / "in"), "--out", str(folder / "out"), *flags])

    def whole(folder: Path) -> None:
        if (folder / "out").exists():
            PreparedDataset.open(folder / "out").verify()

    return Case("prepare", command, whole, lambda folder: every_file(folder / "out"), before)


def fit_case(work: Path) -> Case:
    import numpy as np
    from PIL import Image
    from safetensors.torch import load_file

    from icgan_runtime.files import sha256_of_file
    from icgan_runtime.identity import EncoderIdentity
    from icgan_training.cli import main
    from icgan_training.data.dataset import DatasetMeta
    from icgan_training.fit.resume import list_checkpoints
    from icgan_training.fit.run import read_config
    from icgan_training.integrity import read_sealed
    from icgan_training.networks.checkpoint import load_discriminator, load_generator

    before = work / "fit-before"
    data = before / "data"
    data.mkdir(parents=True)
    rng = np.random.default_rng(0)
    np.save(data / "images.npy", rng.integers(0, 256, (12, 32, 32, 3), np.uint8))
    rows = rng.standard_normal((12, 16)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    for name in ("embeddings", "embeddings_flipped"):
        np.save(data / f"{name}.npy", rows)
    np.save(data / "neighbours.npy", (np.arange(12)[:, None] + [1, 2, 3]).astype(np.int32) % 12)
    np.save(data / "radii.npy", np.ones(12, np.float32))
    (data / "encoder.safetensors").write_bytes(b"any")
    identity = EncoderIdentity("random", sha256_of_file(data / "encoder.safetensors"), 32, 16)
    meta = DatasetMeta("tiny", 12, 32, 16, 3, None, "random numbers", "CC0-1.0", identity)
    (data / "dataset.json").write_text(meta.to_json())

    def command(folder: Path) -> int:
        flags = ["--preset", "tiny", "--images", "24", "--precision", "float32"]
        flags += ["--set", "tick_images=8", "--set", "snapshot_ticks=1"]
        return main(["fit", str(folder / "data"), "--out", str(folder / "run"), *flags])

    def whole(folder: Path) -> None:
        run = folder / "run"
        if (run / "config.json").exists():
            read_config(run)
            assert (run / "encoder.safetensors").read_bytes() == b"any"
        if (run / "generator.safetensors").exists():
            load_generator(run)
        if (run / "discriminator.safetensors").exists():
            load_discriminator(run)
        for path in list_checkpoints(run / "checkpoints"):
            read_sealed(path, "checkpoint")
        for path in (run / "samples").glob("*.png"):
            with Image.open(path) as picture:
                picture.load()
        if (run / "log.jsonl").exists():
            lines = (run / "log.jsonl").read_text().split("\n")
            for line in lines[:-1]:  # the last may be cut short: a new start drops it
                json.loads(line)

    def result(folder: Path) -> object:
        run = folder / "run"
        newest = list_checkpoints(run / "checkpoints")[-1]
        tensors = {name: value.numpy().tobytes() for name, value in load_file(newest).items()}
        steps = [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()]
        exported = {name: value for name, value in every_file(run).items() if name.endswith("or.safetensors")}
        return newest.name, tensors, steps, exported

    return Case("fit", command, whole, result, before)


def bundle_case(work: Path) -> Case:
    from icgan_export import bundle, graphs
    from icgan_export.cli import main
    from icgan_runtime.bundle.opened import Bundle
    from tests.tiny_model import tiny_config, write_run

    run = write_run(work / "bundle-run", tiny_config())
    remember(bundle, "read_run", "encoder_graph", "choose_instances", "make_samples", "verify")
    remember(graphs, "generator_graph", "lookup_graph")

    def command(folder: Path) -> int:
        return main(["bundle", str(run), "--out", str(folder / "out"), "--neighbours", "4"])

    def whole(folder: Path) -> None:
        if not any(folder.iterdir()):
            raise ValueError("the bundle that was there is gone")
        opened = Bundle.open(folder / "out")
        opened.verify_files()
        assert not opened.unlisted_files()

    before = work / "bundle-before"
    before.mkdir()
    assert command(before) == 0
    return Case("bundle", command, whole, lambda folder: every_file(folder / "out"), before)


def engine_case(work: Path) -> Case:
    from types import SimpleNamespace

    from icgan_export import engine
    from icgan_export.cli import main
    from icgan_runtime.bundle.opened import Bundle
    from tests.models.make_models import make_bundle

    # what TensorRT would give, so that everything around it runs where there is no TensorRT
    library = SimpleNamespace(__name__="tensorrt", __version__="10.14.1")
    builds = iter(range(1 << 30))

    def build(trt: Any, graph: bytes, entry: Any, *_: Any) -> engine.Plan:
        return engine.Plan(
            f"{entry.role} {next(builds)}".encode() * 500, b"cache" * 100, {"HALF": 3}, "{}", 0.1
        )

    for name, stub in {
        "load_library": lambda wanted: library,
        "target_capability": lambda trt, settings: "9.0",
        "build": build,
    }.items():
        setattr(engine, name, stub)

    def command(folder: Path) -> int:
        return main(["engine", str(folder / "bundle"), "--precision", "fp32"])

    def whole(folder: Path) -> None:
        opened = Bundle.open(folder / "bundle")
        opened.verify_files()

    def result(folder: Path) -> object:
        opened = Bundle.open(folder / "bundle")
        return sorted(opened.manifest.files), opened.manifest.engines

    before = work / "engine-before"
    make_bundle(before / "bundle")
    assert command(before) == 0  # so that there are plans to replace
    return Case("engine", command, whole, result, before)


def repository_is_whole(repository: Path) -> None:
    """Every version that the book of releases names is there with its content; no name is half written."""
    from icgan_runtime.server.repository import _digest, read_releases

    book = read_releases(repository)
    for release in book["releases"]:
        for model, version in release["versions"].items():
            place = repository / model / str(version)
            files = {path.relative_to(place).as_posix(): path for path in place.rglob("*") if path.is_file()}
            files.pop("__pycache__", None)  # holds the name, so that Python makes no folder of it
            if _digest(dict(files)) != book["digests"][model][str(version)]:
                raise ValueError(f"{model} {version} is not what it was")
    for config in repository.glob("*/config.pbtxt"):
        if not config.read_text().endswith("}\n"):
            raise ValueError(f"{config} is cut short")


def triton_cases(work: Path) -> list[Case]:
    from icgan_export.cli import main
    from tests.models.make_models import make_bundle
    from tests.runtime.server.test_repository import other_bank

    first = make_bundle(work / "triton-bundle")
    (work / "triton-other").mkdir()
    second = other_bank(first, work / "triton-other")

    def write(folder: Path) -> int:
        return main(["triton", str(first), "--replace", "--out", str(folder / "out")])

    def add(folder: Path) -> int:
        return main(["triton", str(second), "--add", "--out", str(folder / "out")])

    def back(folder: Path) -> int:
        return main(["triton", "--release", "1", "--out", str(folder / "out")])

    def whole(folder: Path) -> None:
        repository_is_whole(folder / "out")

    def served(folder: Path) -> object:
        """What a server would load: the ensembles and the versions that they name."""
        repository = folder / "out"
        configs = {path.parent.name: path.read_text() for path in sorted(repository.glob("*/config.pbtxt"))}
        book = json.loads((repository / "icgan.json").read_text())
        current = next(item for item in book["releases"] if item["release"] == book["current"])
        return configs, current["versions"], current["bank"]

    one, two = work / "triton-before", work / "triton-two"
    for folder in (one, two):
        folder.mkdir()
        assert write(folder) == 0
    assert add(two) == 0
    return [
        Case("triton", write, whole, lambda folder: every_file(folder / "out"), one),
        Case("add", add, whole, served, one),
        Case("release", back, whole, served, two),
    ]


def synthesize_case(work: Path) -> Case:
    import numpy as np

    from icgan_runtime.cli import main
    from icgan_runtime.synthesize.reading import Variants
    from icgan_runtime.synthesize.recipe import FORMATS
    from tests.models.make_models import make_bundle

    bundle = make_bundle(work / "synthesize-bundle")
    rows = np.load(bundle / "bank" / "embeddings.npy")[:3]
    np.save(work / "synthesize-rows.npy", rows)

    def command(folder: Path) -> int:
        words = ["synthesize", str(bundle), "--from", str(work / "synthesize-rows.npy"), "--threads", "1"]
        words += ["--per", "2", "--shard", "4"]
        return max(main([*words, "--out", str(folder / form), "--format", form]) for form in FORMATS)

    def whole(folder: Path) -> None:
        for form in FORMATS:
            if (folder / form / "SHA256SUMS").exists():
                assert len(list(Variants(folder / form))) == 6

    def result(folder: Path) -> object:
        return {form: every_file(folder / form) for form in FORMATS}

    return Case("synthesize", command, whole, result)


def bank_cases(work: Path) -> list[Case]:
    """A bank that changes: pictures come, one goes, and the changes are written into the bank."""
    import numpy as np

    from icgan_runtime.bundle.living import open_living
    from icgan_runtime.bundle.opened import Bundle
    from icgan_runtime.cli import main
    from tests.models.make_models import make_bundle

    first, changed = work / "bank-first", work / "bank-changed"
    make_bundle(first / "bundle")
    rows = np.load(first / "bundle" / "bank" / "embeddings.npy")[:3][:, ::-1]
    np.save(work / "bank-rows.npy", np.ascontiguousarray(rows))
    (work / "bank-names.txt").write_text("a.png\nb.png\nc.png\n")
    more = ["--label", "0", "--threads", "1", "--names", str(work / "bank-names.txt")]

    def add(folder: Path) -> int:
        return main(["bank", "add", str(folder / "bundle"), str(work / "bank-rows.npy"), *more])

    def take(folder: Path) -> int:
        if 21 not in held(folder)[0]:  # gone; once more is refused, as it should be
            return 0
        return main(["bank", "remove", str(folder / "bundle"), "21"])

    def compact(folder: Path) -> int:
        return main(["bank", "compact", str(folder / "bundle")])

    def held(folder: Path) -> tuple[list[int], bytes]:
        bank = open_living(Bundle.open(folder / "bundle"))[0].bank()
        return bank.ids.tolist(), np.asarray(bank.embeddings).tobytes()

    def whole(folder: Path) -> None:
        Bundle.open(folder / "bundle").verify_files()
        assert held(folder)[0][:20] == list(range(20))

    def compacted(folder: Path) -> object:
        """Without what may be left beside the bundle: a kill at the very end leaves the old one there."""
        return held(folder), every_file(folder / "bundle"), sorted(path.name for path in folder.iterdir())

    assert add_to(first, changed, add) == 0
    assert take(shutil.copytree(changed, work / "bank-taken")) == 0
    return [
        Case("bank-add", add, whole, held, first),
        Case("bank-remove", take, whole, held, changed),
        Case("bank-compact", compact, whole, compacted, work / "bank-taken"),
    ]


def add_to(before: Path, after: Path, command: Callable[[Path], int]) -> int:
    """Run a command on a copy."""
    shutil.copytree(before, after)
    return command(after)


BANK_CASES = ("bank-add", "bank-remove", "bank-compact")
CASES = ("prepare", "fit", "bundle", "engine", "triton", "add", "release", "synthesize", *BANK_CASES)


def make_cases(names: list[str], work: Path) -> Iterator[Case]:
    makers = {
        "prepare": prepare_case,
        "fit": fit_case,
        "bundle": bundle_case,
        "engine": engine_case,
        "synthesize": synthesize_case,
    }
    for name, make in makers.items():
        if name in names:
            yield make(work)
    if {"triton", "add", "release"} & set(names):
        yield from (case for case in triton_cases(work) if case.name in names)
    if set(BANK_CASES) & set(names):
        yield from (case for case in bank_cases(work) if case.name in names)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", default=CASES, help=f"of {', '.join(CASES)} (default: all)")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="every N-th step (default: all)")
    parser.add_argument(
        "--first", type=int, default=1, metavar="M", help="step to begin with: what is long can be split up"
    )
    parser.add_argument("--out", type=Path, help="JSON file for the report")
    options = parser.parse_args()
    if ARMED not in os.environ:  # start again on top of the library
        with tempfile.TemporaryDirectory(prefix="faults-") as folder:
            variables = {
                **os.environ,
                ARMED: "1",
                "LD_PRELOAD": str(library(Path(folder))),
                "OMP_NUM_THREADS": "1",  # a fork does not take a pool of threads along
                "TQDM_DISABLE": "1",
            }
            command = [sys.executable, "-m", "tests.abuse.faults", *sys.argv[1:]]
            return subprocess.run(command, env=variables).returncode

    import torch

    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    outcomes = []
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        work = Path(folder).resolve()
        with contextlib.redirect_stdout(io.StringIO()):
            for case in make_cases(list(options.cases), work):
                outcomes.append(try_case(case, work / "try", options.first, options.every, say))
                shown = outcomes[-1]
                say(f"{shown.name}: {shown.tried} tried, {shown.refused} refused, {len(shown.faults)} faults")
                for fault in shown.faults[:10]:
                    say(f"  {fault}")
    report = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "first": options.first,
        "every": options.every,
        "cases": {outcome.name: vars(outcome) for outcome in outcomes},
    }
    print(json.dumps(report, indent=1))
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=1) + "\n")
    return 1 if any(outcome.faults for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
