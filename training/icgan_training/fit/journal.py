"""What a run tells: log.jsonl, TensorBoard where it is installed, and the person who waits."""

import json
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from icgan_runtime.errors import REFUSED_BY_THE_MACHINE
from icgan_runtime.files import atomic_file
from icgan_training.data.grid import write_grid

try:
    from torch.utils.tensorboard import SummaryWriter
except ImportError:  # an optional convenience: log.jsonl holds the same numbers
    SummaryWriter = None  # type: ignore[assignment, misc]

SECONDS_BETWEEN_LINES = 20.0  # where nobody sees a bar


class Journal:
    """Records of one run, one per tick; use with `with`.

    On a terminal a bar shows pictures per second and time left; elsewhere every tick is one line.
    Records after `step`, left by a killed run that is now being repeated, are dropped from log.jsonl.
    """

    def __init__(self, run_dir: Path, step: int, images: int, total_images: int) -> None:
        self._run_dir = run_dir
        self.path = run_dir / "log.jsonl"
        self.total_images = total_images
        _keep_until(self.path, step)
        # before the writer, whose thread can meet a full disk while it is being made; what that raises here
        # ends the run, and the hook stays for the thread that is still dying then
        self._hook = threading.excepthook
        threading.excepthook = self._of_a_thread
        self._board = (
            None if SummaryWriter is None else SummaryWriter(run_dir / "tensorboard", purge_step=step + 1)
        )
        self._images, self._images_said, self._said = images, images, time.monotonic()
        terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=total_images, initial=images, unit=" img", disable=not terminal, smoothing=0.05
        )

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        if self._board is not None:
            self._board.close()  # waits for the thread
        threading.excepthook = self._hook

    def _of_a_thread(self, failed: threading.ExceptHookArgs) -> None:
        """TensorBoard writes in a thread; what a full disk does to it, the loop meets too and says."""
        error = failed.exc_value
        if not (isinstance(error, OSError) and error.errno in REFUSED_BY_THE_MACHINE):
            self._hook(failed)

    def advance(self, images: int) -> None:
        """Move the bar by `images` pictures; without a terminal a line, where ticks are far apart."""
        self._bar.update(images)
        self._images += images
        now = time.monotonic()
        if self._bar.disable and now - self._said >= SECONDS_BETWEEN_LINES:
            rate = (self._images - self._images_said) / (now - self._said)
            left = (self.total_images - self._images) / max(rate, 1e-9)
            self.say(f"{self._images}/{self.total_images} images, {rate:.1f}/s, {_clock(left)} left")

    def record(self, record: Mapping[str, Any]) -> None:
        """Append one tick's record, which has `step`, `images` and `images_per_second`, and show it."""
        with self.path.open("a") as log:
            log.write(json.dumps(record) + "\n")
        if self._board is not None:
            for name, value in record.items():
                self._board.add_scalar(name, value, record["step"])
            self._board.flush()
        left = (self.total_images - record["images"]) / record["images_per_second"]
        self.say(
            f"step {record['step']}: {record['images']}/{self.total_images} images,"
            f" {record['images_per_second']:.1f}/s, {_clock(left)} left,"
            f" loss D {record['loss_discriminator']:.3f} G {record['loss_generator']:.3f},"
            f" D(real) {record['logit_real']:.2f} D(fake) {record['logit_fake']:.2f}"
            + (f", FID {record['fid']:.2f}" if "fid" in record else "")
        )

    def picture(self, grid: npt.NDArray[np.uint8], step: int) -> None:
        """Keep a sample sheet [H, W, 3] as samples/step-*.png."""
        write_grid(self._run_dir / "samples" / f"step-{step:09d}.png", grid)
        if self._board is not None:
            self._board.add_image("samples", grid, step, dataformats="HWC")

    def say(self, line: str) -> None:
        """One line for the person who waits, above the bar if there is one."""
        self._said, self._images_said = time.monotonic(), self._images
        tqdm.write(line, file=sys.stderr)


def _keep_until(path: Path, step: int) -> None:
    """Drop the records after `step`, and lines that a kill cut short or a disk damaged."""
    if not path.exists():
        return
    lines = path.read_text(errors="replace").splitlines(keepends=True)
    with atomic_file(path) as partial:
        partial.write_text("".join(line for line in lines if 0 <= _step_of(line) <= step))


def _step_of(line: str) -> int:
    """The step of a line of log.jsonl; -1 of what is no whole record."""
    try:
        found = json.loads(line)["step"] if line.endswith("\n") else -1
    except (ValueError, LookupError, TypeError):
        return -1
    return found if isinstance(found, int) else -1


def _clock(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"
