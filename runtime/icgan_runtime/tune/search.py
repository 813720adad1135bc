"""The search: one axis of settings after the other, and at the end the best against the defaults in turns.

A challenger is measured beside the best so far, turn by turn, with more and more clients: a slow spell of the
machine hits both. So at most two servers run. The time is bounded: what there is none left for is named.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from icgan_runtime.errors import IcganError
from icgan_runtime.server.options import RepositoryOptions
from icgan_runtime.tune.measure import Point, Stage, Trial
from icgan_runtime.tune.space import Space, apply, show

LADDER = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)  # clients
BETTER = 1.03  # less than this is the same
FINAL_SHARE = 0.35  # of the time, for the defaults against the best
MOST_ROUNDS = 12

# During the search a turn is short and its slowest requests say little: 90 % have to keep the bound. At the
# end it is 99 %, of all turns of a setting together.
SEARCHED, WANTED = 90, 99


@dataclass(frozen=True)
class Goal:
    """Most images per second, with 99 % of the requests answered within `p99_s`."""

    p99_s: float
    minutes: float
    turn_s: float = 2


@dataclass
class Found:
    """What came of it."""

    defaults: RepositoryOptions
    best: RepositoryOptions
    points: list[Point] = field(default_factory=list)  # of the search
    final: dict[str, Point] = field(default_factory=dict)  # "defaults" and "best"
    bound_s: float = 0  # that both kept at the end: the goal's, or the least that the slower one can
    times: float | None = None  # images per second of the best over that of the defaults
    notes: list[str] = field(default_factory=list)

    def front(self) -> list[Point]:
        """Points that no other beats in both rate and p99, the fastest answer first."""
        ordered = sorted(self.points, key=lambda point: (point.percentile(WANTED), -point.images_per_second))
        kept: list[Point] = []
        for point in ordered:
            if not kept or point.images_per_second > kept[-1].images_per_second:
                kept.append(point)
        return kept


async def tune(
    space: Space,
    defaults: RepositoryOptions,
    goal: Goal,
    stage: Stage,
    progress: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
) -> Found:
    """Search within the goal's minutes."""
    started = clock()
    found = Found(defaults, defaults, notes=[f"not tried: {line}" for line in space.left_out])
    until = started + 60 * goal.minutes * (1 - FINAL_SHARE)
    await _search(space, found, goal, stage, progress, lambda: until - clock())
    if found.best != defaults:
        until = started + 60 * goal.minutes
        await _compare(found, goal, stage, progress, lambda: until - clock())
    return found


async def _search(
    space: Space,
    found: Found,
    goal: Goal,
    stage: Stage,
    progress: Callable[[str], None],
    left: Callable[[], float],
) -> None:
    """Leave the best setting in `found`."""
    tried = {found.defaults}
    async with AsyncExitStack() as incumbents:
        incumbent = await incumbents.enter_async_context(stage(found.best))
        longest = 0.0
        for axis, settings in space.axes.items():
            for setting in settings:
                options = apply(found.best, setting)
                if options in tried:
                    continue
                if longest and left() < longest:  # one is tried however little time there is
                    found.notes.append(f"no time left for {axis}: {show(options, found.defaults)}")
                    continue
                tried.add(options)
                before = left()
                async with AsyncExitStack() as challengers:
                    try:
                        challenger = await challengers.enter_async_context(stage(options))
                        times = await _duel(incumbent, challenger, found, goal)
                        if times > BETTER:  # once may be a spell of the machine
                            times = min(times, await _duel(incumbent, challenger, found, goal))
                    except IcganError as error:
                        found.notes.append(f"{show(options, found.defaults)} failed: {error}")
                        continue
                    progress(f"{axis}: {show(options, found.defaults)}: {_said(times)}")
                    if times > BETTER:
                        found.best = options
                        await incumbents.aclose()
                        incumbent = challenger
                        incumbents.push_async_exit(challengers.pop_all())
                longest = max(longest, before - left())


async def _duel(incumbent: Trial, challenger: Trial, found: Found, goal: Goal) -> float:
    """How many times the incumbent's rate the challenger's is, each with the clients that suit it."""
    rates: dict[str, list[float]] = {"incumbent": [0.0], "challenger": [0.0]}
    climbing = {"incumbent": incumbent, "challenger": challenger}
    slowest: dict[str, float] = {}
    for clients in LADDER:
        for name, trial in tuple(climbing.items()):
            point = await trial.turn(clients, goal.turn_s)
            found.points.append(point)
            slowest.setdefault(name, point.percentile(SEARCHED))
            kept = point.percentile(SEARCHED) <= goal.p99_s
            gained = point.images_per_second > BETTER * max(rates[name])
            if kept:
                rates[name].append(point.images_per_second)
            if not kept or not gained:
                del climbing[name]
    ours, theirs = max(rates["incumbent"]), max(rates["challenger"])
    if not ours and not theirs:  # neither keeps the bound: the nearer to it
        return slowest["incumbent"] / slowest["challenger"]
    return theirs / ours if ours else float("inf")


async def _compare(
    found: Found, goal: Goal, stage: Stage, progress: Callable[[str], None], left: Callable[[], float]
) -> None:
    """The defaults and the best in turns, around the clients that suited each."""
    async with AsyncExitStack() as servers:
        trials = {
            name: await servers.enter_async_context(stage(options))
            for name, options in (("defaults", found.defaults), ("best", found.best))
        }
        asked = {name: _around(found.points, trial.options, goal) for name, trial in trials.items()}
        progress(f"defaults and best in turns, with {asked['defaults']} and {asked['best']} clients")
        rounds: list[dict[tuple[str, int], Point]] = []
        longest = 0.0
        while len(rounds) < MOST_ROUNDS and (len(rounds) < 2 or left() > longest):
            before = left()
            turn: dict[tuple[str, int], Point] = {}
            order = list(trials) if len(rounds) % 2 == 0 else list(reversed(trials))
            for place in range(max(map(len, asked.values()))):
                for name in order:
                    for clients in asked[name][place : place + 1]:
                        turn[name, clients] = await trials[name].turn(clients, goal.turn_s)
            rounds.append(turn)
            longest = max(longest, before - left())
    _conclude(found, rounds, goal)


def _conclude(found: Found, rounds: Sequence[Mapping[tuple[str, int], Point]], goal: Goal) -> None:
    joined: dict[tuple[str, int], Point] = dict(rounds[0])
    for turn in rounds[1:]:
        joined = {key: point.joined(turn[key]) for key, point in joined.items()}
    slowest = {
        name: min(point.percentile(WANTED) for key, point in joined.items() if key[0] == name)
        for name in ("defaults", "best")
    }
    found.bound_s = max(goal.p99_s, *slowest.values())
    found.notes += [
        f"{name}: not within {1e3 * goal.p99_s:g} ms with any number of clients, the least p99 is "
        f"{1e3 * seconds:.0f} ms"
        for name, seconds in slowest.items()
        if seconds > goal.p99_s
    ]
    chosen = {}
    for name in slowest:
        within = [
            key
            for key, point in joined.items()
            if key[0] == name and point.percentile(WANTED) <= found.bound_s
        ]
        chosen[name] = max(within, key=lambda key: joined[key].images_per_second)
        found.final[name] = joined[chosen[name]]
    found.times = statistics.median(
        turn[chosen["best"]].images_per_second / turn[chosen["defaults"]].images_per_second for turn in rounds
    )


def _around(points: Sequence[Point], options: RepositoryOptions, goal: Goal) -> list[int]:
    """The number of clients that suited a setting in the search, and its neighbours."""
    own = [point for point in points if point.options == options]
    within = [point for point in own if point.percentile(SEARCHED) <= goal.p99_s]
    best = max(within, key=lambda point: point.images_per_second).clients if within else LADDER[0]
    place = LADDER.index(best)
    return list(LADDER[max(0, place - 1) : place + 2])


def _said(times: float) -> str:
    if times == float("inf"):
        return "keeps the bound, which the best so far does not"
    return f"{times:.2f} times the best so far"


def to_json(found: Found) -> dict[str, Any]:
    """Plain values."""
    return {
        "best": show(found.best, found.defaults),
        "times_the_defaults": found.times,
        "bound_ms": 1e3 * found.bound_s,
        "final": {name: _row(point, found) for name, point in found.final.items()},
        "front": [_row(point, found) for point in found.front()],
        "notes": found.notes,
    }


def _row(point: Point, found: Found) -> dict[str, Any]:
    return {
        "settings": show(point.options, found.defaults),
        "clients": point.clients,
        "images_per_second": point.images_per_second,
        **{f"p{p}_ms": 1e3 * point.percentile(p) for p in (50, WANTED)},
        "requests": len(point.latencies),
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of `to_json` for people."""
    lines = [f"{'images/s':>9} {'p50 ms':>7} {'p99 ms':>7} {'clients':>8}  settings"]
    lines += [
        f"{row['images_per_second']:9.1f} {row['p50_ms']:7.1f} {row['p99_ms']:7.1f} {row['clients']:8d}"
        f"  {row['settings']}"
        for row in rows
    ]
    return "\n".join(lines)
