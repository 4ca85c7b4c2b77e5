"""Revisions: the second answer for a headline replaces the votes of the first."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import SignalsConfig
from agent.core.engine import Engine
from agent.core.events import (
    BUY,
    DAY_MS,
    HOLD,
    HOUR_MS,
    MINUTE_MS,
    SELL,
    AssetSentiment,
    Direction,
    Event,
    Fill,
    News,
    Prediction,
    Sentiment,
    Side,
    Signal,
)
from agent.core.fusion_inputs import Forecast
from agent.core.signals import MAX_WAITING, SignalEngine
from agent.core.sinks import ListSink
from agent.core.strategy import Market, Strategy
from agent.core.symbols import SymbolMapper
from agent.core.text_embedding import Vector
from agent.core.votes import NEVER
from agent.replay.engine_state import capture, restore
from strategies import load_strategy
from tests.core.test_fusion_inputs import Even
from tests.support.market import SYMBOL, T0, config, flat_bars, run

BTC, ETH = "BTCUSDT", "ETHUSDT"
BULL, BEAR, CALM = (0.05, 0.05, 0.9), (0.9, 0.05, 0.05), (0.05, 0.9, 0.05)
WEAK = (0.2, 0.2, 0.6)
Scores = tuple[float, float, float]


def engine(**settings: object) -> SignalEngine:
    config = SignalsConfig.model_validate(
        {"threshold": 0.7, "half_life": "30m", "window": "4h", "fade_below": 0.25, **settings}
    )
    return SignalEngine(config, SymbolMapper((BTC, ETH), {}, config.macro_keywords))


def answer(
    id: str, minute: float, scores: Scores, symbols: tuple[str, ...] = (BTC,), **more: Any
) -> Sentiment:
    at = round(minute * MINUTE_MS)
    return Sentiment(id, at, at, *scores, symbols=symbols, **more)


def first(
    id: str, minute: float, scores: Scores, symbols: tuple[str, ...] = (BTC,), **more: Any
) -> Sentiment:
    return answer(id, minute, scores, symbols, provisional=True, **more)


def news(id: str, minute: float, title: str, *, actionable: bool = True) -> News:
    at = round(minute * MINUTE_MS)
    return News(id, at, at, title, actionable=actionable)


def counted(signals: SignalEngine) -> dict[str, int]:
    return {name: count for name, count in signals.counts.items() if count}


# -- what becomes of a vote ----------------------------------------------------------------------------------


class Case(NamedTuple):
    """First answer at minute 0, revision at minute 5; direction and confidence of the signal after it."""

    before: Scores | None  # None: abstained
    after: Scores | None
    signal: tuple[Direction, float] | None
    outcome: dict[str, int]
    kind: str = ""  # of the revision


CASES: dict[str, Case] = {
    "an opposite answer replaces the vote": Case(BULL, BEAR, (SELL, 0.9), {"revised": 1}),
    "the same answer replaces it as well": Case(BULL, BULL, (BUY, 0.9), {"revised": 1}),
    "a neutral answer votes to hold": Case(BULL, CALM, (HOLD, 0.9), {"revised": 1}),
    "exactly the threshold is enough": Case(BULL, (0.7, 0.2, 0.1), (SELL, 0.7), {"revised": 1}),
    "an unsure answer withdraws the vote": Case(BULL, WEAK, None, {"revised": 1, "withdrawn": 1}),
    "a barred kind withdraws the vote": Case(BULL, BULL, None, {"revised": 1, "withdrawn": 1}, "price"),
    "an abstention keeps the vote": Case(BULL, None, None, {"kept": 1}),
    "probabilities that don't add up keep it": Case(BULL, (0.9, 0.9, 0.9), None, {"kept": 1}),
    "an unsure first answer may be revised to a vote": Case(WEAK, BEAR, (SELL, 0.9), {"revised": 1}),
    "an abstention may be revised to a vote": Case(None, BULL, (BUY, 0.9), {"revised": 1}),
    "unsure twice is no vote": Case(WEAK, WEAK, None, {"ineffective": 1}),
    "abstaining twice is no vote": Case(None, None, None, {"kept": 1}),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_outcomes(case: Case) -> None:
    signals = engine(kinds=("failure", "access"))
    before, after = case.before or CALM, case.after or CALM
    signals.on_sentiment(first("a", 0, before, abstained=case.before is None))
    voted, abstained = counted(signals), signals.abstained
    made = signals.on_sentiment(answer("a", 5, after, abstained=case.after is None, kind=case.kind))
    assert {**counted(signals)} == {**voted, **case.outcome}
    assert [(one.direction, one.confidence) for one in made] == ([case.signal] if case.signal else [])
    assert all(one.ts == 5 * MINUTE_MS and one.sources == ("a",) for one in made)
    assert signals.abstained == abstained, "the abstention rate is of first answers"


def test_a_revised_vote_keeps_the_time_of_the_first_answer() -> None:
    signals = engine()
    signals.on_sentiment(answer("a", 0, BEAR))
    signals.on_sentiment(first("b", 0, BULL))
    (signal,) = signals.on_sentiment(answer("b", 30, (0.1, 0.2, 0.7)))
    # Both are as old, so the weights stay 0.9 and 0.7: bearish (0.81 + 0.07) / 1.6
    assert (signal.direction, signal.confidence) == (SELL, pytest.approx(0.55, abs=1e-12))
    assert signal.bullish == pytest.approx((0.045 + 0.49) / 1.6, abs=1e-12)
    assert signal.sources == ("a", "b")
    signals.on_sentiment(first("c", 30, BULL))
    (alone,) = signals.on_sentiment(answer("d", 4 * 60, BULL))
    assert alone.sources == ("c", "d"), "a and b leave the window four hours after their first answers"


def test_a_vote_that_comes_with_the_revision_has_its_place_among_the_others() -> None:
    signals = engine()
    signals.on_sentiment(first("a", 0, WEAK))
    signals.on_sentiment(answer("b", 30, BULL))
    (signal,) = signals.on_sentiment(answer("a", 31, BEAR))
    # One half-life older than b: bearish (0.45 * 0.9 + 0.9 * 0.05) / 1.35
    assert signal.bearish == pytest.approx(1 / 3, abs=1e-12)
    assert signal.sources == ("a", "b")


def test_the_signal_has_the_kind_of_the_latest_headline() -> None:
    signals = engine()
    signals.on_sentiment(first("a", 0, BULL, kind="access"))
    signals.on_sentiment(first("b", 1, BULL, kind="failure"))
    (older,) = signals.on_sentiment(answer("a", 2, BULL, kind="price"))
    (left,) = signals.on_sentiment(answer("b", 3, WEAK, kind="failure"))
    assert (older.kind, older.sources) == ("failure", ("a", "b"))
    assert (left.kind, left.sources) == ("price", ("a",))


def test_a_third_answer_counts_for_nothing() -> None:
    signals = engine()
    signals.on_news(news("a", 0, "Bitcoin wakes up"))
    signals.on_sentiment(first("a", 1, BULL, ()))
    signals.on_sentiment(answer("a", 2, BEAR, ()))
    assert signals.on_sentiment(answer("a", 3, BULL, ())) == []
    assert counted(signals) == {"voted": 1, "revised": 1, "unmapped": 1, "unknown": 1}


def test_a_provisional_revision_may_be_revised_again() -> None:
    signals = engine()
    for minute, scores in enumerate((BULL, BEAR)):
        signals.on_sentiment(first("a", minute, scores))
    (signal,) = signals.on_sentiment(answer("a", 2, BULL))
    assert (signal.direction, counted(signals)) == (BUY, {"voted": 1, "revised": 2})


def test_only_the_first_answer_is_needed() -> None:
    signals = engine()
    (signal,) = signals.on_sentiment(first("a", 0, BULL))
    assert (signal.direction, signal.actionable) == (BUY, True)
    assert [one.direction for one in signals.pop_expired(DAY_MS)] == [HOLD]


# -- stories, old headlines, assets --------------------------------------------------------------------------


def test_a_revision_is_no_repetition_of_its_story_but_a_repetitions_revision_is() -> None:
    signals = engine()
    signals.on_news(news("a", 0, "Regulator approves first spot bitcoin fund"))
    signals.on_news(news("b", 0, "BREAKING: regulator approves the first spot bitcoin fund"))
    assert len(signals.on_sentiment(first("a", 1, BULL, ()))) == 1
    assert signals.on_sentiment(first("b", 1, BULL, ())) == []
    assert len(signals.on_sentiment(answer("a", 2, BEAR, ()))) == 1
    assert signals.on_sentiment(answer("b", 3, BULL, ())) == []
    assert counted(signals) == {"voted": 1, "duplicate": 1, "revised": 1, "ineffective": 1}
    current = signals.current(BTC)
    assert current is not None
    assert (current.direction, current.sources) == (SELL, ("a",))


def test_a_story_whose_vote_was_withdrawn_does_not_vote_again() -> None:
    signals = engine()
    signals.on_news(news("a", 0, "Regulator approves first spot bitcoin fund"))
    signals.on_news(news("b", 5, "Regulator approves the first spot bitcoin fund"))
    signals.on_sentiment(first("a", 0, BULL, ()))
    signals.on_sentiment(answer("a", 1, WEAK, ()))
    assert signals.on_sentiment(first("b", 5, BULL, ())) == []


def test_a_headline_that_did_not_vote_gives_way_to_a_repetition_that_did() -> None:
    signals = engine()
    signals.on_news(news("a", 0, "Regulator approves first spot bitcoin fund"))
    signals.on_news(news("b", 0, "Regulator approves the first spot bitcoin fund"))
    signals.on_sentiment(first("a", 0, WEAK, ()))
    signals.on_sentiment(first("b", 1, BULL, ()))
    assert signals.on_sentiment(answer("a", 2, BULL, ())) == []
    assert signals.counts["ineffective"] == 1


def test_a_revision_does_not_make_an_old_headline_news() -> None:
    signals = engine()
    signals.on_news(news("a", 0, "Bitcoin wakes up", actionable=False))
    for sentiment in (first("a", 1, BULL, ()), answer("a", 2, BULL, ())):
        assert signals.on_sentiment(sentiment) == []
    assert counted(signals) == {"stale": 1, "ineffective": 1}


def test_each_symbol_is_revised_by_the_answer_for_its_asset() -> None:
    signals = engine()
    symbols = (BTC, ETH)
    signals.on_sentiment(first("a", 0, BULL, symbols))
    own = AssetSentiment("BTC", *BEAR), AssetSentiment("ETH", *WEAK)
    made = signals.on_sentiment(answer("a", 1, BULL, symbols, assets=own))
    assert [(one.symbol, one.direction) for one in made] == [(BTC, SELL)]
    assert [one.symbol for one in signals.pop_expired(MINUTE_MS)] == [ETH]
    assert signals.counts["withdrawn"] == 1


def test_an_asset_without_valid_probabilities_keeps_its_vote() -> None:
    signals = engine()
    signals.on_sentiment(first("a", 0, BULL, (BTC, ETH)))
    own = (AssetSentiment("BTC", 0.9, 0.9, 0.9),)
    made = signals.on_sentiment(answer("a", 1, BEAR, (BTC, ETH), assets=own))
    assert [(one.symbol, one.direction) for one in made] == [(ETH, SELL)]
    assert signals.counts["invalid"] == 1
    current = signals.current(BTC)
    assert current is not None
    assert current.direction is BUY


def test_a_symbol_that_the_revision_leaves_out_loses_its_vote() -> None:
    signals = engine()
    signals.on_sentiment(first("a", 0, BULL, (BTC, ETH)))
    made = signals.on_sentiment(answer("a", 1, BULL, (BTC,)))
    assert [one.symbol for one in made] == [BTC]
    assert [one.symbol for one in signals.pop_expired(MINUTE_MS)] == [ETH]


# -- late and unknown ----------------------------------------------------------------------------------------


def test_a_revision_after_the_window_changes_nothing() -> None:
    signals = engine()
    signals.on_sentiment(first("a", 0, BULL))
    signals.on_sentiment(answer("b", 239, BEAR))
    assert signals.on_sentiment(answer("a", 240, BULL)) == []
    assert counted(signals) == {"voted": 2, "late": 1}
    (signal,) = signals.on_sentiment(answer("c", 241, BEAR))
    assert signal.sources == ("b", "c")


def test_the_oldest_of_too_many_headlines_can_no_longer_be_revised() -> None:
    signals = engine()
    for number in range(MAX_WAITING + 1):
        signals.on_sentiment(first(f"n{number}", number / 10_000, WEAK))
    assert signals.on_sentiment(answer("n0", 2, BULL, ())) == []
    assert (signals.counts["unknown"], signals.counts["unmapped"]) == (1, 1)
    assert len(signals.on_sentiment(answer("n1", 2, BULL))) == 1


# -- signals that end ----------------------------------------------------------------------------------------


def test_a_signal_without_a_vote_left_ends_at_once() -> None:
    signals = engine()
    (signal,) = signals.on_sentiment(first("a", 0, BULL))
    assert signals.on_sentiment(answer("a", 1, WEAK)) == []
    assert signals.next_expiry == MINUTE_MS
    (ended,) = signals.pop_expired(MINUTE_MS)
    assert (ended.direction, ended.ts, ended.sources) == (HOLD, MINUTE_MS, signal.sources)
    assert (signals.current(BTC), signals.next_expiry) == (None, NEVER)


def test_a_neutral_vote_that_is_withdrawn_leaves_no_signal() -> None:
    signals = engine()
    signals.on_sentiment(first("a", 0, CALM))
    assert signals.on_sentiment(answer("a", 1, WEAK)) == []
    assert (signals.current(BTC), signals.pop_expired(DAY_MS)) == (None, [])


class Recorder(Strategy):
    """Notes the callbacks of signals."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, int, Direction]] = []

    def on_sentiment(self, sentiment: Sentiment, market: Market) -> None:
        self.calls.append(("sentiment", market.now, HOLD))

    def on_signal(self, signal: Signal, market: Market) -> None:
        self.calls.append(("signal", market.now, signal.direction))

    def on_signal_expired(self, signal: Signal, market: Market) -> None:
        self.calls.append(("expired", market.now, signal.direction))


def cascade(*answers: Sentiment) -> list[Event]:
    """Bars of six minutes and a headline about bitcoin, with its answers."""
    heard = News("a", T0 + MINUTE_MS, T0 + MINUTE_MS, "Bitcoin wakes up")
    events: list[Event] = [*flat_bars([100.0] * 6), heard, *answers]
    return sorted(events, key=lambda event: event.available_at)


def at(seconds: int, scores: Scores, *, provisional: bool = False) -> Sentiment:
    now = T0 + MINUTE_MS + seconds * 1_000
    return Sentiment("a", now, now, *scores, provisional=provisional)


def test_a_strategy_hears_of_the_end_of_a_signal_with_the_revision() -> None:
    strategy = Recorder()
    run(strategy, cascade(at(1, BULL, provisional=True), at(6, WEAK)))
    begin = T0 + MINUTE_MS
    assert strategy.calls == [
        ("sentiment", begin + 1_000, HOLD),
        ("signal", begin + 1_000, BUY),
        ("sentiment", begin + 6_000, HOLD),
        ("expired", begin + 6_000, HOLD),
    ]


def test_a_revision_turns_a_position_round() -> None:
    strategy = load_strategy("sentiment", {"position_size": 0.5, "allow_short": True})
    _, sink = run(strategy, cascade(at(1, BULL, provisional=True), at(70, BEAR)))
    fills = [(one.side, one.ts) for one in sink.decisions if isinstance(one, Fill)]
    assert [side for side, _ in fills] == [Side.BUY, Side.SELL]
    assert [one.direction for one in sink.decisions if isinstance(one, Signal)] == [BUY, SELL]
    assert [one.provisional for one in sink.sentiments] == [True, False]


def test_the_fusion_model_reads_a_headline_once() -> None:
    class Counting(Even):
        seen = 0

        def vector(self, sentiment: Sentiment, asset: str) -> Vector | None:
            self.seen += 1
            return super().vector(sentiment, asset)

        def predict(self, features: Any, reading: Any, mass: float) -> Forecast:
            return Forecast(0.25, 0.5, 0.25, 0.01)

    model, sink = Counting(MINUTE_MS), ListSink()
    fusion = Engine(config(), Strategy(), sink, run_id="r", predictor=model)
    for event in cascade(at(1, BULL, provisional=True), at(6, BEAR)):
        fusion.handle(event)
    assert model.seen == 1
    assert not [one for one in sink.decisions if isinstance(one, Prediction)], "not warm yet"


# -- the same votes as if only the revision had come ---------------------------------------------------------

scores = (
    st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
    .filter(lambda p: sum(p) > 0.01)
    .map(lambda p: tuple(x / sum(p) for x in p))
)
headlines = st.lists(
    st.tuples(
        st.integers(0, HOUR_MS),  # after the headline before
        scores,
        st.one_of(st.none(), scores),  # None: abstains
        st.one_of(st.none(), st.integers(1, 5 * HOUR_MS)),  # until the revision; None: none comes
    ),
    min_size=1,
    max_size=25,
)


@given(headlines, st.sampled_from([60_000, 1_800_000, 10 * DAY_MS]), st.sampled_from([0.34, 0.6]))
def test_votes_equal_those_of_an_engine_that_only_saw_the_last_answers(
    given: list[tuple[int, Scores, Scores | None, int | None]], half_life: int, threshold: float
) -> None:
    window = 4 * HOUR_MS
    revising, direct = (engine(half_life=half_life, threshold=threshold, window=window) for _ in range(2))
    now, early, final = 0, list[Sentiment](), list[Sentiment]()
    for number, (pause, before, after, later) in enumerate(given):
        now += pause
        id = f"n{number}"
        early.append(Sentiment(id, now, now, *before, symbols=(BTC,), provisional=later is not None))
        last = before
        if later is not None:
            told = after or CALM
            revision = Sentiment(id, now + later, now + later, *told, symbols=(BTC,), abstained=after is None)
            early.append(revision)
            if after is not None and later < window:
                last = after
        final.append(Sentiment(id, now, now, *last, symbols=(BTC,)))
    end = max(one.available_at for one in early)
    for signals, answers in ((revising, early), (direct, final)):
        for one in sorted(answers, key=lambda one: one.available_at):
            signals.pop_expired(one.available_at)
            signals.on_sentiment(one)
    probe = Sentiment("probe", end, end, *CALM, symbols=(BTC,))
    (found,), (expected,) = revising.on_sentiment(probe), direct.on_sentiment(probe)
    for name in ("bearish", "neutral", "bullish"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), abs=2e-12)
    assert found.sources == expected.sources


def test_a_heavy_vote_that_is_withdrawn_leaves_no_rounding_error() -> None:
    signals = engine(half_life=1_000, window=HOUR_MS, threshold=0.34)
    signals.on_sentiment(answer("a", 0, (0.1, 0.3, 0.6)))
    signals.on_sentiment(first("b", 1, (0.5, 0.4, 0.1)))  # weighs 2 ** 60 times as much
    (signal,) = signals.on_sentiment(answer("b", 2, (0.33, 0.34, 0.33)))
    assert signal.neutral == pytest.approx(0.34, abs=1e-12)
    signals.on_sentiment(first("c", 3, BULL))
    signals.on_sentiment(answer("c", 4, (0.33, 0.335, 0.335)))
    current = signals.current(BTC)
    assert current is not None
    assert (current.bearish, current.neutral) == (pytest.approx(0.33), pytest.approx(0.34))


def test_what_awaits_a_revision_is_part_of_the_saved_state() -> None:
    events = cascade(at(1, BULL, provisional=True), at(70, BEAR))
    settings = config()
    strategies = [load_strategy("sentiment", {"allow_short": True}) for _ in range(2)]
    sinks = [ListSink(), ListSink()]
    whole, again = (
        Engine(settings, strategy, sink, run_id="r", equity_block=1)
        for strategy, sink in zip(strategies, sinks, strict=True)
    )
    cut = next(number for number, event in enumerate(events) if isinstance(event, Sentiment)) + 1
    for event in events[:cut]:
        whole.handle(event)
    restore(again, capture(whole))
    before = len(sinks[0].decisions)
    for event in events[cut:]:
        whole.handle(event)
        again.handle(event)
    assert sinks[0].decisions[before:] == sinks[1].decisions
    assert SELL in {one.direction for one in sinks[1].decisions if isinstance(one, Signal)}
    assert capture(again) == capture(whole)
    assert again.portfolio.positions[SYMBOL].size < 0
