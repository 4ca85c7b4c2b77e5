"""`tapewire check lookahead`: cheats are found whatever way they take, and honest strategies are left alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.events import DAY_MS, HOUR_MS, Kline, Sentiment
from agent.research.cut_off import cut_file
from agent.research.worlds import elsewhere, other_future
from tests.cli.conftest import Outcome
from tests.research import cheats
from tests.research.world import START, headlines, write_klines, write_scores

Tapewire = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def _nothing_remembered() -> None:
    cheats.REMEMBERED.clear()


@pytest.fixture
def klines(tmp_path: Path) -> Path:
    return write_klines(tmp_path / "BTCUSDT-1h.csv", days=60)


def checked(tapewire: Tapewire, *args: object, fails: bool) -> dict[str, Any]:
    done = tapewire("check", "lookahead", "--json", "-j", 1, "--cuts", 4, *args)
    assert done.code == fails, done.err
    result: dict[str, Any] = json.loads(done.out)
    assert result["passed"] is not fails
    return result


@pytest.mark.parametrize("strategy", ["tests.research.cheats:Honest", "sma_cross"])
def test_an_honest_strategy_passes(tapewire: Tapewire, klines: Path, strategy: str) -> None:
    result = checked(tapewire, "--klines", klines, "--strategy", strategy, fails=False)
    assert [result[way] for way in ("again", "prefix", "cut_files", "other_future", "opened")] == [
        None,
        None,
        None,
        None,
        [],
    ]
    assert result["decisions"] > 0


def test_trading_on_news_that_move_the_price_is_no_cheat(tapewire: Tapewire, tmp_path: Path) -> None:
    said = headlines(days=60, every=8)
    moving = write_klines(tmp_path / "BTCUSDT-1h.csv", days=60, news=said, volatility=0.002)
    scores = write_scores(tmp_path / "scores.csv", said)
    result = checked(
        tapewire,
        "--klines",
        moving,
        "--sentiment",
        scores,
        "--strategy",
        "sentiment",
        "--set",
        "allow_short=true",
        fails=False,
    )
    assert result["foresight"]["fills"] > 50


def test_a_strategy_that_reads_the_future_from_the_file_is_found(tapewire: Tapewire, klines: Path) -> None:
    result = checked(
        tapewire,
        "--klines",
        klines,
        "--strategy",
        "tests.research.cheats:ReadsTheFile",
        "--set",
        f"path={klines}",
        fails=True,
    )
    assert result["opened_inputs"] is True
    assert result["opened"][0]["path"] == str(klines)
    assert result["knows_the_market"] is True
    assert result["foresight"]["example"]["event"] == "Fill"
    if result["files_cut"]:
        slip = result["cut_files"]
        assert slip["cut"] - 2 * HOUR_MS <= slip["at"] <= slip["cut"]  # it looks two bars ahead
        assert slip["expected"] != slip["found"]


@pytest.mark.parametrize("cuts", [2, 4, 6])
def test_a_file_read_beforehand_is_found_with_any_number_of_cuts(
    tapewire: Tapewire, klines: Path, cuts: int
) -> None:
    """The files end right behind its orders: at any other moment it would mostly decide the same."""
    done = tapewire(
        "check", "lookahead", "--json", "-j", 1, "--cuts", cuts, "--klines", klines, "--strategy",
        "tests.research.cheats:ReadsItBeforehand", "--set", f"path={klines}",
    )  # fmt: skip
    result = json.loads(done.out)
    if not result["files_cut"]:
        pytest.skip("this machine lets no process have its own view of files")
    assert done.code == 1
    assert result["cut_files"]["cut"] == result["cut_files"]["at"]


@pytest.mark.parametrize("strategy", ["buy_and_hold", "tests.research.cheats:Idle"])
def test_too_few_orders_prove_nothing(tapewire: Tapewire, klines: Path, strategy: str) -> None:
    result = checked(tapewire, "--klines", klines, "--strategy", strategy, fails=True)
    assert result["too_few"] is True
    done = tapewire("check", "lookahead", "-j", 1, "--cuts", 2, "--klines", klines, "--strategy", strategy)
    assert (
        f"{result['orders']} orders are too few to tell whether it looks ahead: check a longer window."
        in done.out
    )


def test_it_is_found_by_what_it_knows_where_nobody_sees_it_read(
    tapewire: Tapewire, tmp_path: Path, klines: Path
) -> None:
    table = pd.read_csv(klines)
    table["open_time"] = pd.to_datetime(table["open_time"]).map(lambda at: int(at.timestamp() * 1000))
    hidden = tmp_path / "hidden.parquet"
    table.to_parquet(hidden)
    result = checked(
        tapewire,
        "--klines",
        klines,
        "--strategy",
        "tests.research.cheats:ReadsItUnseen",
        "--set",
        f"path={hidden}",
        fails=True,
    )
    assert result["opened_inputs"] is False
    assert result["knows_the_market"] is True
    assert result["foresight"]["p_value"] < 0.01


@pytest.mark.parametrize("cheat", ["Remembers", "Dices", "ReadsTheClock"])
def test_what_differs_from_run_to_run_is_named(tapewire: Tapewire, klines: Path, cheat: str) -> None:
    result = checked(tapewire, "--klines", klines, "--strategy", f"tests.research.cheats:{cheat}", fails=True)
    slip = result["again"]
    assert slip["event"]["event"] == "Kline"
    assert slip["at"] == slip["event"]["available_at"]
    assert slip["expected"] != slip["found"]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_cut_file_ends_before_the_cut(tmp_path: Path, klines: Path, suffix: str) -> None:
    whole = klines
    if suffix == "parquet":
        whole = tmp_path / "BTCUSDT.parquet"
        pd.read_csv(klines).to_parquet(whole)
    cut_file(whole, tmp_path / f"cut.{suffix}", START + 5 * HOUR_MS)
    read = pd.read_csv if suffix == "csv" else pd.read_parquet
    assert read(tmp_path / f"cut.{suffix}").equals(read(whole).iloc[:5])


def test_what_a_person_reads(tapewire: Tapewire, klines: Path) -> None:
    done = tapewire(
        "check",
        "lookahead",
        "--klines",
        klines,
        "--strategy",
        "tests.research.cheats:Remembers",
        "--cuts",
        4,
        "-j",
        1,
    )
    assert done.code == 1
    assert (
        "✗ the same events decide something else the second time: first at 2024-01-01T01:00:00Z" in done.out
    )
    assert "expected  nothing" in done.out
    assert "found     Order" in done.out
    assert "It knows what it can't know" in done.out


def test_two_processes_come_to_the_same(tapewire: Tapewire, klines: Path) -> None:
    args = ("--klines", klines, "--strategy", "sma_cross", "--set", "fast=5", "--set", "slow=20")
    one = checked(tapewire, *args, fails=False)
    two = tapewire("check", "lookahead", "--json", "-j", 2, "--cuts", 4, *args)
    assert json.loads(two.out) == one


def bars(closes: list[float], symbol: str = "BTCUSDT") -> list[Kline]:
    return [
        Kline(
            symbol, HOUR_MS, i * HOUR_MS, (i + 1) * HOUR_MS, (i + 1) * HOUR_MS, close, close * 1.01, close * 0.99, close, 10.0 + i, 0.0
        )
        for i, close in enumerate(closes)
    ]  # fmt: skip


PRICES = st.lists(st.floats(10, 1000), min_size=2, max_size=200)


@given(PRICES, st.data())
def test_another_future_begins_at_the_cut_and_is_a_market(closes: list[float], data: st.DataObject) -> None:
    events = bars(closes)
    cut = data.draw(st.integers(0, len(events)))
    other = other_future(list(events), cut)
    assert other[:cut] == events[:cut]
    assert [each.available_at for each in other] == [each.available_at for each in events]
    for bar in other:
        assert isinstance(bar, Kline)
        assert bar.low <= min(bar.open, bar.close) <= max(bar.open, bar.close) <= bar.high
    if 0 < cut < len(events) - 1 and (rise := closes[cut + 1] - closes[cut]):
        assert (other[cut + 1].close - other[cut].close) * rise < 0  # type: ignore[union-attr]


def test_good_news_is_bad_news_in_another_future() -> None:
    sentiment = Sentiment("n", 1, 1, 0.1, 0.2, 0.7)
    (other,) = other_future([sentiment], 0)
    assert isinstance(other, Sentiment)
    assert (other.bearish, other.bullish) == (0.7, 0.1)


@settings(max_examples=40)
@given(st.integers(0, 1000), st.integers(11, 30))
def test_another_market_has_the_same_days_in_other_places(seed: int, days: int) -> None:
    closes = [100 + (i // 24) + (i % 24) * 0.1 * (1 + i // 24) for i in range(24 * days)]
    real = bars(closes)
    other = [each for each in elsewhere(real, seed) if isinstance(each, Kline)]
    assert [each.start for each in other] == [each.start for each in real]
    volumes = [
        [bar.volume for bar in market if bar.start // DAY_MS == day]
        for market in (real, other)
        for day in range(days)
    ]
    there, here = volumes[:days], volumes[days:]
    assert sorted(map(tuple, there)) == sorted(map(tuple, here))
    assert all(one != another for one, another in zip(there, here, strict=True))
    for bar in other:
        assert bar.low <= min(bar.open, bar.close) <= max(bar.open, bar.close) <= bar.high
