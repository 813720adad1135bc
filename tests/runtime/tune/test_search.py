"""The search for settings, on servers whose answers are computed: rates that are known beforehand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from icgan_runtime.errors import ServiceError
from icgan_runtime.server.options import RepositoryOptions
from icgan_runtime.tune.measure import Point
from icgan_runtime.tune.search import Found, Goal, table, to_json, tune
from icgan_runtime.tune.space import Space

DEFAULTS = RepositoryOptions()
AXES = {
    "library": ({"cpu_backend": "openvino"}, {"cpu_backend": "openvino-bf16"}),
    "generators": ({"generators": 2},),
    "batch": ({"max_batch": 8},),
}
START_S = 3


class Machine:
    """A clock, and servers that take `cost(options)` seconds for a request, one after the other."""

    def __init__(self, cost: Callable[[RepositoryOptions], float]) -> None:
        self.now, self.cost = 0.0, cost
        self.running: list[RepositoryOptions] = []
        self.most = 0
        self.spells: dict[int, float] = {}  # turn -> how many times slower the machine is then
        self.turns = 0

    @asynccontextmanager
    async def stage(self, options: RepositoryOptions) -> AsyncIterator[Machine.Trial]:
        if self.cost(options) == float("inf"):
            raise ServiceError("it does not load")
        self.now += START_S
        self.running.append(options)
        self.most = max(self.most, len(self.running))
        yield Machine.Trial(self, options)
        self.running.remove(options)

    class Trial:
        def __init__(self, machine: Machine, options: RepositoryOptions) -> None:
            self.machine, self.options = machine, options

        async def turn(self, clients: int, seconds: float) -> Point:
            machine = self.machine
            machine.turns += 1
            cost = machine.cost(self.options) * machine.spells.get(machine.turns, 1)
            machine.now += seconds
            # a lone client leaves the server idle a fifth of the time
            each = cost * 1.25 if clients == 1 else cost
            latencies = (clients * each,) * int(seconds / each)
            return Point(self.options, clients, 8, seconds, latencies)


def search(machine: Machine, p99_s: float, minutes: float = 10, axes=AXES) -> Found:
    said: list[str] = []
    space = Space(axes, ("openvino int8: misses its bound",))
    goal = Goal(p99_s, minutes)
    found = asyncio.run(tune(space, DEFAULTS, goal, machine.stage, said.append, lambda: machine.now))
    assert machine.running == [], "every server is stopped"
    assert machine.most <= 2
    return found


def cost(options: RepositoryOptions) -> float:
    seconds = {"onnxruntime": 0.02, "openvino": 0.021, "openvino-bf16": 0.012}[options.cpu_backend]
    return seconds * (0.8 if options.generators == 2 else 1) * (1.01 if options.max_batch == 8 else 1)


def test_settings_that_help_are_kept_together_and_their_gain_is_measured_against_the_defaults():
    found = search(Machine(cost), p99_s=0.1)
    assert found.best == RepositoryOptions(cpu_backend="openvino-bf16", generators=2)
    assert found.times == pytest.approx(0.02 / (0.012 * 0.8), rel=0.02)
    assert found.final["defaults"].percentile(99) <= 0.1
    assert found.final["best"].percentile(99) <= 0.1
    assert "not tried: openvino int8: misses its bound" in found.notes


def test_where_nothing_helps_the_defaults_stay_and_nothing_is_claimed():
    found = search(Machine(lambda options: 0.02), p99_s=0.1)
    assert found.best == DEFAULTS
    assert found.times is None
    assert found.final == {}


def test_the_bound_decides_between_more_images_and_sooner_ones():
    """With two generators more images come, each later."""

    def slower_alone(options: RepositoryOptions) -> float:
        return 0.02 if options.generators == 1 else 0.015

    axes = {"generators": ({"generators": 2},)}
    assert search(Machine(slower_alone), p99_s=0.2, axes=axes).best.generators == 2
    machine = Machine(lambda options: 0.02 if options.generators == 1 else 0.06)
    assert search(machine, p99_s=0.03, axes=axes).best.generators == 1


def test_one_slow_spell_of_the_machine_makes_no_winner():
    """The incumbent is hit by it in the first duel, and not in the second."""
    machine = Machine(lambda options: 0.02)
    machine.spells = dict.fromkeys((1, 3, 5), 3.0)
    assert search(machine, p99_s=0.1, axes={"generators": ({"generators": 2},)}).best == DEFAULTS


def test_a_setting_that_does_not_load_is_named_and_the_search_goes_on():
    def cannot(options: RepositoryOptions) -> float:
        return float("inf") if options.cpu_backend == "openvino" else cost(options)

    found = search(Machine(cannot), p99_s=0.1)
    assert found.best.cpu_backend == "openvino-bf16"
    assert "--backend openvino failed: it does not load" in found.notes


def test_the_time_is_bounded_and_what_it_did_not_reach_is_named():
    machine = Machine(cost)
    found = search(machine, p99_s=0.1, minutes=2)
    assert machine.now <= 2 * 60 * 1.25, "the last measurement may run over"
    assert any(note.startswith("no time left for batch: ") for note in found.notes)
    assert found.times is not None, "time for the comparison is kept"


def test_where_the_defaults_cannot_keep_the_bound_both_are_compared_at_what_they_can():
    found = search(Machine(cost), p99_s=0.02)
    assert found.best.cpu_backend == "openvino-bf16"
    assert found.bound_s == pytest.approx(0.025)
    assert found.times == pytest.approx(0.02 / (0.012 * 0.8), rel=0.3)
    assert any(
        note.startswith("defaults: not within 20 ms with any number of clients") for note in found.notes
    )


def test_the_front_has_no_point_that_another_beats_in_both():
    report = to_json(search(Machine(cost), p99_s=0.1))
    rates = [row["images_per_second"] for row in report["front"]]
    assert rates == sorted(rates)
    assert [row["p99_ms"] for row in report["front"]] == sorted(row["p99_ms"] for row in report["front"])
    printed = table(report["front"]).splitlines()
    assert len(printed) == len(rates) + 1
    assert "--backend openvino-bf16" in printed[-1]
