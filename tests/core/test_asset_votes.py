"""Votes of headlines with probabilities for each named asset and a kind of news."""

from __future__ import annotations

from math import nan
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import SignalsConfig
from agent.core.events import (
    BUY,
    HOLD,
    HOUR_MS,
    MINUTE_MS,
    SELL,
    AssetSentiment,
    Direction,
    News,
    Sentiment,
    Signal,
)
from agent.core.news_kinds import NEWS_KINDS
from agent.core.signals import SignalEngine
from agent.core.symbols import SymbolMapper

BTC, PERP, ETH = "BTCUSDT", "BTCPERP", "ETHUSDT"
BULL, BEAR, CALM = (0.05, 0.05, 0.9), (0.9, 0.05, 0.05), (0.05, 0.9, 0.05)
WEAK = (0.2, 0.2, 0.6)
ROTATION = "Money rotates from bitcoin into ether"
Scores = tuple[float, float, float]


def engine(kinds: tuple[str, ...] = NEWS_KINDS) -> SignalEngine:
    config = SignalsConfig.model_validate(
        {"threshold": 0.7, "half_life": "30m", "window": "4h", "fade_below": 0.25, "kinds": kinds}
    )
    return SignalEngine(config, SymbolMapper((BTC, PERP, ETH), {}, config.macro_keywords))


def sentiment(
    own: Scores,
    assets: dict[str, Scores],
    *,
    id: str = "n",
    minute: int = 1,
    kind: str = "",
    symbols: tuple[str, ...] = (),
    abstained: bool = False,
) -> Sentiment:
    at = minute * MINUTE_MS
    answers = tuple(AssetSentiment(asset, *scores) for asset, scores in assets.items())
    return Sentiment(id, at, at, *own, symbols=symbols, assets=answers, kind=kind, abstained=abstained)


class Scenario(NamedTuple):
    """A headline, and by symbol the signal that it leads to: its direction and confidence."""

    own: Scores
    assets: dict[str, Scores]
    signals: dict[str, tuple[Direction, float]]
    counts: dict[str, int] = {"voted": 1}  # those that are not 0
    title: str = ROTATION


SOLD = {BTC: (SELL, 0.9), PERP: (SELL, 0.9)}
SCENARIOS = {
    "good for one asset, bad for the other": Scenario(
        CALM, {"BTC": BEAR, "ETH": BULL}, {**SOLD, ETH: (BUY, 0.9)}
    ),
    "each asset has its own confidence": Scenario(
        CALM,
        {"BTC": (0.8, 0.1, 0.1), "ETH": (0.1, 0.2, 0.7)},
        {BTC: (SELL, 0.8), PERP: (SELL, 0.8), ETH: (BUY, 0.7)},
    ),
    "confidently neutral for one asset is a vote to hold": Scenario(
        BULL, {"BTC": CALM, "ETH": BULL}, {BTC: (HOLD, 0.9), PERP: (HOLD, 0.9), ETH: (BUY, 0.9)}
    ),
    "below the threshold for one of them": Scenario(BULL, {"BTC": WEAK, "ETH": BULL}, {ETH: (BUY, 0.9)}),
    "only the headline as a whole is below the threshold": Scenario(
        WEAK, {"BTC": BEAR, "ETH": BULL}, {**SOLD, ETH: (BUY, 0.9)}
    ),
    "below the threshold for both": Scenario(BULL, {"BTC": WEAK, "ETH": WEAK}, {}, {"unsure": 1}),
    "an asset without its own probabilities has the headline's": Scenario(
        BULL, {"BTC": BEAR}, {**SOLD, ETH: (BUY, 0.9)}
    ),
    "without its own probabilities and below the threshold as a whole": Scenario(WEAK, {"BTC": BEAR}, SOLD),
    "an untraded asset takes no part": Scenario(
        BULL, {"SOL": BEAR, "BTC": BULL}, {BTC: (BUY, 0.9), PERP: (BUY, 0.9)}, title="Solana loses to bitcoin"
    ),
    "two symbols of one asset vote alike": Scenario(BULL, {"BTC": BEAR}, SOLD, title="Bitcoin falls"),
    "macro news is about every symbol": Scenario(
        BEAR, {}, {BTC: (SELL, 0.9), PERP: (SELL, 0.9), ETH: (SELL, 0.9)}, title="Fed raises rates"
    ),
    "no traded asset": Scenario(BULL, {"SOL": BULL}, {}, {"unmapped": 1}, title="Solana gains"),
    "NaN for an asset": Scenario(
        BULL, {"BTC": (nan, nan, nan), "ETH": BULL}, {ETH: (BUY, 0.9)}, {"voted": 1, "invalid": 1}
    ),
    "a negative probability of an asset": Scenario(
        BULL, {"BTC": (-0.1, 0.2, 0.9), "ETH": BULL}, {ETH: (BUY, 0.9)}, {"voted": 1, "invalid": 1}
    ),
    "probabilities of an asset that sum to 1.02": Scenario(
        BULL,
        {"BTC": BULL, "ETH": (0.9, 0.06, 0.06)},
        {BTC: (BUY, 0.9), PERP: (BUY, 0.9)},
        {"voted": 1, "invalid": 1},
    ),
    "probabilities of an asset that sum to 1.005": Scenario(
        WEAK, {"BTC": WEAK, "ETH": (0.9, 0.05, 0.055)}, {ETH: (SELL, 0.9 / 1.005)}
    ),
    "no probabilities for all of its assets": Scenario(
        BULL, {"BTC": (nan, nan, nan), "ETH": (0.0, 0.0, 0.0)}, {}, {"abstained": 1, "invalid": 1}
    ),
    "no probabilities for one asset, below the threshold for the other": Scenario(
        BULL, {"BTC": (nan, nan, nan), "ETH": WEAK}, {}, {"unsure": 1, "invalid": 1}
    ),
    "no probabilities as a whole: abstained for all": Scenario(
        (nan, nan, nan), {"BTC": BEAR, "ETH": BULL}, {}, {"abstained": 1}
    ),
}


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_each_symbol_is_voted_on_with_the_probabilities_of_its_asset(scenario: Scenario) -> None:
    signals = engine()
    signals.on_news(News("n", 0, 0, scenario.title))
    made = signals.on_sentiment(sentiment(scenario.own, scenario.assets))
    assert {signal.symbol: signal.direction for signal in made} == {
        symbol: direction for symbol, (direction, _) in scenario.signals.items()
    }
    assert [signal.confidence for signal in made] == pytest.approx(
        [confidence for _, confidence in scenario.signals.values()]
    )
    assert all(signal.actionable == (signal.direction is not HOLD) for signal in made)
    assert {name: count for name, count in signals.counts.items() if count} == scenario.counts


def test_an_abstention_holds_for_all_assets() -> None:
    signals = engine()
    signals.on_news(News("n", 0, 0, ROTATION))
    assert signals.on_sentiment(sentiment(BULL, {"BTC": BEAR, "ETH": BULL}, abstained=True)) == []
    assert signals.counts["abstained"] == signals.abstained == 1


def test_an_asset_without_probabilities_does_not_raise_the_abstain_rate() -> None:
    signals = engine()
    for number in range(50):
        signals.on_sentiment(sentiment(BULL, {"BTC": (nan, nan, nan)}, id=f"n{number}", symbols=(BTC,)))
    assert signals.counts["invalid"] == signals.counts["abstained"] == 50
    assert (signals.abstained, signals.abstain_rate) == (0, 0.0)


def test_symbols_that_the_source_states_have_the_probabilities_of_their_assets() -> None:
    signals = engine()
    made = signals.on_sentiment(sentiment(BULL, {"BTC": BEAR}, symbols=(ETH, BTC)))
    assert [(signal.symbol, signal.direction) for signal in made] == [(ETH, BUY), (BTC, SELL)]


def test_a_story_may_still_vote_on_the_symbol_for_which_it_was_unsure() -> None:
    signals = engine()
    for id in ("n", "again"):
        signals.on_news(News(id, 0, 0, ROTATION))
    first = signals.on_sentiment(sentiment(CALM, {"BTC": WEAK, "ETH": BULL}))
    assert [signal.symbol for signal in first] == [ETH]
    second = signals.on_sentiment(sentiment(CALM, {"BTC": BEAR, "ETH": BULL}, id="again", minute=2))
    assert [signal.symbol for signal in second] == [BTC, PERP]
    third = signals.on_sentiment(sentiment(CALM, {"BTC": WEAK, "ETH": BULL}, minute=3, symbols=(BTC, ETH)))
    assert third == []
    assert {name: count for name, count in signals.counts.items() if count} == {"voted": 2, "duplicate": 1}


def test_an_old_headline_is_stale_whatever_its_assets() -> None:
    signals = engine()
    signals.on_news(News("n", 0, 0, ROTATION, actionable=False))
    assert signals.on_sentiment(sentiment(WEAK, {"BTC": BEAR, "ETH": WEAK})) == []
    assert signals.counts["stale"] == 1


def test_votes_are_averaged_by_symbol() -> None:
    signals = engine()
    up = (0.1, 0.1, 0.8)  # weights 0.9 and 0.8
    signals.on_sentiment(sentiment(CALM, {"BTC": BEAR, "ETH": BULL}, id="a", symbols=(BTC, ETH)))
    btc, eth = signals.on_sentiment(sentiment(CALM, {"BTC": up, "ETH": up}, id="b", symbols=(BTC, ETH)))
    assert btc.bearish == pytest.approx((0.81 + 0.08) / 1.7)
    assert (btc.direction, btc.actionable) == (SELL, False)
    assert eth.bullish == pytest.approx((0.81 + 0.64) / 1.7)
    assert (eth.direction, eth.actionable) == (BUY, True)


scores = (
    st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
    .filter(lambda p: sum(p) > 0.01)
    .map(lambda p: tuple(x / sum(p) for x in p))
)


@given(st.lists(st.tuples(st.integers(0, HOUR_MS), scores), min_size=1, max_size=20))
def test_probabilities_of_assets_that_equal_the_headlines_change_nothing(
    votes: list[tuple[int, Scores]],
) -> None:
    def run(named: tuple[str, ...]) -> list[list[Signal]]:
        signals, now, made = engine(), 0, []
        for number, (pause, p) in enumerate(votes):
            now += pause
            answers = tuple(AssetSentiment(asset, *p) for asset in named)
            said = Sentiment(f"n{number}", now, now, *p, symbols=(BTC, PERP, ETH), assets=answers)
            made.append(signals.pop_expired(now) + signals.on_sentiment(said))
        return made

    assert run(()) == run(("BTC",)) == run(("ETH", "BTC", "SOL"))


# -- kinds of news -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kinds", "kind", "outcome"),
    [
        (NEWS_KINDS, "price", "voted"),
        (("failure", "access"), "failure", "voted"),
        (("failure", "access"), "access", "voted"),
        (("failure", "access"), "price", "barred"),
        (("failure", "access"), "", "voted"),  # the model doesn't tell
        (NEWS_KINDS, "gossip", "barred"),  # of another version's model
    ],
)
def test_only_some_kinds_of_news_may_vote(kinds: tuple[str, ...], kind: str, outcome: str) -> None:
    signals = engine(kinds)
    signals.on_news(News("n", 0, 0, ROTATION))
    made = signals.on_sentiment(sentiment(CALM, {"BTC": BEAR, "ETH": BULL}, kind=kind))
    assert [signal.kind for signal in made] == ([kind] * 3 if outcome == "voted" else [])
    assert {name: count for name, count in signals.counts.items() if count} == {outcome: 1}


def test_a_story_may_vote_after_a_headline_of_a_barred_kind() -> None:
    signals = engine(("access",))
    for id in ("n", "again"):
        signals.on_news(News(id, 0, 0, ROTATION))
    assert signals.on_sentiment(sentiment(BULL, {}, kind="price")) == []
    assert len(signals.on_sentiment(sentiment(BULL, {}, id="again", kind="access"))) == 3


def test_an_abstention_has_no_kind() -> None:
    signals = engine(("access",))
    assert signals.on_sentiment(sentiment(BULL, {}, kind="price", abstained=True)) == []
    assert (signals.counts["abstained"], signals.counts["barred"]) == (1, 0)


def test_a_signal_has_the_kind_of_the_last_headline_that_voted() -> None:
    signals = engine(("failure", "access"))
    kinds = []
    for minute, (kind, own) in enumerate(
        [("access", BULL), ("failure", BULL), ("price", BULL), ("access", WEAK)]
    ):
        made = signals.on_sentiment(sentiment(own, {}, id=kind, minute=minute, kind=kind, symbols=(BTC,)))
        kinds += [signal.kind for signal in made]
    assert kinds == ["access", "failure"]
    current = signals.current(BTC)
    assert current is not None
    assert current.kind == "failure"
    (expired,) = signals.pop_expired(24 * HOUR_MS)
    assert (expired.direction, expired.kind) == (HOLD, "failure")


def test_a_hold_that_ends_an_undecided_vote_has_its_kind() -> None:
    signals = engine()
    signals.on_sentiment(sentiment(BULL, {}, id="a", kind="access", symbols=(BTC,)))
    signals.on_sentiment(sentiment(BEAR, {}, id="b", kind="failure", symbols=(BTC,)))
    (expired,) = signals.pop_expired(MINUTE_MS)
    assert (expired.direction, expired.kind) == (HOLD, "failure")
