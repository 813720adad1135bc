"""Units of a run as tasks of Ray. The only file that imports ray.

A task makes one shard in the shared folder; when its worker or node is lost, Ray gives it to another. A
process opens the job once and keeps it.
"""

from __future__ import annotations

import functools
import logging
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody

import ray
from ray.exceptions import RayError, RayTaskError

from icgan_runtime.console import tell
from icgan_runtime.cpus import usable_cpus
from icgan_runtime.errors import BackendError, IcganError
from icgan_runtime.synthesize.work import Job, Worker

LOCAL = "local"
_SAY_WAITING_S = 15.0
_RETRIES = 20  # of a shard whose worker was lost; one that ends every worker is not tried for ever
_QUEUED = 2  # tasks for each worker: the next begins as one ends, and no more stand in Ray's memory


def run_units(
    job: Job,
    todo: Iterator[int],
    address: str,
    workers: int,
    advance: Callable[[int, int, list[tuple[str, str]]], None],
    gpus: int = 0,
) -> None:
    """Make the shards of some units on a cluster, each with `gpus` GPUs and `job.threads` processors.

    Raises IcganError, BackendError for what Ray says.
    """
    _connect(address, workers)
    try:
        each = max(1, job.threads)
        job = replace(job, threads=each)
        task = ray.remote(num_cpus=each, num_gpus=gpus, max_retries=_RETRIES)(_make)
        waiting: dict[Any, int] = {}
        while True:
            room = _QUEUED * max(1, workers or int(_total("CPU")) // each)
            while len(waiting) < room and (number := next(todo, None)) is not None:
                waiting[task.remote(job, number)] = number
            if not waiting:
                return
            ready, _ = ray.wait(list(waiting), timeout=_SAY_WAITING_S)
            if not ready:
                free = ray.available_resources().get("CPU", 0)
                tell(
                    f"waiting for {len(waiting)} shards on Ray: {free:g} of {_total('CPU'):g} CPUs of "
                    f"{sum(node['Alive'] for node in _nodes())} nodes are free"
                )
            for reference in ready:
                number = waiting.pop(reference)
                advance(number, *ray.get(reference))
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, IcganError):
            raise cause from None
        raise
    except (RayError, ConnectionError) as error:
        raise BackendError(f"Ray at {address}: {' '.join(str(error).split())[:300]}") from None
    finally:
        ray.shutdown()


def _connect(address: str, workers: int) -> None:
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal() and "/" not in host:  # Ray itself would try for minutes
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except OSError as error:
            raise BackendError(f"Ray at {address} cannot be reached ({error.strerror or error})") from None
    options: dict[str, Any] = {"include_dashboard": False}
    if address == LOCAL:
        options["num_cpus"] = workers or usable_cpus()
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


def _make(job: Job, number: int) -> tuple[int, list[tuple[str, str]]]:
    """A task: one shard, unless another worker has finished it meanwhile."""
    worker = _worker(job)
    return (0, []) if worker.is_done(number) else worker.make(number)


@functools.lru_cache(maxsize=1)
def _worker(job: Job) -> Worker:
    return Worker.join(job)
