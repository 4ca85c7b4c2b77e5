"""`tapewire check placebo | masked | costs` finds results without news, by names, or eaten by costs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import load
from agent.core.events import DAY_MS, HOUR_MS, AssetSentiment, News, Sentiment
from agent.replay.history import Plan
from agent.research.cost_limits import find_break_even, with_costs
from agent.research.masked_twin import (
    COIN,
    COMPANY,
    MaskedCheck,
    Masker,
    check_masked,
    masker_for,
    whole_answers,
)
from agent.research.replay_inputs import ReplayInputs
from agent.system.clock import iso
from tests.cli.conftest import Outcome
from tests.research.market_files import START, headlines, write_klines, write_scores

Tapewire = Callable[..., Outcome]
PARAMS = ("allow_short=true", "position_size=0.9", "hold=1h")
TRADE = ("--strategy", "sentiment", *(arg for param in PARAMS for arg in ("--set", param)))


class Markets:
    """A market that headlines move, one that they don't move, and the scores of the headlines."""

    def __init__(self, folder: Path, days: int = 60) -> None:
        signs = headlines(days=days, every=8)
        self.moving = write_klines(folder / "BTCUSDT-1h.csv", days=days, news=signs, volatility=0.002)
        self.idle = write_klines(folder / "BTCUSDT-idle.csv", days=days)
        self.scores = write_scores(folder / "scores.csv", signs)


@pytest.fixture
def markets(tmp_path: Path) -> Markets:
    return Markets(tmp_path)


def checked(tapewire: Tapewire, what: str, *args: object, passes: bool) -> dict[str, Any]:
    done = tapewire("check", what, "--json", *args)
    assert done.code == (0 if passes else 1), done.err
    result: dict[str, Any] = json.loads(done.out)
    assert result["passed"] is passes
    return result


# -- placebo -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_only_a_result_that_comes_from_the_news_passes(tapewire: Tapewire, markets: Markets) -> None:
    args = ("--sentiment", markets.scores, *TRADE, "-n", 19, "-j", 1)
    real = checked(tapewire, "placebo", "--klines", markets.moving, *args, passes=True)
    assert real["test"]["p_value"] == pytest.approx(1 / 20)
    assert real["test"]["value"] > max(real["drawn"])
    assert len(set(real["drawn"])) == 19
    checked(tapewire, "placebo", "--klines", markets.idle, *args, passes=False)


@pytest.mark.slow
def test_the_number_of_jobs_does_not_change_the_result(tapewire: Tapewire, markets: Markets) -> None:
    args = ("--klines", markets.idle, "--sentiment", markets.scores, *TRADE, "-n", 19)
    one, two = (checked(tapewire, "placebo", *args, "-j", jobs, passes=False) for jobs in (1, 2))
    assert one == two


def test_a_strategy_without_headlines_is_refused(tapewire: Tapewire, markets: Markets) -> None:
    done = tapewire("check", "placebo", "--klines", markets.idle, "--strategy", "sma_cross")
    assert done.code == 2
    assert "reads no headlines" in done.err


# -- costs ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_cost_and_latency_at_which_the_edge_is_gone_are_found(
    tapewire: Tapewire, markets: Markets
) -> None:
    data = ("--klines", markets.moving, "--sentiment", markets.scores)
    args = (*data, *TRADE, "--latency", "0s", "--latency", "2h", "-j", 1)
    found = checked(tapewire, "costs", *args, "--fees", 0, "--fees", 1, "--slippage", 1, passes=True)
    cells = {(cell["latency"], cell["fees"]): cell["total_return"] for cell in found["table"]}
    assert len(cells) == 4
    assert cells[0, 0] > cells[0, 1] > 0.2
    assert cells[2 * HOUR_MS, 1] < 0  # news move the price in the following hour
    assert found["latest"] < 2 * HOUR_MS
    assert found["break_even"] > 1.5
    assert found["break_even_round_trip"] == pytest.approx(found["round_trip"] * found["break_even"], rel=0.3)
    margin = ("--margin", found["break_even"] + 1)
    strict = checked(tapewire, "costs", *args, "--fees", 1, "--slippage", 1, *margin, passes=False)
    assert strict["break_even"] == found["break_even"]


def test_a_strategy_that_loses_without_costs_has_no_break_even(tapewire: Tapewire, tmp_path: Path) -> None:
    falling = write_klines(tmp_path / "BTCUSDT-1h.csv", days=20, drift=-0.002)
    costs = ("--fees", 1, "--slippage", 1, "--latency", "0s")
    args = ("--klines", falling, "--strategy", "buy_and_hold", *costs, "-j", 1)
    found = checked(tapewire, "costs", *args, passes=False)
    assert (found["break_even"], found["latest"]) == (0.0, 0)
    assert "no profit even without fees" in tapewire("check", "costs", *args).out


@pytest.mark.slow
def test_fitted_costs_are_judged_by_their_intervals(tapewire: Tapewire, markets: Markets) -> None:
    data = ("--klines", markets.moving, "--sentiment", markets.scores)
    args = (*data, *TRADE, "--latency", "0s", "--fees", 1, "--slippage", 1, "-j", 1)

    def configure(impact: float, most: float) -> tuple[str, Path]:
        path = Path(f"{impact}-{most}.toml")
        path.write_text(
            f"[paper]\nhalf_spread_bps = 1.0\nimpact = {impact}\nlatency = 100\n"
            '[costs]\nruns = ["a"]\nfills = 90\nhalf_spread_bps = [0.5, 2.0]\nlatency = [50, 200.5]\n'
            f'impact = [0.1, {most}]\n[costs.fitted]\nhalf_spread_bps = "1.0"\nimpact = "0.2"\n'
        )
        return "--config", path

    found = checked(tapewire, "costs", *args, *configure(0.2, 0.3), passes=True)
    assert found["costs"] == "fitted from 90 fills of run a"
    assert found["fitted"]["low"] > found["total_return"] > found["fitted"]["high"] > 0
    strict = ("--margin", found["break_even"] + 1)  # the intervals replace the margin
    checked(tapewire, "costs", *args, *configure(0.2, 0.3), *strict, passes=True)
    worse = checked(tapewire, "costs", *args, *configure(0.2, 1_000.0), passes=False)
    assert worse["fitted"]["high"] < 0
    assert "upper ends of the fitted costs" in tapewire("check", "costs", *args, *configure(0.2, 0.3)).out
    changed = checked(tapewire, "costs", *args, *configure(0.4, 0.3), passes=True)
    assert changed["fitted"] is None
    assert changed["costs"].endswith("but impact changed since")


def test_costs_are_multiples_of_the_configured_ones() -> None:
    config = load()
    paper = with_costs(config, fees=2, slippage=3).paper
    assert (float(paper.taker_fee or 0), float(paper.maker_fee or 0)) == pytest.approx((0.0011, 0.0004))
    assert (paper.half_spread_bps, paper.impact) == pytest.approx((1.5, 0.9))
    assert paper.latency == config.paper.latency
    assert with_costs(config).paper.taker_fee == with_costs(with_costs(config)).paper.taker_fee


@given(st.floats(0.02, 60))
def test_break_even_is_found_by_bisection(limit: float) -> None:
    found = find_break_even(lambda x: limit - x, 0.0, 1.0, 64.0)
    assert found is not None
    assert limit <= found <= limit * 1.03 + 1e-9


def test_break_even_without_a_limit_and_without_an_edge() -> None:
    assert find_break_even(lambda x: 1.0, 0.0, 1.0, 64.0) is None
    assert find_break_even(lambda x: -1.0, 0.0, 1.0, 64.0) == 0.0


# -- masked --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("title", "masked"),
    [
        ("Bitcoin rallies as Coinbase lists SOL", f"{COIN} rallies as {COMPANY} lists {COIN}"),
        ("BlackRock's fund buys ether; $WIF soars", f"{COMPANY} fund buys {COIN}; {COIN} soars"),
        ("Bitcoin Cash is near its high", f"{COIN} is near its high"),
        ("NEAR is near, and a link to LINK", f"{COIN} is near, and a link to {COIN}"),
        ("Microstrategists are bitcoiners", "Microstrategists are bitcoiners"),
        ("Acme Corp buys the dip", f"{COMPANY} buys the dip"),
        ("It costs $100 to visa holders", "It costs $100 to visa holders"),
    ],
)
def test_names_are_masked_and_other_words_are_not(title: str, masked: str) -> None:
    assert masker_for(load(), ["Acme Corp"]).mask(title) == masked


class Reader:
    """Scorer that looks for one bullish and one bearish term."""

    fingerprint = "reader"

    def __init__(self, bullish: str, bearish: str) -> None:
        self.words = bullish, bearish

    def score(self, texts: Sequence[str]) -> list[Any]:
        """Return certain scores for titles with one of them, neutral scores for others."""
        return [self._score(text) for text in texts]

    def _score(self, text: str) -> Any:
        up, down = (word in text for word in self.words)

        class Score:
            bullish, bearish = (0.96, 0.02) if up else (0.02, 0.96) if down else (0.02, 0.02)
            neutral = 1 - bullish - bearish
            abstained = False

        return Score()


def masked_twin(folder: Path, reader: Reader) -> MaskedCheck:
    signs = headlines(days=60, every=8)
    klines = write_klines(folder / "BTCUSDT-1h.csv", days=60, news=signs, volatility=0.002)
    texts = {1: "Tesla gains", -1: "Celsius drops"}
    rows = [
        f"{iso(START + (hour + 1) * HOUR_MS - 120_000)},{texts[sign]} {number} bitcoin"
        for number, (hour, sign) in enumerate(sorted(signs.items()))
    ]
    news = folder / "news.csv"
    news.write_text("\n".join(["published_at,title", *rows]) + "\n")
    config = load()
    params = {"allow_short": True, "position_size": 0.9, "hold": "1h"}
    signals = config.signals.model_copy(update={"story_similarity": 1.0})
    config = config.model_copy(
        update={
            "strategy": config.strategy.model_copy(update={"params": params}),
            "signals": signals,
            "market": config.market.model_copy(update={"symbols": ("BTCUSDT",), "interval": HOUR_MS}),
            "store": config.store.model_copy(update={"url": f"sqlite:///{folder / 'store.db'}"}),
        }
    )
    plan = Plan(((klines, "BTCUSDT"),), news=news, start=START, end=START + 60 * DAY_MS)
    inputs = ReplayInputs(plan, config)
    return check_masked(inputs, reader, Masker(["bitcoin"]))


def test_a_model_that_reads_the_verb_passes(tmp_path: Path) -> None:
    found = masked_twin(tmp_path, Reader("gains", "drops"))
    assert found.passed
    assert found.total_return > 0.2
    assert found.masked_return == found.total_return
    assert (found.relabelled, found.shift) == (0, 0.0)
    assert found.masked == found.headlines > 100


def test_a_model_that_memorised_names_is_found(tmp_path: Path) -> None:
    found = masked_twin(tmp_path, Reader("Tesla", "Celsius"))
    assert not found.passed
    assert found.total_return > 0.2
    assert found.masked_trades == 0
    assert found.relabelled == found.masked
    assert found.difference is not None
    assert found.difference.total_return.high < 0


def test_both_replays_use_the_answers_for_headlines_as_a_whole() -> None:
    """A masked headline has no answer for a single asset, so the original one must not have one either."""
    news = News("n1", 1, 1, "Ether gains on bitcoin")
    whole = Sentiment("n2", 2, 2, 0.1, 0.2, 0.7, kind="macro")
    both = Sentiment("n1", 2, 2, 0.4, 0.2, 0.4, assets=(AssetSentiment("ETH", 0.1, 0.1, 0.8),), kind="price")
    events = whole_answers([news, both, whole])
    assert events == [news, Sentiment("n1", 2, 2, 0.4, 0.2, 0.4, kind="price"), whole]


@pytest.mark.slow
def test_the_real_model_scores_both_versions(tapewire: Tapewire) -> None:
    done = tapewire("check", "masked", "--json", "--allow-leakage")
    result = json.loads(done.out)
    assert done.code == (not result["passed"])
    assert 0 < result["masked"] <= result["headlines"]
    assert math.isfinite(result["shift"])
    assert all(COIN in after or COMPANY in after for _, after in result["examples"])
    assert tapewire("check", "masked", "--strategy", "sma_cross").code == 2
