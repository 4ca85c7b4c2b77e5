"""`tapewire check lookahead` finds cheats, whatever they use, and passes honest strategies."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.events import DAY_MS, HOUR_MS, Event, Kline, Order, OrderType, Side
from agent.research.file_truncation import truncate
from agent.research.lookahead import MIN_BARS, choose_cuts
from agent.research.surrogate_market import reorder_days
from tests.cli.conftest import Outcome
from tests.research import cheats
from tests.research.market_files import START, headlines, write_klines, write_scores

Tapewire = Callable[..., Outcome]
CHEATS = "tests.research.cheats:"
WAYS = ("again", "prefix", "knows_the_market")


@pytest.fixture(autouse=True)
def _forget_earlier_runs() -> None:
    cheats.REMEMBERED.clear()


@pytest.fixture
def klines(tmp_path: Path) -> Path:
    return write_klines(tmp_path / "BTCUSDT-1h.csv", days=60)


def check(tapewire: Tapewire, *args: object, fails: bool, cuts: int = 2) -> dict[str, Any]:
    done = tapewire("check", "lookahead", "--json", "-j", 1, "--cuts", cuts, *args)
    assert done.code == fails, done.err
    result: dict[str, Any] = json.loads(done.out)
    assert result["passed"] is not fails
    return result


def copies(klines: Path) -> dict[str, Path]:
    """Copies of the file in other formats; "replayed" is the file itself, "cache" doesn't exist yet."""
    folder = klines.parent / "copies"
    folder.mkdir()
    table = pd.DataFrame(cheats.read_csv(klines).items(), columns=["open_time", "close"])
    table.to_parquet(folder / "copy.parquet")
    with sqlite3.connect(folder / "copy.db") as database:
        table.to_sql("bars", database, index=False)
    database.close()
    return {
        "replayed": klines,
        "parquet": folder / "copy.parquet",
        "sqlite": folder / "copy.db",
        "cache": folder / "cache.txt",
    }


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [CHEATS + "Honest", CHEATS + "HonestBars", "sma_cross"])
def test_an_honest_strategy_passes(tapewire: Tapewire, klines: Path, strategy: str) -> None:
    result = check(tapewire, "--klines", klines, "--strategy", strategy, fails=False)
    assert [result[way] for way in WAYS] == [None, None, False]
    assert result["decisions"] > 0


@pytest.mark.slow
def test_trading_on_news_that_move_the_price_is_no_cheat(tapewire: Tapewire, tmp_path: Path) -> None:
    signs = headlines(days=60, every=8)
    moving = write_klines(tmp_path / "BTCUSDT-1h.csv", days=60, news=signs, volatility=0.002)
    scores = write_scores(tmp_path / "scores.csv", signs)
    args = ("--sentiment", scores, "--strategy", "sentiment", "--set", "allow_short=true")
    result = check(tapewire, "--klines", moving, *args, fails=False)
    assert result["foresight"]["fills"] > 50


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cheat", "file", "found_by"),
    [
        ("ReadsOnStart", "replayed", {"prefix", "knows_the_market"}),
        ("ReadsByArrow", "parquet", {"knows_the_market"}),
        ("ReadsSqlite", "sqlite", {"knows_the_market"}),
        ("ReadsEachBar", "replayed", {"prefix"}),
        ("SixHoursAhead", "replayed", {"prefix"}),
        ("KnowsTheDay", "replayed", {"prefix"}),
        ("KnowsTheHours", "replayed", {"prefix"}),
        ("ReadAtImport", "replayed", {"prefix"}),
        ("CachesOnDisk", "cache", {"again", "prefix"}),
        ("Remembers", None, {"again"}),
        ("PeeksInMemory", None, {"prefix"}),
        ("AvoidsLosses", None, {"prefix"}),
        ("DrawsLots", None, {"again", "prefix"}),
        ("ReadsTheClock", None, {"again", "prefix"}),
    ],
)
def test_each_cheat_is_found(
    tapewire: Tapewire,
    klines: Path,
    monkeypatch: pytest.MonkeyPatch,
    cheat: str,
    file: str | None,
    found_by: set[str],
) -> None:
    args = ["--set", f"path={copies(klines)[file]}"] if file else []
    if cheat == "ReadAtImport":
        monkeypatch.setenv("CHEAT_AT", str(klines))
        monkeypatch.setattr(cheats, "READ_AT_IMPORT", cheats.read_csv(klines))
    cuts = 4 if cheat in ("KnowsTheDay", "AvoidsLosses") else 2
    result = check(tapewire, "--klines", klines, "--strategy", CHEATS + cheat, *args, cuts=cuts, fails=True)
    if file == "replayed" and not result["files_cut"]:
        pytest.skip("this machine lets no process have its own view of files")
    assert {way for way in WAYS if result[way]} == found_by
    for way in found_by - {"knows_the_market"}:
        assert result[way]["event"]["event"] == "Kline"
        assert result[way]["at"] == result[way]["event"]["available_at"]
        assert result[way]["expected"] != result[way]["found"]
    if "knows_the_market" in found_by:
        assert result["foresight"]["p_value"] < 0.01
        assert result["foresight"]["example"]["event"] == "Fill"


@pytest.mark.slow
@pytest.mark.parametrize("cuts", [2, 5])
def test_a_file_read_beforehand_is_found_with_any_number_of_cuts(
    tapewire: Tapewire, klines: Path, cuts: int
) -> None:
    """The files end right after its orders: at other times it would mostly decide the same."""
    args = ("--strategy", f"{CHEATS}ReadsInInit", "--set", f"path={klines}")
    done = tapewire("check", "lookahead", "--json", "-j", 1, "--cuts", cuts, "--klines", klines, *args)
    result = json.loads(done.out)
    if not result["files_cut"]:
        pytest.skip("this machine lets no process have its own view of files")
    assert done.code == 1
    assert result["prefix"]["cut"] == result["prefix"]["at"]


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "orders"), [("buy_and_hold", 1), ("tests.research.cheats:Idle", 0)])
def test_too_few_orders_prove_nothing(tapewire: Tapewire, klines: Path, strategy: str, orders: int) -> None:
    done = tapewire("check", "lookahead", "-j", 1, "--cuts", 2, "--klines", klines, "--strategy", strategy)
    assert done.code == 1
    assert f"{orders} orders are too few to detect lookahead: check a longer window." in done.out


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_truncated_file_ends_before_the_cut(tmp_path: Path, klines: Path, suffix: str) -> None:
    whole = klines
    if suffix == "parquet":
        whole = tmp_path / "BTCUSDT.parquet"
        pd.read_csv(klines).to_parquet(whole)
    truncate(whole, tmp_path / f"cut.{suffix}", START + 5 * HOUR_MS)
    read = pd.read_csv if suffix == "csv" else pd.read_parquet
    assert read(tmp_path / f"cut.{suffix}").equals(read(whole).iloc[:5])


@pytest.mark.slow
def test_the_printed_result_names_the_first_difference(tapewire: Tapewire, klines: Path) -> None:
    args = ("--klines", klines, "--strategy", f"{CHEATS}Remembers", "--cuts", 2, "-j", 1)
    done = tapewire("check", "lookahead", *args)
    assert done.code == 1
    assert "✗ repeated on the same events, it decides differently: first at 2024-01-01T01:00:00Z" in done.out
    assert "expected  nothing" in done.out
    assert "found     Order" in done.out
    assert "uses information that it can't have yet" in done.out


@pytest.mark.slow
def test_the_number_of_jobs_does_not_change_the_result(tapewire: Tapewire, klines: Path) -> None:
    args = ("--klines", klines, "--strategy", "sma_cross", "--set", "fast=5", "--set", "slow=20")
    one = check(tapewire, *args, fails=False)
    two = tapewire("check", "lookahead", "--json", "-j", 2, "--cuts", 2, *args)
    assert json.loads(two.out) == one


def bars(closes: list[float], symbol: str = "BTCUSDT", first: int = 0) -> list[Kline]:
    times = [((first + i) * HOUR_MS, (first + i + 1) * HOUR_MS) for i in range(len(closes))]
    return [
        Kline(symbol, HOUR_MS, start, end, end, close, close * 1.01, close * 0.99, close, 10.0 + i, 0.0)
        for i, ((start, end), close) in enumerate(zip(times, closes, strict=True))
    ]


@given(st.integers(2, 20), st.sets(st.integers(1, 100)))
def test_half_of_the_cuts_come_right_after_orders(cuts: int, orders: set[int]) -> None:
    events: list[Event] = [*bars([100.0] * 100)]
    decisions = [
        (number, Order("o", "BTCUSDT", number * HOUR_MS, Side.BUY, OrderType.MARKET, Decimal(1)))
        for number in sorted(orders)
    ]
    found = choose_cuts(events, decisions, cuts)
    after_orders = {number * HOUR_MS for number in orders if number >= MIN_BARS}
    assert len(after_orders & set(found)) >= min(max(2, cuts // 2), len(after_orders))
    assert 1 <= len(found) <= cuts
    assert min(found) >= MIN_BARS * HOUR_MS


def test_cuts_leave_bars_of_each_symbol() -> None:
    late = 60
    events: list[Event] = [*bars([100.0] * 100), *bars([100.0] * 40, "ETHUSDT", late)]
    events.sort(key=lambda event: event.available_at)
    assert min(choose_cuts(events, [], 20)) >= (late + MIN_BARS) * HOUR_MS


@settings(max_examples=40)
@given(st.integers(0, 1000), st.integers(11, 30))
def test_the_surrogate_market_has_the_same_days_in_other_places(seed: int, days: int) -> None:
    closes = [100 + (i // 24) + (i % 24) * 0.1 * (1 + i // 24) for i in range(24 * days)]
    real = bars(closes)
    surrogate = [each for each in reorder_days(real, seed) if isinstance(each, Kline)]
    assert [each.start for each in surrogate] == [each.start for each in real]
    volumes = [
        [bar.volume for bar in market if bar.start // DAY_MS == day]
        for market in (real, surrogate)
        for day in range(days)
    ]
    before, after = volumes[:days], volumes[days:]
    assert sorted(map(tuple, before)) == sorted(map(tuple, after))
    assert all(one != other for one, other in zip(before, after, strict=True))
    for bar in surrogate:
        assert bar.low <= min(bar.open, bar.close) <= max(bar.open, bar.close) <= bar.high
