"""Does a strategy know what it can't know? Six ways to find out, all by its decisions in the engine that trades.

1. Again: the same events decide the same. (What differs is chance, a clock, or what one run has told the next.)
2. Prefix: on the events up to a cut, it decides what it decided on them when there were more.
3. Cut files: the same, with the files of bars ending at the cut as well, for a strategy that reads them itself (Linux).
4. Another future: what comes after the cut is turned around, and nothing before it changes.
5. Elsewhere: in a market put together from the real one's days in another order, with its headlines shuffled, its trades must not
   be well timed for the *real* prices. Those it can only know from somewhere else: from a file, or by having been fitted to them.
6. Files: while deciding it opens none of those that are replayed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from agent.core.events import Decision, Event, Fill, Order
from agent.data.merge import merge
from agent.replay.history import History
from agent.research.cut_off import CutOff, can_cut_files, decide_cut_off
from agent.research.folds import Window
from agent.research.foresight import Foresight, foresight
from agent.research.material import Material, held_stage, release
from agent.research.placebo import shuffled
from agent.research.rehearsal import Decided, Stage
from agent.research.walkforward import read_prices
from agent.research.watching import Opened, same_file, watching
from agent.research.workers import Advance, spread
from agent.research.worlds import elsewhere, other_future
from agent.store.chain import DecisionChain
from strategies import strategy_class

CUTS: Final = 12
WORLDS: Final = 2
FEWEST: Final = 5
"""Orders with which a strategy can be judged at all."""

GUILTY: Final = 0.01
"""Chance of foresight, in each of the worlds, from which on it is no chance."""


class Slip(msgspec.Struct, frozen=True):
    """The first decision that differs, on the event that was the last known by `at` (UTC ms). None: there was no decision.

    `cut` is where the events ended or another future began, in UTC ms; None where all were there. `error` is what the strategy died of.
    """

    cut: int | None
    at: int
    event: Event
    expected: Decision | None
    found: Decision | None
    error: str = ""


class Lookahead(msgspec.Struct, frozen=True):
    """What the six ways found; None where nothing differs. `foresight` is of the least suspicious world, None with too few fills.

    `files_cut`: whether this machine lets files be cut for a process. `too_few`: orders, fewer than `FEWEST`, so nothing is proven.
    """

    passed: bool
    too_few: bool
    strategy: str
    events: int
    decisions: int
    orders: int
    cuts: list[int]
    again: Slip | None
    prefix: Slip | None
    cut_files: Slip | None
    files_cut: bool
    other_future: Slip | None
    foresight: Foresight | None
    knows_the_market: bool
    opened: list[Opened]
    opened_inputs: bool


class _Cut(NamedTuple):
    material: Material
    events: int  # before the cut
    head: bytes | str  # of the decisions on them that are expected


class _Answers(NamedTuple):
    """What was decided, where it isn't what was expected."""

    prefix: list[Decided] | None
    other_future: list[Decided] | None


def check_lookahead(
    material: Material, *, cuts: int = CUTS, jobs: int = 1, seed: int = 0, advance: Advance | None = None
) -> Lookahead:
    """Examine the strategy of a settled `material`. `advance` is called for each cut, each world and the two whole runs."""
    tell = advance or (lambda: None)
    stage = held_stage(material)
    events = _events(stage)
    with watching(strategy_class(material.config.strategy.name)) as opened:
        whole = stage.decide(events)
    tell()
    again = _difference(events, whole, stage.decide(events), None)
    tell()
    ordered = list(dict.fromkeys(seq for seq, decision in whole if isinstance(decision, Order)))
    places = _places(ordered, len(events), cuts)
    tasks = [_Cut(material, place, _head(_until(whole, place))) for place in places]
    answers = spread(_examine, tasks, jobs=jobs, advance=advance)
    prefix = _first(events, whole, places, [answer.prefix for answer in answers])
    future = _first(events, whole, places, [answer.other_future for answer in answers])
    files_cut = can_cut_files(material)
    cut_files, tried = None, 0
    for place in _some(ordered or places, _file_cuts(cuts)) if files_cut else ():
        found = None if cut_files else decide_cut_off(material, events[place - 1].available_at)
        if found is not None and found.events <= len(events):
            tried += 1
            cut_files = _without_files(events, whole, place, found)
        tell()
    seen = [_foresight(material, stage, seed + number, tell) for number in range(WORLDS)]
    told = [each for each in seen if each is not None]
    known = max(told, key=lambda each: each.p_value) if len(told) == WORLDS else None
    inputs = [Path(item.path) for item in stage.history.inputs]
    reads_inputs = any(same_file(file.path, inputs) for file in opened)
    knows = known is not None and known.p_value <= GUILTY
    orders = sum(isinstance(decision, Order) for _, decision in whole)
    release()
    return Lookahead(
        passed=orders >= FEWEST and not (again or prefix or cut_files or future or knows or reads_inputs),
        too_few=orders < FEWEST,
        strategy=material.config.strategy.name,
        events=len(events),
        decisions=len(whole),
        orders=orders,
        cuts=[events[place - 1].available_at for place in places],
        again=again,
        prefix=prefix,
        cut_files=cut_files,
        files_cut=tried > 0,
        other_future=future,
        foresight=known,
        knows_the_market=knows,
        opened=opened,
        opened_inputs=reads_inputs,
    )


def steps(cuts: int) -> int:
    """How often `advance` will be called."""
    return 2 + cuts + _file_cuts(cuts) + WORLDS


def _examine(task: _Cut) -> _Answers:
    """One cut, in whatever process."""
    stage = held_stage(task.material)
    events = _events(stage)

    def decided(known: list[Event]) -> list[Decided] | None:
        # Only what comes before the cut is handed over; what lies behind it is there for whoever finds a way to it
        found = stage.decide(each for each, _ in zip(known, range(task.events), strict=False))
        return None if _head(found) == task.head else found

    return _Answers(decided(events[: task.events]), decided(other_future(events, task.events)))


def _file_cuts(cuts: int) -> int:
    return max(2, cuts // 4)  # each begins a process


def _some(places: list[int], count: int) -> list[int]:
    """`count` of them, the middle one of as many equal parts each."""
    count = min(count, len(places))
    return [places[(2 * number + 1) * len(places) // (2 * count)] for number in range(count)]


def _without_files(events: list[Event], whole: Sequence[Decided], place: int, found: CutOff) -> Slip | None:
    end = events[place - 1].available_at
    if found.error:
        return Slip(end, end, events[place - 1], None, None, found.error)
    return _difference(events, _until(whole, found.events), found.decided, end)


def _foresight(material: Material, stage: Stage, seed: int, tell: Advance) -> Foresight | None:
    decided = stage.decide(merge([elsewhere(stage.tape, seed), shuffled(stage.wire, seed)]))
    tell()
    fills = [decision for _, decision in decided if isinstance(decision, Fill)]
    history: History = stage.history
    return foresight(fills, read_prices(material, Window(history.start, history.end)), seed=seed)


def _events(stage: Stage) -> list[Event]:
    return list(merge([stage.tape, stage.wire]))


def _places(ordered: list[int], events: int, cuts: int) -> list[int]:
    """Where to cut: half of the places right after an event on which it `ordered`, the others evenly.

    Right after an order nothing of what it was decided by lies behind the cut, unless the strategy looks ahead.
    """
    chosen = set(_some(ordered, cuts // 2))
    rest = cuts - len(chosen)
    chosen |= {events * (number + 1) // (rest + 1) for number in range(rest)}
    return sorted(place for place in chosen if 0 < place <= events)


def _until(decided: Sequence[Decided], events: int) -> list[Decided]:
    return [each for each in decided if each[0] <= events]


def _head(decided: Sequence[Decided]) -> str:
    chain = DecisionChain()
    for seq, decision in decided:
        chain.add(decision, seq)
    return chain.head


def _first(
    events: list[Event],
    whole: Sequence[Decided],
    places: Sequence[int],
    answers: Sequence[list[Decided] | None],
) -> Slip | None:
    """The difference at the earliest cut that has one."""
    for place, answer in zip(places, answers, strict=True):
        if answer is not None and (
            slip := _difference(events, _until(whole, place), answer, events[place - 1].available_at)
        ):
            return slip
    return None


def _difference(
    events: list[Event], expected: Sequence[Decided], found: Sequence[Decided], cut: int | None
) -> Slip | None:
    number = next(
        (i for i, (one, other) in enumerate(zip(expected, found, strict=False)) if _unlike(one, other)), None
    )
    if number is None:
        if len(expected) == len(found):
            return None
        number = min(len(expected), len(found))
    mine = expected[number] if number < len(expected) else None
    theirs = found[number] if number < len(found) else None
    seq = min(each[0] for each in (mine, theirs) if each is not None)
    event = events[seq - 1]
    here = [each[1] if each is not None and each[0] == seq else None for each in (mine, theirs)]
    return Slip(cut, event.available_at, event, here[0], here[1])


def _unlike(one: Decided, other: Decided) -> bool:
    return one != other and msgspec.msgpack.encode(one) != msgspec.msgpack.encode(other)
