"""Signals from headlines and their sentiment."""

from __future__ import annotations

from math import nan
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import SignalsConfig
from agent.core.events import BUY, DAY_MS, HOLD, HOUR_MS, MINUTE_MS, SELL, Direction, News, Sentiment, Signal
from agent.core.signals import MAX_WAITING, SignalEngine
from agent.core.symbols import SymbolMapper
from agent.core.votes import MAX_SOURCES, NEVER

BTC = "BTCUSDT"
BULL, BEAR, CALM = (0.05, 0.05, 0.9), (0.9, 0.05, 0.05), (0.05, 0.9, 0.05)
WEAK = (0.2, 0.2, 0.6)
Scores = tuple[float, float, float]


def engine(abstain_window: int = 50, **settings: object) -> SignalEngine:
    config = SignalsConfig.model_validate(
        {"threshold": 0.7, "half_life": "30m", "window": "4h", "fade_below": 0.25, **settings}
    )
    return SignalEngine(
        config, SymbolMapper((BTC, "ETHUSDT"), {}, config.macro_keywords), abstain_window=abstain_window
    )


def sentiment(
    id: str, minute: float, scores: Scores, symbols: tuple[str, ...] = (BTC,), abstained: bool = False
) -> Sentiment:
    at = round(minute * MINUTE_MS)
    return Sentiment(id, at, at, *scores, symbols=symbols, abstained=abstained)


def at(id: str, now: int, p: Scores) -> Sentiment:
    return Sentiment(id, now, now, *p, symbols=(BTC,))


def news(
    id: str, minute: float, title: str, *, actionable: bool = True, currencies: tuple[str, ...] = ()
) -> News:
    at = round(minute * MINUTE_MS)
    return News(id, at, at, title, actionable=actionable, currencies=currencies)


# -- the vote ------------------------------------------------------------------------------------------------

Row = tuple[float, Scores, Direction, float, bool]  # minute, scores; direction, confidence, actionable
SCENARIOS: dict[str, list[Row]] = {
    "one confident headline is a signal": [(0, BULL, BUY, 0.9, True)],
    "bad news sells": [(0, BEAR, SELL, 0.9, True)],
    "confidently neutral is a vote to hold": [(0, CALM, HOLD, 0.9, False)],
    "exactly the threshold is enough": [(0, (0.1, 0.2, 0.7), BUY, 0.7, True)],
    "equal votes cancel out": [(0, BULL, BUY, 0.9, True), (0, BEAR, HOLD, 0.05, False)],
    # Weights 0.45 and 0.9: bullish (0.45 * 0.9 + 0.9 * 0.05) / 1.35 = 1/3, bearish 0.61666
    "a vote one half-life later weighs double": [
        (0, BULL, BUY, 0.9, True),
        (30, BEAR, SELL, 37 / 60, False),
    ],
    # 0.9 / 16 of the old is left: (0.05625 * 0.05 + 0.9 * 0.9) / 0.95625
    "an old vote hardly counts": [(0, BULL, BUY, 0.9, True), (120, BEAR, SELL, 0.85, True)],
    "after the window it doesn't count at all": [(0, BULL, BUY, 0.9, True), (240, BEAR, SELL, 0.9, True)],
    # Weights 0.9, 0.9, 0.7: bullish (0.9 * 0.9 * 2 + 0.7 * 0.1) / 2.5
    "confidence is the weight": [
        (0, BULL, BUY, 0.9, True),
        (0, BULL, BUY, 0.9, True),
        (0, (0.7, 0.2, 0.1), BUY, 0.676, False),
    ],
}


@pytest.mark.parametrize("rows", SCENARIOS.values(), ids=SCENARIOS)
def test_votes(rows: list[Row]) -> None:
    signals = engine()
    for number, (minute, scores, direction, confidence, actionable) in enumerate(rows):
        (signal,) = signals.on_sentiment(sentiment(f"n{number}", minute, scores))
        assert (signal.direction, signal.actionable) == (direction, actionable)
        assert signal.confidence == pytest.approx(confidence, abs=1e-9)
        assert signal.ts == minute * MINUTE_MS
        assert signals.current(BTC) is signal


def test_the_votes_that_count_have_their_decayed_weight() -> None:
    """With a half-life of 30 minutes, 0.9 is 0.225 after an hour and 0.45 after half an hour."""
    signals = engine()
    signals.on_sentiment(sentiment("n1", 0, BULL))
    (signal,) = signals.on_sentiment(sentiment("n2", 30, BEAR))
    hour = 60 * MINUTE_MS
    found = signals.votes(BTC, hour)
    assert [(vote.news_id, vote.at, vote.direction) for vote in found] == [
        ("n1", 0, BUY),
        ("n2", 30 * MINUTE_MS, SELL),
    ]
    assert [vote.weight for vote in found] == pytest.approx([0.225, 0.45])
    assert [vote.bullish for vote in found] == pytest.approx([0.9, 0.05])
    mean = sum(vote.weight * vote.bearish for vote in found) / sum(vote.weight for vote in found)
    assert mean == pytest.approx(signal.bearish)
    assert [vote.news_id for vote in signals.votes(BTC, 4 * hour)] == ["n2"]  # n1 has left the window
    assert signals.votes("ETHUSDT", hour) == []
    assert signals.votes(BTC, hour) == found  # asking changes nothing


def test_a_headline_below_the_threshold_does_not_vote() -> None:
    signals = engine()
    assert signals.on_sentiment(sentiment("a", 0, WEAK)) == []
    assert signals.current(BTC) is None
    assert signals.counts["unsure"] == 1


@pytest.mark.parametrize("scores", [(nan, nan, nan), (0.0, 0.0, 0.0), (0.9, 0.9, 0.9), (nan, 0.1, 0.9)])
def test_invalid_probabilities_count_as_abstained(scores: Scores) -> None:
    signals = engine()
    assert signals.on_sentiment(sentiment("a", 0, scores)) == []
    assert signals.counts["abstained"] == signals.abstained == 1


def test_sources_are_the_votes_within_the_window() -> None:
    signals = engine()
    for number in range(20):
        (signal,) = signals.on_sentiment(sentiment(f"n{number}", number, BULL))
    assert signal.sources == tuple(f"n{number}" for number in range(20 - MAX_SOURCES, 20))
    (signal,) = signals.on_sentiment(sentiment("later", 240 + 17, BULL))
    assert signal.sources == ("n18", "n19", "later")


# -- headlines -----------------------------------------------------------------------------------------------


def test_symbols_come_from_the_headline_if_the_sentiment_has_none() -> None:
    signals = engine()
    assert signals.on_news(news("a", 0, "Ether and bitcoin wake up")).symbols == (BTC, "ETHUSDT")
    assert [signal.symbol for signal in signals.on_sentiment(sentiment("a", 1, BULL, ()))] == [BTC, "ETHUSDT"]
    signals.on_news(news("b", 2, "Ether and bitcoin sleep in"))
    assert [signal.symbol for signal in signals.on_sentiment(sentiment("b", 3, BEAR, ("ETHUSDT",)))] == [
        "ETHUSDT"
    ]


def test_a_headline_about_no_traded_symbol_does_not_vote() -> None:
    signals = engine()
    assert signals.on_news(news("a", 0, "Painters meet in Lisbon")).symbols == ()
    assert signals.on_sentiment(sentiment("a", 1, BULL, ())) == []
    assert signals.on_sentiment(sentiment("unknown", 1, BULL, ())) == []
    assert signals.on_sentiment(sentiment("b", 1, BULL, ("DOGEUSDT",))) == []
    assert signals.counts["unmapped"] == 3


def test_a_story_votes_once() -> None:
    signals = engine()
    first = signals.on_news(news("a", 0, "Regulator approves first spot bitcoin fund"))
    again = signals.on_news(news("b", 5, "BREAKING: regulator approves the first spot bitcoin fund"))
    assert (first.story, first.duplicate) == ("a", False)
    assert (again.story, again.duplicate) == ("a", True)
    assert len(signals.on_sentiment(sentiment("a", 6, BULL, ()))) == 1
    assert signals.on_sentiment(sentiment("b", 7, BULL, ())) == []
    assert signals.counts["duplicate"] == 1
    signals.on_news(news("c", 8, "Regulator rejects first spot bitcoin fund"))
    assert len(signals.on_sentiment(sentiment("c", 9, BEAR, ()))) == 1, "the opposite is another story"


@pytest.mark.parametrize("first", [WEAK, (nan, nan, nan)], ids=["unsure", "abstained"])
def test_a_repeat_may_vote_if_the_first_headline_did_not(first: Scores) -> None:
    signals = engine()
    signals.on_news(news("a", 0, "Regulator approves first spot bitcoin fund"))
    signals.on_news(news("b", 5, "Regulator approves the first spot bitcoin fund"))
    assert signals.on_sentiment(sentiment("a", 6, first, ())) == []
    assert len(signals.on_sentiment(sentiment("b", 7, BULL, ()))) == 1


def test_a_story_votes_once_per_symbol() -> None:
    signals = engine()
    signals.on_news(news("a", 0, "Custody bank opens its doors to big bitcoin funds"))
    signals.on_news(news("b", 1, "Custody bank opens its doors to big bitcoin and ether funds"))
    assert [signal.symbol for signal in signals.on_sentiment(sentiment("a", 2, BULL, ()))] == [BTC]
    assert [signal.symbol for signal in signals.on_sentiment(sentiment("b", 3, BULL, ()))] == ["ETHUSDT"]


def test_a_headline_scored_twice_votes_once() -> None:
    signals = engine()
    signals.on_news(news("a", 0, "Bitcoin wakes up"))
    assert len(signals.on_sentiment(sentiment("a", 1, BULL, ()))) == 1
    assert signals.on_sentiment(sentiment("a", 2, BULL)) == []


def test_a_story_may_vote_again_after_its_window() -> None:
    signals = engine(story_window="2h")
    assert len(signals.on_sentiment(sentiment("a", 0, BULL))) == 1
    assert signals.on_sentiment(sentiment("a", 119, BULL)) == []
    assert len(signals.on_sentiment(sentiment("a", 120, BULL))) == 1


def test_a_stale_headline_is_mapped_but_does_not_vote() -> None:
    signals = engine()
    assert not signals.on_news(news("a", 0, "Bitcoin wakes up", actionable=False)).actionable
    assert signals.on_sentiment(sentiment("a", 1, BULL)) == []
    assert signals.counts["stale"] == 1
    signals.on_news(news("b", 2, "Bitcoin wakes up"))
    assert len(signals.on_sentiment(sentiment("b", 3, BULL, ()))) == 1


def test_unscored_headlines_are_dropped_oldest_first() -> None:
    signals = engine()
    for number in range(MAX_WAITING + 2):
        signals.on_news(news(f"n{number}", number, f"Bitcoin tale{number} told{number} anew{number}"))
    assert signals.counts["dropped"] == 2
    assert signals.on_sentiment(sentiment("n1", MAX_WAITING, BULL, ())) == []
    assert len(signals.on_sentiment(sentiment("n2", MAX_WAITING, BULL, ()))) == 1


# -- expiry --------------------------------------------------------------------------------------------------


def test_a_signal_expires_when_its_votes_weigh_too_little() -> None:
    signals = engine(half_life="30m", fade_below=0.225)
    (signal,) = signals.on_sentiment(sentiment("a", 0, BULL))  # 0.9 is a quarter after two half-lives
    assert signals.next_expiry == signals.earliest_expiry(BTC) == HOUR_MS + 1
    assert signals.pop_expired(HOUR_MS) == []
    assert signals.current(BTC) is signal
    (expired,) = signals.pop_expired(HOUR_MS + 500)
    assert (expired.symbol, expired.ts, expired.direction, expired.actionable) == (
        BTC,
        HOUR_MS + 500,
        HOLD,
        False,
    )
    assert (expired.bullish, expired.sources) == (signal.bullish, signal.sources)
    assert signals.current(BTC) is None
    assert signals.next_expiry == NEVER
    assert signals.pop_expired(DAY_MS) == []


def test_a_signal_expires_when_its_votes_leave_the_window() -> None:
    signals = engine(half_life="10d", window="1h")
    signals.on_sentiment(sentiment("a", 0, BULL))
    signals.on_sentiment(sentiment("b", 10, BULL))
    assert signals.pop_expired(69 * MINUTE_MS) == [], "one vote is left"
    assert len(signals.pop_expired(70 * MINUTE_MS)) == 1


def test_an_agreeing_headline_keeps_a_signal_alive() -> None:
    signals = engine()
    signals.on_sentiment(sentiment("a", 0, BULL))
    alone = signals.earliest_expiry(BTC)
    signals.on_sentiment(sentiment("b", 10, BULL))
    assert signals.earliest_expiry(BTC) > alone
    assert signals.pop_expired(alone) == []


def test_expiring_votes_end_signals_and_create_none() -> None:
    signals = engine(half_life="10d", window="1h")
    for id, minute, scores in [
        ("a", 0, BEAR),
        ("b", 1, BEAR),
        ("c", 2, BULL),
        ("d", 3, BULL),
        ("e", 4, BULL),
    ]:
        signals.on_sentiment(sentiment(id, minute, scores))
    assert signals.current(BTC) is not None
    assert not signals.current(BTC).actionable  # type: ignore[union-attr]
    signals.pop_expired(10 * MINUTE_MS)
    assert signals.pop_expired(61 * MINUTE_MS) == [], "only bullish votes are left, but no new headline came"


def test_an_undecided_vote_ends_a_signal_at_once() -> None:
    signals = engine()
    signals.on_sentiment(sentiment("a", 0, BULL))
    (undecided,) = signals.on_sentiment(sentiment("b", 1, BEAR))
    assert not undecided.actionable
    (expired,) = signals.pop_expired(MINUTE_MS)
    assert expired.direction is HOLD
    assert signals.current(BTC) is undecided
    assert signals.pop_expired(DAY_MS) == [], "reported once"
    assert signals.current(BTC) is None


def test_an_opposite_signal_replaces_a_signal_without_expiry() -> None:
    signals = engine()
    signals.on_sentiment(sentiment("a", 0, (0.1, 0.2, 0.7)))
    (signal,) = signals.on_sentiment(sentiment("b", 44, (0.99, 0.005, 0.005)))
    assert (signal.direction, signal.actionable) == (SELL, True)
    assert signals.pop_expired(60 * MINUTE_MS) == []


def test_signals_of_several_symbols_expire_in_time_order() -> None:
    signals = engine()
    signals.on_sentiment(sentiment("a", 0, (0.0, 0.0, 1.0), ("ETHUSDT",)))
    signals.on_sentiment(sentiment("b", 0, BULL, (BTC,)))
    assert signals.next_expiry == signals.earliest_expiry(BTC) < signals.earliest_expiry("ETHUSDT")
    assert [expired.symbol for expired in signals.pop_expired(DAY_MS)] == [BTC, "ETHUSDT"]


# -- abstaining ----------------------------------------------------------------------------------------------


def test_the_abstain_rate_covers_the_last_headlines() -> None:
    signals = engine(abstain_window=4)
    rates = []
    for number, abstained in enumerate([True, True, False, False, False, True, True, True, True]):
        assert not (
            signals.on_sentiment(sentiment(f"n{number}", number, BULL, abstained=abstained)) and abstained
        )
        rates.append(signals.abstain_rate)
    assert rates == [0.0, 1.0, 2 / 3, 0.5, 0.25, 0.25, 0.5, 0.75, 1.0]
    assert signals.abstained == signals.counts["abstained"] == 6


# -- invariants ----------------------------------------------------------------------------------------------

scores = (
    st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
    .filter(lambda p: sum(p) > 0.01)
    .map(lambda p: tuple(x / sum(p) for x in p))
)
votes = st.lists(st.tuples(st.integers(0, 3 * HOUR_MS), scores), min_size=1, max_size=40)
settings = st.fixed_dictionaries(
    {
        "threshold": st.sampled_from([0.34, 0.5, 0.7]),
        "half_life": st.sampled_from([1, 1_000, 1_800_000, 10 * DAY_MS]),
        "window": st.sampled_from([1, MINUTE_MS, 4 * HOUR_MS, 10 * DAY_MS]),
        "fade_below": st.sampled_from([0.01, 0.25, 0.8, 3.0]),
    }
)
Voter = tuple[str, int, Scores]


def summed_directly(voters: list[Voter], now: int, half_life: int) -> tuple[list[float], list[float]]:
    """Return the mean probabilities and the weight per class, summed directly over all votes."""
    means, sides, total = [0.0, 0.0, 0.0], [0.0, 0.0, 0.0], 0.0
    for _, at, p in voters:
        weight = max(p) * 2.0 ** (-(now - at) / half_life)
        total += weight
        means = [mean + weight * x for mean, x in zip(means, p, strict=True)]
        leaders = [side for side in range(3) if p[side] == max(p)]
        sides[leaders[0] if len(leaders) == 1 else 1] += weight
    return [mean / total if total else 0.0 for mean in means], sides


@given(votes, settings)
def test_every_signal_equals_a_direct_summation(
    cast_votes: list[tuple[int, Scores]], given_settings: dict[str, float]
) -> None:
    signals = engine(**given_settings)
    window, half_life, threshold, fade_below = (
        given_settings[key] for key in ("window", "half_life", "threshold", "fade_below")
    )
    voters: list[Voter] = []
    announced = False
    now = 0
    for number, (pause, p) in enumerate(cast_votes):
        now += pause
        while signals.next_expiry <= now:
            due = signals.next_expiry
            assert signals.pop_expired(due - 1) == []
            standing = signals.current(BTC)
            assert standing is not None
            expired = signals.pop_expired(due)
            present = [voter for voter in voters if due - voter[1] < window]
            means, sides = summed_directly(present, due, int(half_life))
            side = [SELL, HOLD, BUY].index(standing.direction)
            weak = sides[side] < fade_below
            if abs(sides[side] - fade_below) > 1e-9 and standing.actionable:
                changed = max(means) != means[side] or means[side] < threshold - 1e-9
                assert bool(expired) == (weak or changed)
            if expired:
                assert announced
                announced = False
        made = signals.on_sentiment(at(f"n{number}", now, p))
        if max(p) < threshold:
            assert made == []
            continue
        voters.append((f"n{number}", now, p))
        voters = [voter for voter in voters if now - voter[1] < window]
        (signal,) = made
        means, sides = summed_directly(voters, now, int(half_life))
        assert [signal.bearish, signal.neutral, signal.bullish] == pytest.approx(means, abs=1e-9)
        assert 0.0 <= signal.confidence <= 1.0
        assert signal.sources == tuple(id for id, _, _ in voters)[-MAX_SOURCES:]
        side = [SELL, HOLD, BUY].index(signal.direction)
        assert signal.confidence == [signal.bearish, signal.neutral, signal.bullish][side]
        assert means[side] == pytest.approx(max(means), abs=1e-9) or side == 1
        if abs(sides[side] - fade_below) > 1e-9 and abs(means[side] - threshold) > 1e-9:
            assert signal.actionable == (side != 1 and means[side] >= threshold and sides[side] >= fade_below)
        announced = announced or signal.actionable
        assert signals.earliest_expiry(BTC) <= voters[0][1] + window


@given(
    st.lists(scores, min_size=1, max_size=8).flatmap(
        lambda cast: st.tuples(st.just(cast), st.permutations(cast))
    )
)
def test_the_order_of_simultaneous_votes_does_not_matter(orders: tuple[list[Scores], list[Scores]]) -> None:
    def last(cast: list[Scores]) -> Signal:
        signals = engine(threshold=0.3)
        return [signals.on_sentiment(at(f"n{number}", HOUR_MS, p))[0] for number, p in enumerate(cast)][-1]

    one, other = map(last, orders)
    assert (one.bearish, one.neutral, one.bullish) == pytest.approx(
        (other.bearish, other.neutral, other.bullish), abs=1e-9
    )


@given(votes, settings, st.integers(1, 39))
def test_later_headlines_do_not_change_earlier_signals(
    cast_votes: list[tuple[int, Scores]], given_settings: dict[str, float], cut: int
) -> None:
    def run(votes: list[tuple[int, Scores]]) -> list[list[Signal]]:
        signals = engine(**given_settings)
        now, out = 0, []
        for number, (pause, p) in enumerate(votes):
            now += pause
            out.append(signals.pop_expired(now) + signals.on_sentiment(at(f"n{number}", now, p)))
        return out

    assert run(cast_votes)[:cut] == run(cast_votes[:cut])


def test_centuries_of_votes_do_not_drift_or_grow() -> None:
    signals = engine(half_life="1d", window="1h", threshold=0.5)
    recent: list[Voter] = []
    now = 0
    for number in range(20_000):
        now += 30_000 if number % 1000 else 20_000 * DAY_MS
        p = [BULL, BEAR, CALM, (0.3, 0.1, 0.6)][number * 7 % 11 % 4]
        (signal,) = signals.on_sentiment(at(f"n{number}", now, p))
        recent = [voter for voter in [*recent, (f"n{number}", now, p)] if now - voter[1] < HOUR_MS]
    means, _ = summed_directly(recent, now, DAY_MS)
    assert [signal.bearish, signal.neutral, signal.bullish] == pytest.approx(means, abs=1e-11)
    vote = signals._votes[BTC]
    assert len(vote._votes) == len(recent) == 120
    assert len(vote._story_times) == len(vote._stories) <= 24 * 120


@pytest.mark.shared
def test_real_headlines_lead_to_signals(shared_data: Path) -> None:
    """Words in the title stand in for a model, because the flow is tested and not the sentiment."""
    table = pd.read_parquet(
        shared_data / "data/news/crypto-headlines.parquet", columns=["published_at", "title", "currencies"]
    )
    table = table.sort_values("published_at", kind="stable").tail(5_000)
    stamps = (table.published_at - pd.Timestamp(0, tz="UTC")) // pd.Timedelta(milliseconds=1)
    signals = engine()
    made: list[Signal] = []
    expired = 0
    for number, (ms, title, tickers) in enumerate(
        zip(stamps, table.title.fillna(""), table.currencies.fillna(""), strict=True)
    ):
        expired += len(signals.pop_expired(ms))
        signals.on_news(News(str(number), ms, ms, title, currencies=tuple(tickers.split(","))))
        words = title.lower()
        p = (
            BULL
            if "surge" in words or "gain" in words
            else BEAR
            if "fall" in words or "drop" in words
            else WEAK
        )
        made += signals.on_sentiment(Sentiment(str(number), ms, ms, *p))
    print(signals.counts, len(made), expired)
    assert sum(signals.counts.values()) == len(table)
    assert signals.counts["voted"] > 100
    assert signals.counts["duplicate"] > 0
    assert {signal.symbol for signal in made} == {BTC, "ETHUSDT"}
    assert 0 < expired <= sum(signal.actionable for signal in made)
