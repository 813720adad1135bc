"""What a run tells, read back with the tools people use."""

import errno
import json
import threading
from pathlib import Path

import numpy as np
import pytest

from icgan_training.fit.journal import Journal

RECORD = {
    "step": 4,
    "images": 16,
    "images_per_second": 8.0,
    "loss_discriminator": 1.5,
    "loss_generator": 0.5,
    "logit_real": 0.25,
    "logit_fake": -0.25,
}


def test_a_run_goes_on_with_the_records_that_a_damaged_log_still_holds(tmp_path: Path) -> None:
    records = [json.dumps(RECORD | {"step": step}) for step in (4, 8, 12)]
    damaged = [records[0], "\0" * 40, "[]", '{"step": "8"}', records[1], records[2]]
    (tmp_path / "log.jsonl").write_text("\n".join(damaged) + '\n{"step": 7, "ima')
    with Journal(tmp_path, step=8, images=32, total_images=64):
        pass
    assert (tmp_path / "log.jsonl").read_text() == f"{records[0]}\n{records[1]}\n"


def test_tensorboard_shows_every_scalar_and_the_sample_sheet(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    sheet = np.zeros((64, 96, 3), np.uint8)
    with Journal(tmp_path, step=0, images=0, total_images=32) as journal:
        journal.record(RECORD)
        journal.picture(sheet, step=4)
    board = events.EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert set(board.Tags()["scalars"]) == set(RECORD)
    (loss,) = board.Scalars("loss_discriminator")
    assert (loss.step, loss.value) == (4, 1.5)
    (picture,) = board.Images("samples")
    assert (picture.step, picture.height, picture.width) == (4, 64, 96)
    assert (tmp_path / "samples" / "step-000000004.png").exists()


@pytest.mark.parametrize("written", [0, 3])  # before, and after the writer has been made
def test_a_disk_that_fills_up_under_tensorboard_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    files = pytest.importorskip("tensorboard.summary.writer.record_writer")
    told: list[object] = []
    left = iter(range(written))

    def write(*_: object) -> None:
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.RecordWriter, "write", write)
    monkeypatch.setattr(threading, "excepthook", told.append)
    with (
        pytest.raises(OSError, match="No space left"),
        Journal(tmp_path, step=0, images=0, total_images=32) as journal,
    ):
        journal.record(RECORD)
    for thread in threading.enumerate():
        if type(thread).__name__ == "_AsyncWriterThread":
            thread.join(10)
    assert told == []


def test_without_a_terminal_a_line_comes_before_a_tick_is_over(tmp_path: Path, monkeypatch, capsys) -> None:
    """Ticks of small machines take minutes."""
    monkeypatch.setattr("icgan_training.fit.journal.SECONDS_BETWEEN_LINES", 0)
    with Journal(tmp_path, step=0, images=100, total_images=400) as journal:
        journal.advance(50)
        journal.advance(50)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["150/400 images", "200/400 images"]
    assert lines[0].endswith(" left")
