"""Lookahead check: three tests of whether a strategy uses information that it can't have yet.

1. Repetition: the same events must lead to the same decisions. A difference comes from random numbers, a
   clock, or state that one run leaves for the next.
2. Prefix: a new process replays the events up to a cut and must repeat the decisions of the whole run. There
   the files of bars end at the cut too (Linux), so a strategy that reads the future from them decides
   differently.
3. Surrogate market: the days of the market in another order, with shuffled headlines. A strategy whose trades
   are nevertheless well timed for the *real* prices knows them from elsewhere: from a copy of the file, or
   from parameters fitted to them.

`tests/research/test_lookahead.py` has a table of cheats and of the tests that find them; each test finds one
that no other finds.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Final

import msgspec

from agent.core.events import Decision, Event, Fill, Kline, Order
from agent.data.merge import merge
from agent.research.file_truncation import TruncatedReplay, replay_truncated
from agent.research.folds import Window
from agent.research.parallel import Advance, run_parallel
from agent.research.replay_inputs import ReplayInputs
from agent.research.replay_window import LoadedWindow, NumberedDecision
from agent.research.surrogate_market import reorder_days, shuffle_headlines
from agent.research.timing_test import TimingTest, timing_test
from agent.research.walk_forward import read_prices

CUTS: Final = 12
SURROGATES: Final = 2
MIN_ORDERS: Final = 5
"""A strategy with fewer orders can't be judged."""

MIN_BARS: Final = 10
"""Bars that a truncated file keeps at least, from which its interval is inferred."""

SIGNIFICANT: Final = 0.01
"""Largest p-value, reached in every surrogate market, that counts as knowledge of the real one."""


class LookaheadDivergence(msgspec.Struct, frozen=True):
    """The first decision that differs. It was taken on `event`, at `at` (UTC ms); None means no decision.

    `cut` is the end of the replay (UTC ms), None for the repetition. `error` is set if the strategy failed.
    """

    cut: int | None
    at: int
    event: Event
    expected: Decision | None
    found: Decision | None
    error: str = ""


class LookaheadCheck(msgspec.Struct, frozen=True):
    """Result of the check.

    - `too_few`: fewer than `MIN_ORDERS` orders, so the check can't pass.
    - `cuts`: ends of the replayed prefixes, UTC ms; `files_cut`: whether the files of bars ended there too.
    - `again`, `prefix`: first different decision in the repetition and in the earliest prefix, or None.
    - `foresight`: timing test in the less suspicious surrogate market, None with too few fills in one.
    - `knows_the_market`: the timing test is significant in every surrogate market.
    """

    passed: bool
    too_few: bool
    strategy: str
    events: int
    decisions: int
    orders: int
    cuts: list[int]
    again: LookaheadDivergence | None
    prefix: LookaheadDivergence | None
    files_cut: bool
    foresight: TimingTest | None
    knows_the_market: bool


def check_lookahead(
    inputs: ReplayInputs, *, cuts: int = CUTS, jobs: int = 1, seed: int = 0, advance: Advance | None = None
) -> LookaheadCheck:
    """Check the strategy of settled `inputs` with `cuts` prefixes, `jobs` of them at a time.

    `advance` is called `count_replays(cuts)` times. Raises what replays raise, and TapewireError if a prefix
    can't be replayed.
    """
    step = advance or (lambda: None)
    whole_window = inputs.whole_window
    window = inputs.load_window(whole_window, judged_from=whole_window.end)
    events = list(window.events())
    expected = window.decide(events)
    step()
    again = _first_difference(events, expected, window.decide(events), None)
    step()
    places = choose_cuts(events, expected, cuts)
    tasks = [(inputs, cut) for cut in places]
    replays = run_parallel(replay_truncated, tasks, jobs=jobs, advance=advance, inputs=inputs)
    found = (_compare_prefix(events, expected, *pair) for pair in zip(places, replays, strict=True))
    prefix = next(filter(None, found), None)
    timings = []
    for number in range(SURROGATES):
        timings.append(_test_timing(inputs, window, seed + number))
        step()
    complete = [timing for timing in timings if timing is not None]
    timing = max(complete, key=lambda each: each.p_value) if len(complete) == SURROGATES else None
    knows_the_market = timing is not None and timing.p_value <= SIGNIFICANT
    orders = sum(isinstance(decision, Order) for _, decision in expected)
    return LookaheadCheck(
        passed=orders >= MIN_ORDERS and not (again or prefix or knows_the_market),
        too_few=orders < MIN_ORDERS,
        strategy=inputs.config.strategy.name,
        events=len(events),
        decisions=len(expected),
        orders=orders,
        cuts=places,
        again=again,
        prefix=prefix,
        files_cut=all(replay.files_cut for replay in replays),
        foresight=timing,
        knows_the_market=knows_the_market,
    )


def count_replays(cuts: int) -> int:
    """Return how often `check_lookahead` calls `advance`."""
    return 2 + cuts + SURROGATES


def choose_cuts(events: Sequence[Event], expected: Sequence[NumberedDecision], cuts: int) -> list[int]:
    """Choose ends of bars to cut at: at least two, and half of all, are the ends of bars with an order.

    Everything that an honest order depends on lies before such a cut. The others are evenly spread and find
    orders that a strategy withheld because it knew the future. All cuts leave `MIN_BARS` of each symbol.
    """
    first_bars: dict[str, list[int]] = {}
    for event in events:
        if isinstance(event, Kline) and len(own := first_bars.setdefault(event.symbol, [])) < MIN_BARS:
            own.append(event.available_at)
    begin = max((own[-1] for own in first_bars.values()), default=0)
    ends = sorted({event.available_at for event in events if isinstance(event, Kline)})
    ends = ends[bisect_left(ends, begin) :]
    order_times = [
        events[number - 1].available_at for number, decision in expected if isinstance(decision, Order)
    ]
    rows = (bisect_left(ends, time) for time in order_times if time >= begin)
    with_order = list(dict.fromkeys(ends[row] for row in rows if row < len(ends)))
    chosen = _spread(with_order, min(max(2, cuts // 2), len(with_order)))
    return sorted({*chosen, *_spread(ends, min(cuts - len(chosen), len(ends)))})


def _spread(times: Sequence[int], count: int) -> list[int]:
    """Return `count` of `times`, each from the middle of one of as many equal parts."""
    return [times[(2 * i + 1) * len(times) // (2 * count)] for i in range(count)]


def _compare_prefix(
    events: Sequence[Event], expected: Sequence[NumberedDecision], cut: int, replay: TruncatedReplay
) -> LookaheadDivergence | None:
    if replay.error:
        last = events[bisect_right(events, cut, key=lambda event: event.available_at) - 1]
        return LookaheadDivergence(cut, cut, last, None, None, replay.error)
    before = [each for each in expected if each[0] <= replay.events]
    return _first_difference(events, before, replay.decisions, cut)


def _first_difference(
    events: Sequence[Event],
    expected: Sequence[NumberedDecision],
    found: Sequence[NumberedDecision],
    cut: int | None,
) -> LookaheadDivergence | None:
    length = max(len(expected), len(found))
    pairs = zip(_padded(expected, length), _padded(found, length), strict=True)
    pair = next((pair for pair in pairs if _differ(*pair)), None)
    if pair is None:
        return None
    number = min(each[0] for each in pair if each is not None)
    event = events[number - 1]
    one, other = (each[1] if each is not None and each[0] == number else None for each in pair)
    return LookaheadDivergence(cut, event.available_at, event, one, other)


def _padded(decisions: Sequence[NumberedDecision], length: int) -> list[NumberedDecision | None]:
    return [*decisions, *[None] * (length - len(decisions))]


def _differ(one: NumberedDecision | None, other: NumberedDecision | None) -> bool:
    # Encoded, NaN equals NaN
    return one != other and msgspec.msgpack.encode(one) != msgspec.msgpack.encode(other)


def _test_timing(inputs: ReplayInputs, window: LoadedWindow, seed: int) -> TimingTest | None:
    surrogate = merge([reorder_days(window.market_events, seed), shuffle_headlines(window.news_events, seed)])
    fills = [decision for _, decision in window.decide(surrogate) if isinstance(decision, Fill)]
    history = window.history
    return timing_test(fills, read_prices(inputs, Window(history.start, history.end)), seed=seed)
