"""Startup check: does a strategy decide the same if it has read more bars before the start?

A recursive indicator, or state that a strategy collects, depends on where the history begins. If more warm-up
changes decisions, the strategy's `warm_up` is too short, and a live run would trade differently from a
backtest that begins earlier.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Final

import msgspec

from agent.core.errors import UsageError
from agent.core.events import Decision, Plot, RiskEvent
from agent.core.intervals import format_interval
from agent.core.warm_up import warm_up_start
from agent.data.klines import KlineFile
from agent.replay.history import Plan
from agent.research.folds import Window
from agent.research.parallel import Advance
from agent.research.replay_inputs import ReplayInputs
from agent.system.clock import iso

FACTORS: Final = (1.0, 1.5, 2.0, 4.0)
"""Multiples of the strategy's warm-up that are compared."""

UNDECLARED: Final = (0, 500, 2_000)
"""Bars of the run's interval that are compared if the strategy needs none."""

_MOST_OF_THE_FILES: Final = 0.75
"""Largest share of the files' time that the longest warm-up may take."""


class StartupTrial(msgspec.Struct, frozen=True):
    """The decisions with one amount of warm-up, compared with those with the most.

    `at` is the time (UTC ms) of the first decision that differs, None if all are equal. `found` or
    `expected` is None if only the other replay made a decision.
    """

    warm_up: dict[str, int]  # bars by interval
    begins: int  # UTC ms of the first bar
    decisions: int
    at: int | None = None
    found: Decision | None = None
    expected: Decision | None = None


class StartupCheck(msgspec.Struct, frozen=True):
    """Result of the check: `trials` by rising warm-up. The first has the strategy's own, the last the
    most.
    """

    passed: bool
    strategy: str
    start: int  # of the compared decisions, UTC ms
    end: int
    trials: list[StartupTrial]


def check_startup(inputs: ReplayInputs, *, advance: Advance | None = None) -> StartupCheck:
    """Replay settled `inputs` from one start with rising amounts of warm-up, and compare the decisions.

    If the files don't reach back far enough, the start is moved. `advance` is called after each replay.
    Raises UsageError if the files are too short for the comparison, and what replays raise.
    """
    start, trials = _choose(inputs, _first_bar(inputs.plan))
    decided = []
    for warm_up in trials:
        decided.append(_decide(inputs, start, warm_up))
        if advance is not None:
            advance()
    most = decided[-1]
    results = [
        _compare(warm_up, warm_up_start(start, warm_up), found, most)
        for warm_up, found in zip(trials, decided, strict=True)
    ]
    return StartupCheck(
        passed=results[0].at is None,
        strategy=inputs.config.strategy.name,
        start=start,
        end=inputs.whole_window.end,
        trials=results,
    )


def count_trials() -> int:
    """Return how often `check_startup` calls `advance` at most."""
    return max(len(FACTORS), len(UNDECLARED))


def _first_bar(plan: Plan) -> int:
    """Return the open time (UTC ms) from which every file has bars."""
    firsts = []
    for path, symbol in plan.klines:
        file = KlineFile(path, symbol, end=plan.end, timezone=plan.timezone)
        firsts.append(next(iter(file)).ts - file.interval)
    return max(firsts)


def _choose(inputs: ReplayInputs, first: int) -> tuple[int, list[dict[str, int]]]:
    """Return the start of the comparison (UTC ms) and the warm-ups, as many as the files have bars for."""
    needed, base = inputs.plan.warm_up or {}, inputs.config.market.interval
    if needed:
        trials = [{name: ceil(bars * factor) for name, bars in needed.items()} for factor in FACTORS]
    else:
        trials = [{format_interval(base): bars} for bars in UNDECLARED]
    window = inputs.whole_window
    while len(trials) > 1:
        lead = window.start - warm_up_start(window.start, trials[-1])
        earliest = first + lead + _longest_period(trials[-1])
        start = max(window.start, earliest + -earliest % base)
        if start - first <= _MOST_OF_THE_FILES * (window.end - first) or start == window.start:
            return start, trials
        trials.pop()
    raise UsageError(
        f"the files begin at {iso(first)}, too late to compare more warm-up before {iso(window.end)}",
        hint="give longer files",
    )


def _longest_period(bars: Mapping[str, int]) -> int:
    """Return the longest period (ms) of the intervals, since a period that has begun doesn't count."""
    moment = 1_000_000_000_000
    return moment - min(warm_up_start(moment, {name: 1}) for name in bars)


def _decide(inputs: ReplayInputs, start: int, warm_up: dict[str, int]) -> list[Decision]:
    plan, end = inputs.plan, inputs.whole_window.end
    again = inputs._replace(plan=plan._replace(start=start, warm_up=warm_up))
    window = again.load_window(Window(start, end), judged_from=end)
    return [
        decision
        for _, decision in window.decide(window.events())
        if decision.ts > start and not isinstance(decision, RiskEvent | Plot)
    ]


def _compare(
    warm_up: dict[str, int], begins: int, found: Sequence[Decision], most: Sequence[Decision]
) -> StartupTrial:
    trial = StartupTrial(warm_up, begins, len(found))
    for number in range(max(len(found), len(most))):
        one = found[number] if number < len(found) else None
        other = most[number] if number < len(most) else None
        if one != other and msgspec.msgpack.encode(one) != msgspec.msgpack.encode(other):
            at = min(decision.ts for decision in (one, other) if decision is not None)
            return msgspec.structs.replace(trial, at=at, found=one, expected=other)
    return trial
