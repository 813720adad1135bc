"""The training loop: a model, settings and a data set in, a run directory out.

    RUN/config.json                 model, settings, encoder, data: written first
    RUN/centroids.npy               of the clusters, where those are the labels
    RUN/log.jsonl                   one line per tick
    RUN/samples/step-*.png          instance left, samples right
    RUN/checkpoints/step-*.safetensors, best.safetensors
    RUN/generator.safetensors       the averaged weights to export, renewed with every checkpoint
    RUN/discriminator.safetensors, encoder.safetensors

A step is a function of (state, seed, step number), so a run that is killed at any moment and started again
continues as if nothing had happened, bit for bit on a CPU.
"""

import collections.abc
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from icgan_training.data.dataset import PreparedDataset
from icgan_training.data.grid import sample_grid
from icgan_training.data.labels import training_labels
from icgan_training.distributed import ALONE, Processes, any_of
from icgan_training.errors import CollapseError, ConfigError
from icgan_training.fit.inputs import Inputs, StepInputs
from icgan_training.fit.journal import Journal
from icgan_training.fit.origin import Origin
from icgan_training.fit.position import Position
from icgan_training.fit.resume import (
    checkpoint_path,
    last_good,
    list_checkpoints,
    load_checkpoint,
    prune,
    save_checkpoint,
)
from icgan_training.fit.run import alone, open_run, publish
from icgan_training.fit.sampler import PARTS, Batch, Indices, Part, Sampler
from icgan_training.fit.start import start
from icgan_training.fit.step import STATISTICS, Trainer
from icgan_training.fit.stylegan2_step import StyleGAN2Trainer
from icgan_training.networks.backbones import AnyConfig
from icgan_training.networks.config import TrainConfig
from icgan_training.networks.stylegan2.config import StyleGAN2Config
from icgan_training.networks.stylegan2.train import StyleGAN2TrainConfig

Evaluate = Callable[[nn.Module, Indices | None], float]
"""Scores the averaged generator in eval mode, given each picture's training label; lower is better (FID)."""

DIVERGED = 1e4
"""A mean logit beyond this is a collapse: the hinge keeps those of a healthy run within some tens."""

AnyTrainer = Trainer | StyleGAN2Trainer

GRID_ROWS, GRID_COLUMNS = 8, 8


def fit(
    model: AnyConfig,
    train: TrainConfig,
    data: PreparedDataset,
    run_dir: Path,
    *,
    device: torch.device,
    processes: Processes = ALONE,
    evaluate: Evaluate | None = None,
    origin: Origin | None = None,
    change: bool = True,
) -> bool:
    """Train until `train.total_images`, continuing from the newest checkpoint of `run_dir` if it has one.

    A new run starts from the weights of `origin`, if there is one. `evaluate` scores the average at every
    checkpoint; the best one is then what is exported and kept as `checkpoints/best.safetensors`. Returns
    whether training is complete: SIGINT or SIGTERM, to any of the processes, makes it write a checkpoint and
    return False. `change`: whether an existing run may go on with other settings of training.
    Raises ConfigError for settings that do not fit the data or an existing run, or while another process
    trains it, CheckpointError when the disk refuses, CollapseError when the losses stop being numbers or
    the logits run away.
    """
    rows_at_once = _rows_at_once(train, processes)
    data = data.nearest(train.neighbours)
    with ExitStack() as stack:
        if processes.first:
            stack.enter_context(alone(run_dir))
            open_run(run_dir, model, train, data, {} if origin is None else origin.describe(), change)
        checkpoints = run_dir / "checkpoints"
        labels = training_labels(
            model,
            data,
            run_dir,
            source=train.label_source,
            seed=train.seed,
            begun=bool(list_checkpoints(checkpoints)),
            processes=processes,
        )
        trainer = make_trainer(model, train, device, processes)
        position = _resume(trainer, checkpoints)
        if position.step == 0:
            start(trainer, data, origin)
        sampler = _sampler(data, labels, model, train)
        draw = _drawing(sampler, model, train, processes, rows_at_once, pin=device.type == "cuda")
        images_per_step = train.batch_size * train.discriminator_steps
        left = math.ceil(max(0, train.total_images - position.images) / images_per_step)
        steps = range(position.step + 1, position.step + left + 1)
        keeper = None
        if processes.first:
            journal = Journal(run_dir, position.step, position.images, train.total_images)
            sheet = SampleSheet.choose(data, labels, model, train.seed)
            stack.enter_context(journal)
            keeper = Keeper(run_dir, trainer, position, train, journal, sheet, evaluate, labels)
        stop = stack.enter_context(_stop_requests(processes))
        batches = stack.enter_context(closing(_prefetched(draw, steps)))
        return _train(trainer, position, zip(steps, batches, strict=True), left, keeper, stop, checkpoints)


def _train(
    trainer: AnyTrainer,
    position: Position,
    batches: Iterator[tuple[int, StepInputs]],
    left: int,
    keeper: "Keeper | None",
    stop: threading.Event,
    checkpoints: Path,
) -> bool:
    """Train on each step's batch, `left` of them, and write at ticks; whether none of them was left out."""
    train, processes = trainer.train, trainer.processes
    images_per_step = train.batch_size * train.discriminator_steps
    tick_steps = max(1, train.tick_images // images_per_step)
    final = position.step + left
    clock = time.monotonic()
    for step, inputs in batches:
        position.advance(trainer.step(inputs.to(trainer.device), step), images_per_step)
        if keeper is not None:
            keeper.journal.advance(images_per_step)
        tick, last = step // tick_steps, step == final
        at_tick = step % tick_steps == 0 or last
        stopping = any_of(stop.is_set(), processes) and not last
        if not at_tick and not stopping:
            continue

        trainer.synchronise()
        position.spend(time.monotonic() - clock)
        record = position.record(processes, trainer.device)
        _watch(record, checkpoints)
        due = last or stopping or tick % train.checkpoint_ticks == 0
        improved = keeper is not None and keeper.improves(record, score=due and not stopping)
        if at_tick:
            position.next_tick()
        if keeper is not None:
            if at_tick:
                keeper.record(record, step, sheet=last or tick % train.snapshot_ticks == 0)
            if due:
                keeper.save(step, publish_too=improved)
        if stopping:
            return False
        clock = time.monotonic()
    return True


@dataclass(frozen=True)
class Keeper:
    """What the first process writes at a tick, beside those who only train."""

    run_dir: Path
    trainer: AnyTrainer
    position: Position
    train: TrainConfig
    journal: Journal
    sheet: "SampleSheet"
    evaluate: Evaluate | None
    labels: Indices | None

    def improves(self, record: dict[str, Any], *, score: bool) -> bool:
        """Whether the average is to be published: the best score so far, or there are no scores.

        score: whether to take one now; it goes into the record.
        """
        if self.evaluate is None:
            return True
        if not score:
            return False
        record["fid"] = fid = self.evaluate(self.trainer.average.module, self.labels)
        if self.position.best_fid is not None and not fid < self.position.best_fid:
            return False
        self.position.best_fid = fid
        return True

    def record(self, record: dict[str, Any], step: int, *, sheet: bool) -> None:
        """A line of the log, and a sheet of samples where one is due."""
        self.journal.record(record)
        if sheet:
            self.journal.picture(sample_grid(*self.sheet.draw(self.trainer)), step)

    def save(self, step: int, *, publish_too: bool) -> None:
        """A checkpoint, and before it the weights to export; the best of scored ones is kept as such."""
        checkpoints = self.run_dir / "checkpoints"
        if publish_too:
            publish(self.run_dir, self.trainer.average.module, self.trainer.discriminator)
            if self.evaluate is not None:
                best = checkpoints / "best.safetensors"
                save_checkpoint(best, self.trainer.state(), self.position.to_dict())
        path = checkpoint_path(checkpoints, step)
        save_checkpoint(path, self.trainer.state(), self.position.to_dict())
        prune(checkpoints, self.train.checkpoints_kept)


@dataclass(frozen=True)
class SampleSheet:
    """The instances and the noise that every sample sheet of a run shows."""

    instances: npt.NDArray[np.uint8]  # [M, R, R, 3]
    inputs: Inputs  # M·GRID_COLUMNS rows, instance by instance

    @classmethod
    def choose(
        cls, data: PreparedDataset, labels: Indices | None, model: AnyConfig, seed: int
    ) -> "SampleSheet":
        """M instances drawn once, with GRID_COLUMNS noises each."""
        rng = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, len(PARTS), 0]))
        count = len(data.images)
        chosen = np.sort(rng.choice(count, size=min(GRID_ROWS, count), replace=False))
        rows = chosen.repeat(GRID_COLUMNS)
        batch = Batch(
            image=None,
            embedding=np.asarray(data.embeddings[rows]),
            label=None if labels is None else labels[rows],
            noise=rng.standard_normal((len(rows), model.dim_z), dtype=np.float32),
            uniforms=np.empty((len(rows), 0), dtype=np.float32),
        )
        return cls(np.asarray(data.images[chosen]), Inputs.of(batch, model, pin=False))

    def draw(self, trainer: AnyTrainer) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """The instances, and what the averaged generator makes of them now [M, C, R, R, 3]."""
        samples = trainer.samples(self.inputs.to(trainer.device))
        return self.instances, samples.reshape(len(self.instances), GRID_COLUMNS, *samples.shape[1:])


def _rows_at_once(train: TrainConfig, processes: Processes) -> int:
    """Rows of a batch in one backward pass of one process. Raises ConfigError where they do not divide."""
    parts = train.accumulation * processes.world
    if train.batch_size % parts:
        raise ConfigError(
            f"batch_size {train.batch_size} cannot be split over {processes.world} processes"
            f" with accumulation {train.accumulation}: choose a multiple of their product"
        )
    return train.batch_size // parts


def _sampler(data: PreparedDataset, labels: Indices | None, model: AnyConfig, train: TrainConfig) -> Sampler:
    return Sampler(
        data,
        labels,
        seed=train.seed,
        dim_z=model.dim_z,
        neighbourhoods=model.takes_embedding,
        flip_images=train.picture_flip,
        flip_instances=train.instance_flip,
        balance=data.labels if train.long_tail else None,
    )


def _drawing(
    sampler: Sampler,
    model: AnyConfig,
    train: TrainConfig,
    processes: Processes,
    rows_at_once: int,
    *,
    pin: bool,
) -> Callable[[int], StepInputs]:
    """The function from a step's number to what this process trains on: its rows of every part of it."""

    def draw(step: int) -> StepInputs:
        def part(name: Part, turn: int, cut: int) -> Inputs:
            start = (cut * processes.world + processes.rank) * rows_at_once
            batch = sampler.draw(step, name, turn, train.batch_size, slice(start, start + rows_at_once))
            return Inputs.of(batch, model, pin=pin)

        turns, cuts = range(train.discriminator_steps), range(train.accumulation)
        return StepInputs(
            [[(part("real", turn, cut), part("fake", turn, cut)) for cut in cuts] for turn in turns],
            [part("generator", 0, cut) for cut in cuts],
        )

    return draw


def _resume(trainer: AnyTrainer, checkpoints: Path) -> Position:
    """Where the newest checkpoint left off, its state put back; the start when there is none."""
    paths = list_checkpoints(checkpoints)
    if not paths:
        return Position()
    return Position.from_dict(load_checkpoint(paths[-1], trainer.state()), trainer.device)


def make_trainer(
    model: AnyConfig, train: TrainConfig, device: torch.device, processes: Processes
) -> AnyTrainer:
    """The trainer of the model's backbone. Raises ConfigError for settings of the other one."""
    if isinstance(model, StyleGAN2Config) != isinstance(train, StyleGAN2TrainConfig):
        raise ConfigError(f"{type(train).__name__} are not the settings of a {type(model).__name__}")
    if isinstance(model, StyleGAN2Config):
        assert isinstance(train, StyleGAN2TrainConfig)
        return StyleGAN2Trainer(model, train, device, processes)
    return Trainer(model, train, device, processes)


def _watch(record: dict[str, Any], checkpoints: Path) -> None:
    """Stop a run that has collapsed, before its state can replace a good checkpoint."""
    for name in STATISTICS:
        value = record[name]
        if not math.isfinite(value) or (name.startswith("logit") and abs(value) > DIVERGED):
            raise CollapseError(
                f"training collapsed before step {record['step']}: {name} is {value};"
                f" {last_good(checkpoints)}: run again with lower learning rates to go on from it"
            )


def _prefetched(
    draw: Callable[[int], StepInputs], steps: Sequence[int]
) -> collections.abc.Generator[StepInputs, None, None]:
    """`draw` of each step, the next one read from disk while the current one trains."""
    with ThreadPoolExecutor(max_workers=1) as reader:
        waiting = [reader.submit(draw, step) for step in steps[:1]]
        for following in steps[1:]:
            ready = waiting.pop().result()
            waiting.append(reader.submit(draw, following))
            yield ready
        for future in waiting:
            yield future.result()


@contextmanager
def _stop_requests(processes: Processes) -> Iterator[threading.Event]:
    """An event that SIGINT or SIGTERM sets.

    A second signal acts as usual, except among several processes: there a Ctrl-C comes from the terminal and
    once more from torchrun.
    """
    requested = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield requested
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def request(*_: object) -> None:
        requested.set()
        if processes.world == 1:
            restore()

    for number in before:
        signal.signal(number, request)
    try:
        yield requested
    finally:
        restore()
