"""A real Triton server on tiny bundles, started once per run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from icgan_runtime.errors import IcganError
from icgan_runtime.server.environment import Environment, find_environment
from icgan_runtime.server.options import RepositoryOptions
from icgan_runtime.server.process import Server, ServerOptions
from icgan_runtime.server.repository import write_repository
from tests.models import bundles
from tests.triton.wire import PROTOCOLS, Wire

tiny_bundle, labelled_bundle = bundles.tiny_bundle, bundles.labelled_bundle
stylegan2_bundle = bundles.stylegan2_bundle

ROOT = Path(__file__).parents[2]


def quiet(line: str) -> None:
    """Where `icgan-export triton` would print."""


@pytest.fixture(scope="session")
def environment(monkeypatch_session) -> Environment:
    """Where the embedded server lives; without one the tests that need a server are skipped."""
    monkeypatch_session.chdir(ROOT)
    try:
        return find_environment()
    except IcganError as error:
        pytest.skip(f"no embedded Triton server ({error}): make serve-env")


@pytest.fixture(scope="session")
def monkeypatch_session() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="session")
def start(environment, tmp_path_factory) -> Iterator[Callable[..., Server]]:
    """Returns a function that serves a bundle; every server is stopped at the end."""
    servers: list[Server] = []

    def start(bundle: Path, **options) -> Server:
        repository = tmp_path_factory.mktemp("served") / "model_repository"
        options.setdefault("max_queue", 100_000)  # so that no probe is among what tests count
        write_repository(bundle, repository, RepositoryOptions(**options), quiet)
        cache_mb = options.get("cache_mb", 0)
        servers.append(Server(repository, environment, ServerOptions(cache_mb=cache_mb)))
        servers[-1].wait_until_ready()
        return servers[-1]

    yield start
    with ThreadPoolExecutor() as pool:  # each takes seconds to see its processes off
        list(pool.map(Server.stop, servers))


@pytest.fixture(scope="session")
def server(start, tiny_bundle) -> Server:
    """The unconditional bundle, served. Tests must leave it as it is."""
    return start(tiny_bundle)


@pytest.fixture(scope="session")
def labelled_server(start, labelled_bundle) -> Server:
    """The class-conditional bundle, served. Tests must leave it as it is."""
    return start(labelled_bundle)


@pytest.fixture(scope="session")
def stylegan2_server(start, stylegan2_bundle) -> Server:
    """The StyleGAN2 bundle, served. Tests must leave it as it is."""
    return start(stylegan2_bundle)


@pytest.fixture(params=PROTOCOLS)
def wire(request, server) -> Iterator[Wire]:
    """The unconditional server over each protocol."""
    with Wire(server, request.param) as wire:
        yield wire


@pytest.fixture(params=PROTOCOLS)
def labelled_wire(request, labelled_server) -> Iterator[Wire]:
    """The class-conditional server over each protocol."""
    with Wire(labelled_server, request.param) as wire:
        yield wire
