"""A worker: opens what a job names and makes shards of its recipe, one unit after the other.

Nothing but the recipe and the unit's number decides what a shard holds: a unit's rows are drawn in batches of
the recipe's size, in one order, whoever draws them and whatever was drawn before.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from icgan_runtime import files, images
from icgan_runtime.backends.select import choose_graph
from icgan_runtime.chain import MAX_BATCH, Chain, LocalChain
from icgan_runtime.client.connection import ConnectionOptions, options_from_environment
from icgan_runtime.errors import MissingExtraError, RequestError
from icgan_runtime.marks.claim import SINGLE, Claim
from icgan_runtime.marks.claim import VERSION as CLAIM_VERSION
from icgan_runtime.marks.claim import Source as DrawnBy
from icgan_runtime.marks.metadata import xmp_packet
from icgan_runtime.request import check_truncation
from icgan_runtime.rows import CONDITIONS, Rows
from icgan_runtime.synthesize.fleet import connect_all
from icgan_runtime.synthesize.labels import NO_LABEL, Labels, open_labels
from icgan_runtime.synthesize.png import encode_png
from icgan_runtime.synthesize.recipe import (
    IMAGES,
    Recipe,
    Settings,
    Unit,
    instance_seed,
    programs,
    read_recipe,
)
from icgan_runtime.synthesize.scores import Scorer, open_scorer
from icgan_runtime.synthesize.shards import About, Variant, write_shard
from icgan_runtime.synthesize.sources import Instances, Source, open_source

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]
A = TypeVar("A")
B = TypeVar("B")

# A run of hours should outlive a server's restart: nine tries over some 50 seconds.
PATIENT = {"timeout_s": 300.0, "retries": 9}
MARKING = "xmp:trainedAlgorithmicMedia"  # IPTC's digital source type, in the metadata of every image


@dataclass(frozen=True)
class Job:
    """What is to be made and where it runs: plain values, for workers on other machines too."""

    source: str  # --from
    out: str
    bundle: str | None = None
    urls: tuple[str, ...] = ()
    backend: str = "auto"
    precision: str | None = None
    search: str = "auto"
    threads: int = 0
    state: str | None = None  # of the bank; None: the newest
    label: str = "own"
    scorer: str = "none"
    settings: Settings = field(default_factory=Settings)


@dataclass(frozen=True, eq=False)
class Drawn:
    """A batch of images [N, R, R, 3] with what they were drawn from."""

    which: I64  # [N], place of the instance in its unit
    sample: I64
    images: U8
    label: I64  # [N], NO_LABEL where there is none
    score: F32 | None


@dataclass(frozen=True, eq=False)
class Worker:
    """An opened job; use `open` or `join`, and `close`."""

    recipe: Recipe
    out: Path
    chain: Chain
    source: Source
    labels: Labels
    score: Scorer | None
    pool: ThreadPoolExecutor
    ahead: int  # batches under way

    @cached_property
    def drawn_by(self) -> DrawnBy:
        """What the marks say draws the images."""
        if isinstance(self.chain, LocalChain):
            return self.chain.source
        model = self.chain.model
        return DrawnBy(model.name, model.version, model.identity)

    @classmethod
    def open(cls, job: Job) -> Worker:
        """The first worker of a run: writes listing and recipe, or finds its own there."""
        job.settings.check()
        worker = cls._open(job, list_anew=True)
        try:
            worker.recipe.write(worker.out)
        except BaseException:
            worker.close()
            raise
        return worker

    @classmethod
    def join(cls, job: Job) -> Worker:
        """A further worker, perhaps on another machine: only what gives the bytes of the recipe may help."""
        recipe = read_recipe(Path(job.out))
        worker = cls._open(job, list_anew=False)
        if worker.recipe != recipe:
            worker.close()
            worker.recipe.write(worker.out)  # says in what they differ
        return worker

    @classmethod
    def _open(cls, job: Job, *, list_anew: bool) -> Worker:
        out = Path(job.out)
        chain = open_chain(job)
        try:
            source = open_source(job.source, chain, out, list_anew=list_anew)
            labels = open_labels(job.label, chain.model.classes, len(source))
            name, score = open_scorer(job.scorer, chain, job.threads)
            settings = replace(job.settings, labels=labels.name, scorer=name)
            if settings.best_of is not None and score is None:
                raise RequestError("scorer", "none: the best of many are chosen by a score")
            recipe = make_recipe(chain, source, settings, job.precision)
        except BaseException:
            chain.close()
            raise
        ahead = 2 * max(1, len(job.urls))
        pool = ThreadPoolExecutor(max(1, 2 * len(job.urls)), thread_name_prefix="icgan draws")
        return cls(recipe, out, chain, source, labels, score, pool, ahead)

    def close(self) -> None:
        """Release what it holds."""
        self.pool.shutdown(cancel_futures=True)
        self.chain.close()

    def is_done(self, number: int) -> bool:
        """Whether a unit's shard is there."""
        return (self.out / self.recipe.shard_name(number)).exists()

    def make(self, number: int) -> tuple[int, list[tuple[str, str]]]:
        """Make a unit's shard; how many variants it holds, and which instances were skipped and why."""
        unit, settings = self.recipe.unit(number), self.recipe.settings
        instances = self.source.read(unit.instances, self.chain)
        if instances.skipped:
            lines = [json.dumps({"instance": one, "problem": why}) + "\n" for one, why in instances.skipped]
            files.write_whole(self.out / self.recipe.skipped_name(number), "".join(lines).encode(), "out")
        names = self.recipe.class_names
        path = self.out / self.recipe.shard_name(number)
        drawn = ordered(
            self.pool, lambda batch: self._draw(instances, *batch), self._batches(unit, instances), self.ahead
        )
        best = drawn if settings.best_of is None else choose(drawn, settings.per)
        variants = (variant for batch in best for variant in self._variants(instances, batch))
        return write_shard(path, settings.format, settings.image, names, variants), instances.skipped

    def _batches(self, unit: Unit, instances: Instances) -> Iterator[tuple[I64, I64]]:
        """Places of instances [N] and samples [N], the samples of one instance after the other."""
        samples = (
            unit.samples if self.recipe.settings.best_of is None else range(self.recipe.settings.best_of)
        )
        total = len(instances.rows) * len(samples)
        for start in range(0, total, self.recipe.batch):
            flat = np.arange(start, min(start + self.recipe.batch, total))
            yield flat // len(samples), samples.start + flat % len(samples)

    def _draw(self, instances: Instances, which: I64, sample: I64) -> Drawn:
        settings, embeddings = self.recipe.settings, instances.embeddings[which]
        ids = [instances.ids[i] for i in which]
        seeds = np.array([instance_seed(settings.seed, one) for one in ids], np.int64)
        numbers = np.array(instances.rows, np.int64)[which]
        given = None if instances.labels is None else instances.labels[which]
        rows = Rows(
            seed=seeds,
            sample=sample,
            truncation=np.full(len(which), check_truncation(settings.truncation), np.float32),
            condition=np.full(len(which), CONDITIONS.index(settings.condition), np.int32),
            label=self.labels.asked(numbers, ids, given, seeds, sample),
        )
        generated, label = self.chain.generate_rows(embeddings, rows)
        if label is None:
            label = self.labels.known(numbers, ids, given)
        if label is None:
            label = np.full(len(which), NO_LABEL, np.int64)
        score = None if self.score is None else self.score(generated, embeddings)
        return Drawn(which, sample, generated, label, score)

    def _variants(self, instances: Instances, batch: Drawn) -> Iterator[Variant]:
        settings = self.recipe.settings
        for i, place in enumerate(batch.which):
            instance, sample = instances.ids[place], int(batch.sample[i])
            about = About(
                id=f"{instances.rows[place]:012}-{sample:06}",
                instance=instance.encode("utf-8", "replace").decode(),
                seed=instance_seed(settings.seed, instance),
                sample=sample,
                label=None if batch.label[i] == NO_LABEL else int(batch.label[i]),
                score=None if batch.score is None else float(batch.score[i]),
                licence=self.recipe.licence,
                marking=MARKING if settings.mark else "none",
            )
            yield Variant(about, self._encode(batch.images[i], about))

    def _encode(self, image: U8, about: About) -> bytes:
        """A variant's image file, with unsigned metadata: a signature would differ each time it is made."""
        settings = self.recipe.settings
        claim = Claim(
            version=CLAIM_VERSION,
            source=self.drawn_by,
            seed=about.seed,
            first=about.sample,
            n=1,
            truncation=settings.truncation,
            condition=settings.condition,
            label=about.label if self.chain.model.classes else None,
            sheet=SINGLE,
            embedding_sha256=None,
            embedding=None,
        )
        xmp = xmp_packet(claim) if settings.mark else None
        if settings.image == "png":
            return encode_png(image, xmp)
        return images.encode(image, IMAGES[settings.image], xmp)


def open_chain(job: Job) -> Chain:
    """A bundle in this process, or the servers."""
    if not job.urls:
        assert job.bundle is not None
        return LocalChain.load(
            job.bundle,
            backend=job.backend,
            precision=job.precision,
            search=job.search,
            threads=job.threads,
            state=job.state,
        )
    try:
        from icgan_runtime.client.triton import TritonChain
    except ImportError:
        raise MissingExtraError("tritonclient", "triton") from None
    # among several, another is asked soon
    patience = PATIENT if len(job.urls) == 1 else {**PATIENT, "retries": 1}
    options = ConnectionOptions(**{**patience, **options_from_environment()})
    return connect_all(job.urls, lambda url: TritonChain(url, options))


def make_recipe(chain: Chain, source: Source, settings: Settings, precision: str | None) -> Recipe:
    """All that decides the bytes: the parts of the bundle that are used, the instances, the settings."""
    model, batch, backend = chain.model, MAX_BATCH, chain.route.backend
    named = {"name": model.name, "version": model.version, "identity": model.identity}
    if isinstance(chain, LocalChain):
        batch = min(batch, chain.max_batch)
        held = chain.manifest.files
        for role in ("encoder", "generator"):
            named[role] = held[choose_graph(chain.manifest, role, precision, backend).file].sha256
        for name in ("embeddings", "ids", "labels"):
            if f"bank/{name}.npy" in held:
                named[f"bank {name}"] = held[f"bank/{name}.npy"].sha256
    names = model.class_names if model.classes else source.class_names
    return Recipe(
        model=named,
        programs=programs(settings, backend),
        source=source.kind,
        instances=len(source),
        instances_sha256=source.sha256,
        class_names=names,
        licence=model.licence.weights,
        resolution=model.resolution,
        batch=batch,
        settings=settings,
    )


def ordered(
    pool: ThreadPoolExecutor, function: Callable[[A], B], items: Iterable[A], ahead: int
) -> Iterator[B]:
    """function(item) of each, in order, with at most `ahead` under way beside the one that is used."""
    waiting: deque[Future[B]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:  # whoever used them has stopped early, or one failed
        for future in waiting:
            future.cancel()


def choose(drawn: Iterable[Drawn], keep: int) -> Iterator[Drawn]:
    """The `keep` best of each instance, best first, ties by sample; memory is that of those kept."""
    now, held = -1, None
    for batch in drawn:
        for which in np.unique(batch.which):  # ascending, as they come
            some = pick(batch, np.flatnonzero(batch.which == which))
            if held is not None and which == now:
                some = join(held, some)
            elif held is not None:
                yield held
            assert some.score is not None
            held, now = pick(some, np.lexsort((some.sample, -some.score))[:keep]), int(which)
    if held is not None:
        yield held


def pick(batch: Drawn, places: NDArray[np.intp]) -> Drawn:
    """Some of a batch, in this order."""
    score = None if batch.score is None else batch.score[places]
    return Drawn(batch.which[places], batch.sample[places], batch.images[places], batch.label[places], score)


def join(one: Drawn, other: Drawn) -> Drawn:
    """Two scored batches as one."""
    assert one.score is not None
    assert other.score is not None
    return Drawn(
        np.concatenate([one.which, other.which]),
        np.concatenate([one.sample, other.sample]),
        np.concatenate([one.images, other.images]),
        np.concatenate([one.label, other.label]),
        np.concatenate([one.score, other.score]),
    )
