"""`icgan serve`: a bundle, or a model repository, as a service on this machine, in one step."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from icgan_runtime.files import cache_folder
from icgan_runtime.marks.mark import KEY_VARIABLE, SOCKET_VARIABLE
from icgan_runtime.marks.signing import signing
from icgan_runtime.server.environment import Environment, find_environment
from icgan_runtime.server.models import CANARY_MODEL
from icgan_runtime.server.options import RepositoryOptions
from icgan_runtime.server.process import ORDINARY_LINE, Server, ServerOptions
from icgan_runtime.server.repository import read_options, write_repository
from icgan_runtime.server.stage import RELEASES_NAME
from icgan_runtime.server.watchdog import Watchdog

# What the server says on every machine without a CUDA driver.
_NO_GPU = re.compile("CudaDriverHelper|pinned system memory|unable to create stream")
_LEVELS = {"error": ("F", "E"), "warning": ("F", "E", "W"), "info": ("F", "E", "W", "I")}


def is_repository(path: Path) -> bool:
    """Whether `icgan-export triton` wrote this folder."""
    return (path / RELEASES_NAME).is_file()


@contextmanager
def serve_bundle(
    bundle: Path,
    server_options: ServerOptions,
    repository_options: RepositoryOptions,
    log_level: str,
    report: Callable[[str], None],
) -> Iterator[Server]:
    """Serve `bundle` while the block runs.

    `report` gets the lines of the server's log from `log_level` up, once it is ready what is worth knowing of
    its models, and the watchdog's lines. The repository is written into the cache folder and removed
    afterwards. Raises BundleError, RequestError or RepositoryError where it cannot be written, BackendError
    where there is no server.
    """
    environment = find_environment()
    with tempfile.TemporaryDirectory(prefix="serve-", dir=cache_folder()) as folder:
        repository = Path(folder) / "model_repository"
        notes: list[str] = []
        write_repository(bundle, repository, repository_options, notes.append)
        server_options = replace(server_options, cache_mb=repository_options.cache_mb)
        with _watched(repository, environment, server_options, log_level, report) as server:
            for note in notes:
                report(note)
            yield server


@contextmanager
def serve_repository(
    repository: Path, server_options: ServerOptions, log_level: str, report: Callable[[str], None]
) -> Iterator[Server]:
    """Serve a repository where it lies, with what it was made with, so that its releases can be changed.

    Raises RepositoryError where it is none, BackendError where there is no server.
    """
    server_options = replace(server_options, cache_mb=read_options(repository).cache_mb)
    with _watched(repository, find_environment(), server_options, log_level, report) as server:
        yield server


@contextmanager
def _watched(
    repository: Path,
    environment: Environment,
    options: ServerOptions,
    log_level: str,
    report: Callable[[str], None],
) -> Iterator[Server]:
    """A server that is ready, with the watchdog at its side."""

    def forward(line: str) -> None:
        if worth_showing(line, log_level):
            report(line)

    with (
        _signer() as socket,
        Server(repository, environment, replace(options, sign_socket=socket), forward) as server,
    ):
        server.wait_until_ready()
        if options.traces:  # of users' requests, not of the watchdog's
            server.call(f"v2/models/{CANARY_MODEL}/trace/setting", {"trace_level": ["OFF"]})
        with Watchdog(server, report):
            yield server


@contextmanager
def _signer() -> Iterator[Path | None]:
    """The socket behind which this process signs with the key of ICGAN_SIGN_KEY, if there is one.

    All stages are processes of one user, and one of them decodes strangers' pictures: none gets the key.
    """
    key = os.environ.get(KEY_VARIABLE)
    if not key or os.environ.get(SOCKET_VARIABLE):  # then somebody else signs
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="icgan-sign-") as folder:
        path = Path(folder) / "socket"
        with signing(key, path):
            yield path


def worth_showing(line: str, log_level: str) -> bool:
    """Whether a line of the server belongs in the log: from `log_level` up, or no log line but a crash."""
    if ORDINARY_LINE.match(line):
        return line[:1] in _LEVELS[log_level] and not _NO_GPU.search(line)
    return True
