"""A run: the units that have no shard yet, by this process or by Ray, and the sums when all are there."""

from __future__ import annotations

import dataclasses
import functools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from icgan_runtime import files
from icgan_runtime.console import Progress, tell
from icgan_runtime.errors import MissingExtraError, RequestError
from icgan_runtime.route import Route
from icgan_runtime.synthesize.recipe import Recipe
from icgan_runtime.synthesize.work import Job, Worker

SUMS = "SHA256SUMS"
GPU_BACKENDS = ("cuda", "tensorrt")  # how their names end

Advance = Callable[[int, int, list[tuple[str, str]]], None]  # a unit, its variants, skipped instances


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a run did and what is there now."""

    recipe: Recipe
    route: Route
    written: int  # variants of this run
    skipped: int  # instances of this run that could not be read
    complete: bool  # whether all shards are there


def synthesize(
    job: Job, *, part: tuple[int, int] = (0, 1), ray: str | None = None, workers: int = 0
) -> Summary:
    """Make the shards of a job that are not there yet, and SHA256SUMS when all are.

    `part` (k, n): only units whose number leaves k when divided by n, for n commands that share a folder.
    `ray`: the address of a cluster, or "local" for one of this machine's processors; `workers` at once there
    (0: as many as fit). Raises IcganError; what was finished before is there.
    """
    worker = Worker.open(job)
    written = skipped = 0
    try:
        recipe = worker.recipe
        own = range(part[0], recipe.units, part[1])
        total = sum_variants(recipe, own)
        done = sum(len_of(recipe, number) for number in own if worker.is_done(number))
        with Progress("synthesize", "variants", total, done) as progress:

            def advance(number: int, count: int, missing: list[tuple[str, str]]) -> None:
                nonlocal written, skipped
                written, skipped = written + count, skipped + len(missing)
                for instance, problem in missing:
                    tell(f"skipped {instance}: {problem}")
                progress.advance(len_of(recipe, number))

            todo = (number for number in own if not worker.is_done(number))
            if ray is None:
                for number in todo:
                    advance(number, *worker.make(number))
            else:
                on_gpu = worker.chain.route.backend.endswith(GPU_BACKENDS)
                on_ray(job, todo, ray, workers, advance, gpus=int(on_gpu))
        complete = finish(worker, bool(written))
        return Summary(recipe, worker.chain.route, written, skipped, complete)
    finally:
        worker.close()


def on_ray(
    job: Job, todo: Iterator[int], address: str, workers: int, advance: Advance, gpus: int = 0
) -> None:
    """The units on a Ray cluster, each with so many GPUs. MissingExtraError where Ray is not installed."""
    try:
        from icgan_runtime.cluster import Place, spread
    except ImportError:
        raise MissingExtraError("ray", "ray") from None
    cpus = max(1, job.threads)
    where = dataclasses.replace(
        job,
        source=_absolute(job.source),
        out=str(Path(job.out).resolve()),
        bundle=None if job.bundle is None else _absolute(job.bundle),
        label=_absolute(job.label),
        scorer=_absolute(job.scorer),
        threads=cpus,
    )
    spread(
        _make,
        ((number, (where, number)) for number in todo),
        lambda number, made: advance(number, *made),
        Place(address, workers, cpus, gpus),
    )


def _make(job: Job, number: int) -> tuple[int, list[tuple[str, str]]]:
    """A task: one shard in the shared folder, unless another worker has finished it meanwhile."""
    worker = _worker(job)
    return (0, []) if worker.is_done(number) else worker.make(number)


@functools.lru_cache(maxsize=1)
def _worker(job: Job) -> Worker:
    """A process opens the job once and keeps it."""
    return Worker.join(job)


def finish(worker: Worker, anew: bool) -> bool:
    """Write the SHA-256 of every shard if all are there; whether they are."""
    recipe, out = worker.recipe, worker.out
    if not all(worker.is_done(number) for number in range(recipe.units)):
        return False
    if (out / SUMS).exists() and not anew:
        return True
    try:
        with files.atomic_file(out / SUMS) as partial, partial.open("w", encoding="ascii") as lines:
            for number in range(recipe.units):
                shard = out / recipe.shard_name(number)
                for path in sorted(shard.iterdir()) if shard.is_dir() else [shard]:
                    lines.write(f"{files.sha256_of_file(path)}  {path.relative_to(out).as_posix()}\n")
        for left in out.glob(f".{recipe.id}-*"):  # by workers that were killed
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
    except OSError as error:
        raise RequestError(
            "out",
            f"{out / SUMS} cannot be written ({error.strerror}): mend that and give the same command again",
        ) from None
    return True


def len_of(recipe: Recipe, number: int) -> int:
    """How many variants a unit has if nothing is skipped."""
    unit = recipe.unit(number)
    return len(unit.instances) * len(unit.samples)


def sum_variants(recipe: Recipe, own: range) -> int:
    """How many variants some units have if nothing is skipped."""
    if own == range(recipe.units):
        return recipe.variants
    return sum(len_of(recipe, number) for number in own)


def _absolute(name: str) -> str:
    """A path as workers in other folders know it; other words as they are."""
    return str(Path(name).resolve()) if Path(name).exists() else name
