"""`icgan serve`: a bundle as a service on this machine, in one step."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from icgan_runtime.errors import BackendError, BundleError
from icgan_runtime.server.process import ORDINARY_LINE, Options, Server, find_environment
from icgan_runtime.server.watchdog import Watchdog

# What the server says on every machine without a CUDA driver.
_NO_GPU = re.compile("CudaDriverHelper|pinned system memory|unable to create stream")
_LEVELS = {"error": ("F", "E"), "warning": ("F", "E", "W"), "info": ("F", "E", "W", "I")}


@dataclass(frozen=True)
class Choices:
    """What `icgan-export triton` is asked for."""

    lookup: str = "faiss"
    max_batch: int = 32  # rows of one batch
    generators: int = 1  # more than one: each on one thread, for throughput rather than latency


@contextmanager
def serve_bundle(
    bundle: Path, options: Options, choices: Choices, log_level: str, report: Callable[[str], None]
) -> Iterator[Server]:
    """Serve `bundle` while the block runs.

    `report` gets the lines of the server's log from `log_level` up, and the watchdog's. The repository is
    written into the cache folder and removed afterwards. Raises BackendError where it cannot be.
    """
    environment = find_environment()
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "icgan"
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BackendError(f"{cache} cannot be made ({error.strerror}): set XDG_CACHE_HOME") from None

    def forward(line: str) -> None:
        if worth_showing(line, log_level):
            report(line)

    with tempfile.TemporaryDirectory(prefix="serve-", dir=cache) as folder:
        repository = Path(folder) / "model_repository"
        write_repository(bundle, repository, choices)
        with Server(repository, environment, options, forward) as server:
            server.wait_until_ready()
            with Watchdog(server, report):
                yield server


def worth_showing(line: str, log_level: str) -> bool:
    """Whether a line of the server belongs in the log: from `log_level` up, or no log line but a crash."""
    if ORDINARY_LINE.match(line):
        return line[:1] in _LEVELS[log_level] and not _NO_GPU.search(line)
    return True


def write_repository(bundle: Path, out: Path, choices: Choices) -> None:
    """Have the exporter write it, as a program: this package imports nothing else of ours."""
    # -P: not the modules of the current folder, which may be a stranger's bundle
    command = [sys.executable, "-P", "-m", "icgan_export", "triton", str(bundle), "--out", str(out)]
    command += ["--lookup", choices.lookup, "--max-batch", str(choices.max_batch)]
    command += ["--generators", str(choices.generators)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        complaint = done.stderr.strip().rpartition("\n")[2].removeprefix("icgan-export: ")
        raise BundleError(str(bundle), complaint.removeprefix(f"{bundle}: "))
