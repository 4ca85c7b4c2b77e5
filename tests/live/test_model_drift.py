"""Drift of the sentiment model: what is measured on a run's events, and which alarms are due."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import numpy as np
import pytest

from agent.analysis.daily import Closes
from agent.analysis.realised_moves import ALL, DirectionalCall, MoveTally, moves_of_run
from agent.config import parse
from agent.core.deduplication import HeadlineDeduplicator
from agent.core.events import MINUTE_MS, Command, Kline, News, Sentiment
from agent.core.risk import MODEL_DRIFT
from agent.core.symbols import SymbolMapper
from agent.live.model_drift import CLEARED, RAISED, ModelDrift, PriceFollower
from models.cards import ReferenceShares
from models.sentiment.serve.drift import reference_shares
from models.sentiment.serve.headline_score import HeadlineScore

T0 = 1_741_011_900_000
BEARISH, NEUTRAL, BULLISH = (0.8, 0.1, 0.1), (0.1, 0.8, 0.1), (0.1, 0.1, 0.8)
EVEN = reference_shares([HeadlineScore(*one) for one in (BEARISH, NEUTRAL, BULLISH) * 300], [0.0] * 900)


class Loaded(msgspec.Struct):
    """A model as the monitor sees it."""

    fingerprint: str = "m"
    reference: ReferenceShares | None = EVEN


class Watched:
    """A monitor with a life of events; times are in minutes after T0."""

    def __init__(self, model: Loaded | None = None, **monitoring: Any) -> None:
        raw = {"market": {"symbols": ["BTCUSDT", "ETHUSDT"]}, "monitoring": monitoring}
        self.model = model or Loaded()
        config = parse(raw, where="test")
        self.drift = ModelDrift(config, self.model)
        self.stories = HeadlineDeduplicator(config.signals.story_similarity, config.signals.story_window)
        self.mapper = SymbolMapper(config.market.symbols, {}, ())
        self.count = 0

    def price(self, minute: float, price: float, symbol: str = "BTCUSDT") -> None:
        ts = T0 + int(minute * MINUTE_MS)
        bar = Kline(symbol, MINUTE_MS, ts - MINUTE_MS, ts, ts, price, price, price, price, 1.0)
        self.drift.event(0, bar)

    def headline(
        self, minute: float, scores: tuple[float, float, float], title: str = "", **more: Any
    ) -> None:
        """A headline about Bitcoin whose words no other has, and its sentiment."""
        self.count += 1
        ts, name = T0 + int(minute * MINUTE_MS), f"n{self.count}"
        title = title or f"Bitcoin {self.count}a {self.count}b {self.count}c {self.count}d"
        news = News(name, ts, ts, title, actionable=more.pop("actionable", True))
        self.drift.event(0, news)
        self.drift.headline(news, self.mapper.map(title), self.stories.add(name, title, ts))
        self.drift.event(0, Sentiment(name, ts, ts, *scores, more.pop("model", "m"), **more))

    def headlines(self, bearish: int, neutral: int, bullish: int, **more: Any) -> None:
        for scores, count in ((BEARISH, bearish), (NEUTRAL, neutral), (BULLISH, bullish)):
            for _ in range(count):
                self.headline(0, scores, **more)

    def journal_alarms(self) -> list[tuple[str, str]]:
        """Journal the due alarms; return what each is about, and whether it is raised or cleared."""
        due = self.drift.due_alarms()
        for args in due:
            self.drift.event(0, Command("alarm", T0, T0, args, "daemon"))
        return [(args["of"], args["state"]) for args in due]


def test_an_call_is_compared_with_the_price_at_its_horizon() -> None:
    watched = Watched(move_horizon="3m")
    watched.price(0, 100.0)
    watched.headline(0.5, BULLISH)
    watched.headline(0.6, BEARISH)
    watched.headline(0.7, NEUTRAL)
    watched.price(3, 101.0)
    moves = watched.drift.status().moves
    assert (moves.pending, moves.sides[ALL].calls) == (2, 0)
    watched.price(4, 99.0)  # both horizons end before: the price at 3 min is the last one
    sides = watched.drift.status().moves.sides
    assert {side: (one.calls, one.rate) for side, one in sides.items()} == {
        "all": (2, 0.5),
        "bullish": (1, 1.0),
        "bearish": (1, 0.0),
    }
    assert sides["bullish"].confidence == 0.8


@pytest.mark.parametrize(
    ("title", "more", "counted"),
    [
        ("Bitcoin ETF sees record inflows this week", {}, 1),
        ("Record inflows this week, Bitcoin ETF sees", {}, 0),
        ("Ethereum ETF sees outflows", {}, 0),
        ("Bitcoin miners sell coins", {"actionable": False}, 0),
        ("Bitcoin miners sell coins", {"abstained": True}, 0),
    ],
    ids=["new", "the same story", "a symbol without a price", "too old to trade on", "abstained"],
)
def test_each_recent_story_counts_once(title: str, more: dict[str, Any], counted: int) -> None:
    watched = Watched(move_horizon="1m")
    watched.price(0, 100.0)
    if not counted:
        watched.headline(0, NEUTRAL, "Bitcoin ETF sees record inflows this week")
    watched.headline(0, BULLISH, title, **more)
    watched.price(1, 101.0)
    assert watched.drift.status().moves.sides[ALL].calls == counted
    assert watched.drift.status().drift.headlines == watched.count  # all of them are in the window


def test_bars_fetched_after_an_outage_count_at_their_own_time() -> None:
    watched = Watched(move_horizon="3m")
    watched.price(0, 100.0)
    watched.headline(0, BULLISH)
    for minute, price in ((1, 100.0), (2, 102.0), (3, 103.0), (4, 90.0)):  # all arrive late
        watched.price(minute, price)
    assert watched.drift.status().moves.sides[ALL].rate == 1.0


def test_an_call_without_a_price_in_time_is_counted_and_left_out() -> None:
    watched = Watched(move_horizon="10m")
    watched.headline(0, BULLISH)  # before the first price
    watched.price(1, 100.0)
    watched.headline(1, BULLISH)
    watched.price(60, 120.0)  # no price around its horizon
    moves = watched.drift.status().moves
    assert (moves.unpriced, moves.pending, moves.sides[ALL].calls) == (2, 0, 0)


@pytest.mark.parametrize("seed", range(5))
def test_live_and_recorded_runs_find_the_same_moves(seed: int) -> None:
    rng = random.Random(seed)
    minutes = [at for at in range(300) if rng.random() < 0.9]
    prices = [100.0 + rng.randrange(-3, 4) for _ in minutes]
    ts = [T0 + at * MINUTE_MS for at in minutes]
    given = [
        DirectionalCall(f"h{n}", "X", rng.random() < 0.5, 0.7, T0 + at)
        for n, at in enumerate(sorted(rng.randrange(0, 299 * MINUTE_MS) for _ in range(100)))
    ]
    tally = MoveTally(7 * MINUTE_MS)
    follower = PriceFollower(tally, 7 * MINUTE_MS, 2 * MINUTE_MS)
    waiting = list(given)
    for at, price in zip(ts, prices, strict=True):
        while waiting and waiting[0].at < at:
            follower.add(waiting.pop(0))
        follower.on_price("X", at, price)
    for call in waiting:
        follower.add(call)
    closes = {"X": Closes(np.array(ts), np.array(prices))}
    recorded = moves_of_run(given, closes, MINUTE_MS, 7 * MINUTE_MS)
    live = tally.result(follower.pending)
    assert live.sides == recorded.sides
    assert live.sides[ALL].calls > 30
    assert live.unmoved == recorded.unmoved
    assert live.unpriced + live.pending == recorded.unpriced + recorded.pending


# -- alarms ----------------------------------------------------------------------------------------------


def test_an_alarm_is_raised_once_and_cleared_once() -> None:
    watched = Watched(drift_window=100)
    watched.headlines(33, 34, 32)
    assert watched.journal_alarms() == []  # 99 headlines
    watched.headlines(0, 0, 60)
    assert watched.drift.status().drift.state == "drifted"
    assert [watched.journal_alarms() for _ in range(3)] == [[("scores", RAISED)], [], []]
    watched.headlines(33, 33, 34)
    assert [watched.journal_alarms() for _ in range(3)] == [[("scores", CLEARED)], [], []]


@pytest.mark.slow
def test_an_alarm_holds_while_the_drift_is_only_smaller() -> None:
    watched = Watched(drift_window=1_000)
    watched.headlines(600, 200, 200)
    assert watched.journal_alarms() == [("scores", RAISED)]
    watched.headlines(500, 250, 250)
    assert watched.drift.status().drift.state == "watch"
    assert watched.journal_alarms() == []


def test_the_alarm_names_what_changed() -> None:
    watched = Watched()
    watched.headlines(0, 40, 60)
    (args,) = watched.drift.due_alarms()
    assert args["rule"] == MODEL_DRIFT
    assert args["detail"].startswith("the headlines differ from the model's training texts: class (PSI ")
    assert "bearish 0.0% instead of 33.3%" in args["detail"]


def test_another_model_clears_the_alarm_and_is_judged_by_its_own_headlines() -> None:
    watched = Watched()
    watched.headlines(0, 0, 100)
    assert watched.journal_alarms() == [("scores", RAISED)]
    watched.model.fingerprint = "new"
    assert watched.drift.status().drift.reason == "the loaded model has scored no headline yet"
    watched.headlines(0, 0, 1, model="new")
    assert watched.journal_alarms() == [("scores", CLEARED)]
    drift = watched.drift.status().drift
    assert (drift.state, drift.headlines, drift.left_out) == ("unknown", 1, 100)


def test_a_model_without_a_reference_is_unknown_and_raises_nothing() -> None:
    watched = Watched(Loaded(reference=None))
    watched.headlines(0, 0, 200)
    drift = watched.drift.status().drift
    assert (drift.state, drift.reason) == ("unknown", "the model's card has no reference shares")
    assert watched.journal_alarms() == []


def calls(watched: Watched, count: int, *, right: int, begin: int = 0) -> None:
    """Bullish calls, of which the first `right` are followed by a rise."""
    for number in range(begin, begin + count):
        watched.price(2 * number, 100.0)
        watched.headline(2 * number, BULLISH)
        watched.price(2 * number + 1, 101.0 if number < begin + right else 99.0)


@pytest.mark.parametrize(
    ("floor", "right", "alarms"),
    [(0.0, 0, []), (0.5, 30, [("hit rate", RAISED)]), (0.5, 45, []), (0.5, 60, [])],
    ids=["off", "below: 30 % [22 %, 40 %]", "perhaps below: 45 % [36 %, 55 %]", "above"],
)
def test_a_hit_rate_below_the_floor_raises_an_alarm(
    floor: float, right: int, alarms: list[tuple[str, str]]
) -> None:
    watched = Watched(Loaded(reference=None), move_horizon="1m", hit_rate_floor=floor, drift_window=100)
    calls(watched, 99, right=right)
    assert watched.journal_alarms() == []
    calls(watched, 1, right=0, begin=99)
    assert [watched.journal_alarms() for _ in range(2)] == [alarms, []]
    if alarms:
        calls(watched, 100, right=55, begin=200)
        assert watched.journal_alarms() == [("hit rate", CLEARED)]


def test_unknown_tokens_come_from_the_local_model_only() -> None:
    watched = Watched()
    for number in range(1, 101):
        watched.drift.note_score(f"n{number}", HeadlineScore(*BULLISH, unknown=0.25))
    watched.headlines(34, 33, 33)
    assert watched.drift.status().drift.unknown_tokens == 0.25
    workers = Watched()
    workers.headlines(34, 33, 33)
    drift = workers.drift.status().drift
    assert (drift.unknown_tokens, drift.of("unknown tokens").state, drift.state) == (None, "unknown", "ok")
