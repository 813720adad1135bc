"""Independent tasks on a cluster of Ray. The only file that imports ray.

A task that loses its worker or node is given to another by Ray. Each does all of its own reading: actors that
hold every processor would leave none for readers they wait for, and Ray would wait in silence.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody

import ray
from ray.exceptions import RayError, RayTaskError

from icgan_runtime.console import tell
from icgan_runtime.cpus import usable_cpus
from icgan_runtime.errors import BackendError, IcganError

LOCAL = "local"
_SAY_WAITING_S = 15.0
_RETRIES = 20  # of a task whose worker was lost; one that ends every worker is not tried for ever
_QUEUED = 2  # tasks for each worker: the next begins as one ends, and no more stand in Ray's memory


@dataclass(frozen=True)
class Place:
    """Where tasks run: a cluster's address, or LOCAL, and what each takes there."""

    address: str
    workers: int = 0  # at once; 0: as many as fit
    cpus: int = 1  # of a task
    gpus: int = 0


def spread(
    task: Callable[..., Any],
    todo: Iterator[tuple[int, tuple[Any, ...]]],
    done: Callable[[int, Any], None],
    place: Place,
    shared: tuple[Any, ...] = (),
    what: str = "shards",
) -> None:
    """Run task(*shared, *arguments) for each number and arguments, and `done` with its result as it ends.

    `shared` is sent to each node once. Raises the IcganError of a task, and BackendError for what Ray says.
    """
    _connect(place)
    try:
        held = [ray.put(value) for value in shared]
        remote = ray.remote(num_cpus=place.cpus, num_gpus=place.gpus, max_retries=_RETRIES)(task)
        waiting: dict[Any, int] = {}
        while True:
            room = _QUEUED * max(1, place.workers or int(_total("CPU")) // place.cpus)
            while len(waiting) < room and (one := next(todo, None)) is not None:
                waiting[remote.remote(*held, *one[1])] = one[0]
            if not waiting:
                return
            ready, _ = ray.wait(list(waiting), timeout=_SAY_WAITING_S)
            if not ready:
                free = ray.available_resources().get("CPU", 0)
                tell(
                    f"waiting for {len(waiting)} {what} on Ray: {free:g} of {_total('CPU'):g} CPUs of "
                    f"{sum(node['Alive'] for node in _nodes())} nodes are free"
                )
            for reference in ready:
                done(waiting.pop(reference), ray.get(reference))
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, IcganError):
            raise cause from None
        raise
    except (RayError, ConnectionError) as error:
        raise BackendError(f"Ray at {place.address}: {' '.join(str(error).split())[:300]}") from None
    finally:
        ray.shutdown()


def _connect(place: Place) -> None:
    address = place.address
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal() and "/" not in host:  # Ray itself would try for minutes
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except OSError as error:
            raise BackendError(f"Ray at {address} cannot be reached ({error.strerror or error})") from None
    options: dict[str, Any] = {"include_dashboard": False}
    if address == LOCAL:
        options["num_cpus"] = place.workers * place.cpus or max(usable_cpus(), place.cpus)
    try:
        ray.init(
            address=address,
            logging_level=logging.ERROR,
            log_to_driver=False,
            **(options if address == LOCAL else {}),
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise BackendError(
            f"Ray at {address} cannot be reached ({' '.join(str(error).split())[:200]})"
        ) from None


def _nodes() -> list[dict[str, Any]]:
    nodes: list[dict[str, Any]] = ray.nodes()
    return nodes


def _total(kind: str) -> float:
    return float(ray.cluster_resources().get(kind, 0))
