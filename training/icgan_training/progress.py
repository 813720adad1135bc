"""Progress of long work: a bar on a terminal, one line now and then elsewhere."""

import sys
import time
from typing import TextIO

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Counts finished items and shows rate and time left; use with `with`.

    On a terminal it is a tqdm bar. In a log it prints one line every ten seconds and one at the end.
    """

    def __init__(
        self, total: int, description: str, unit: str, done: int = 0, stream: TextIO | None = None
    ) -> None:
        self.total, self.description, self.unit = total, description, unit
        self.stream = sys.stderr if stream is None else stream
        self.started_at_count = self.done = done
        self.printed = done
        self.started = self.last_line = time.monotonic()
        self.bar = (
            tqdm(total=total, initial=done, desc=description, unit=f" {unit}", file=self.stream)
            if self.stream.isatty()
            else None
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()
        elif self.done > self.printed:
            self._line()

    def advance(self, count: int = 1) -> None:
        """Count `count` more items as finished."""
        self.done += count
        if self.bar is not None:
            self.bar.update(count)
        elif time.monotonic() - self.last_line >= SECONDS_BETWEEN_LINES:
            self._line()

    def _line(self) -> None:
        self.last_line, self.printed = time.monotonic(), self.done
        elapsed = max(self.last_line - self.started, 1e-9)
        rate = (self.done - self.started_at_count) / elapsed
        left = (self.total - self.done) / rate if rate > 0 else 0.0
        print(
            f"{self.description}: {self.done}/{self.total} {self.unit}, {rate:.1f}/s, "
            f"{elapsed:.0f} s spent, {left:.0f} s left",
            file=self.stream,
            flush=True,
        )
