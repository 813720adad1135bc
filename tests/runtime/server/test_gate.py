"""How much may be under way behind a stage, also where the stage has several processes."""

from __future__ import annotations

import multiprocessing
import threading
from pathlib import Path
from typing import Any

from icgan_runtime.server.gate import Gate, Marks


def wait(event: threading.Event) -> None:
    event.wait()


def fill_and_wait(file: Path, full: Any) -> None:
    """A process whose probe is never answered."""
    gate = Gate(8, lambda: wait(threading.Event()), Marks(file))
    gate.enter(8)
    full.set()
    threading.Event().wait()


def test_a_process_that_dies_while_it_asks_leaves_the_room_to_those_that_come_in_its_place(tmp_path):
    context = multiprocessing.get_context("spawn")
    survivor, full = Gate(8, lambda: None, Marks(tmp_path / "marks")), context.Event()
    victim = context.Process(target=fill_and_wait, args=(tmp_path / "marks", full))
    victim.start()
    assert full.wait(60)
    assert not survivor.has_room
    victim.kill()
    victim.join()
    assert Gate(8, lambda: None, Marks(tmp_path / "marks")).has_room
    assert survivor.has_room


def test_a_process_that_ends_before_its_probes_have_begun_takes_no_room_along(tmp_path):
    answered = threading.Event()
    ending, other = (Gate(64, lambda: wait(answered), Marks(tmp_path / "marks")) for _ in range(2))
    for _ in range(9):  # more than there are threads to ask
        ending.enter(8)
    assert not other.has_room
    threading.Timer(0, answered.set).start()
    ending.close()
    assert other.has_room


def test_no_weight_is_lost_where_several_hand_over_at_once(tmp_path):
    marks = [Marks(tmp_path / "marks") for _ in range(2)]
    gates = [Gate(1e9, lambda: None, each) for each in marks]
    threads = [
        threading.Thread(target=lambda gate=gate: [gate.enter(1) for _ in range(500)]) for gate in gates * 2
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert marks[0].unconfirmed == marks[1].unconfirmed == 2000
