"""Tick and lot are the venue's, the table's or the file's, never 0.01 for all; a run records and verifies by those it was made with."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from agent.config import Config, parse
from agent.errors import ConfigError
from agent.feeds.history.klines import KlineFile
from agent.history import History, Plan
from agent.instruments import instrument_for, with_first_rules
from agent.live.rules import with_venue_rules
from agent.sandbox import Sandbox
from agent.store.database import open_database
from agent.store.queries import find_run
from agent.trading_rules import derive, settle_rules
from tests.cli.conftest import Outcome
from tests.cli.conftest import tapewire as tapewire
from tests.live.conftest import database as database
from tests.live.conftest import sandbox as sandbox

D = Decimal
START = 1_735_689_600_000


def write(folder: Path, symbol: str, prices: list[str], volume: str = "1000000000") -> Path:
    """One-minute bars that don't move within themselves."""
    rows = [f"{START + n * 60_000},{p},{p},{p},{p},{volume}" for n, p in enumerate(prices)]
    path = folder / f"{symbol}-1m.csv"
    path.write_text("open_time,open,high,low,close,volume\n" + "\n".join(rows) + "\n")
    return path


def rules(path: Path, **sections: object) -> tuple[Decimal, Decimal]:
    """Tick and lot that a run of the file gets."""
    file = KlineFile(path)
    config = parse({"market": {"symbols": [file.symbol], **sections.pop("market", {})}, **sections}, where="test")  # type: ignore[dict-item]
    config, _ = settle_rules(config, [file])
    settled = instrument_for(file.symbol, config)
    return settled.tick_size, settled.qty_step


@pytest.mark.parametrize(
    ("symbol", "prices", "tick", "lot"),
    [
        ("BTCUSDT", ["95016.2", "95017"], "0.10", "0.001"),  # the table
        ("DOGEUSDT", ["0.17", "0.173"], "0.00001", "1"),  # the table's tick is finer than the file's; 1 / 0.17 is 5.8, so lots of 1
        ("1000PEPEUSDT", ["0.0075016", "0.0075"], "0.0000001", "100"),
        ("PEPEUSDT", ["0.0000093011", "0.0000093"], "1E-10", "100000"),  # the file: ten decimals; 1 / 0.0000093 is 107,527
        ("NEWUSDT", ["2.3123", "2.31"], "0.0001", "0.1"),
        ("NEWUSDT", ["2.3", "2.3"], "0.001", "0.1"),  # one decimal is 4 % of the price: at most 0.1 %
        ("NEWUSDT", ["5", "7"], "0.0001", "0.1"),  # whole prices show little of the tick
        ("NEWUSDT", ["1.2300000190734863", "1.5"], "1E-7", "0.1"),  # eight digits; more are noise
    ],
)
def test_a_symbols_tick_and_lot(tmp_path: Path, symbol: str, prices: list[str], tick: str, lot: str) -> None:
    assert rules(write(tmp_path, symbol, prices)) == (D(tick), D(lot))


def test_the_configuration_comes_first(tmp_path: Path) -> None:
    path = write(tmp_path, "DOGEUSDT", ["0.17293"])

    assert rules(path, instruments={"DOGEUSDT": {"tick_size": "0.0001", "qty_step": "10"}}) == (D("0.0001"), D(10))


@pytest.mark.parametrize(
    ("symbol", "prices", "tick"), [("SPY", ["585.12", "586"], "0.01"), ("EURUSD", ["1.08500", "1.08608"], "0.00001")]
)
def test_equities_trade_in_cents_unless_that_is_too_coarse(tmp_path: Path, symbol: str, prices: list[str], tick: str) -> None:
    assert rules(write(tmp_path, symbol, prices), market={"category": "equity"}) == (D(tick), D(1))


def test_a_tick_beyond_a_thousandth_of_the_price_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "DOGEUSDT", ["0.17293"])

    with pytest.raises(ConfigError, match=r"instruments.DOGEUSDT.tick_size is 0.01, which is more than 0.1 %") as refused:
        rules(path, instruments={"DOGEUSDT": {"tick_size": "0.01"}})
    assert refused.value.hint == 'write tick_size = "0.00001"'


def test_the_window_does_not_change_the_rules(tmp_path: Path) -> None:
    path = write(tmp_path, "NEWUSDT", ["2.3123", *["2.3"] * 9])

    assert derive(KlineFile(path, start=START + 300_000)) == derive(KlineFile(path))


def test_a_run_records_its_rules_and_verifies_by_them(tapewire: Callable[..., Outcome], tmp_path: Path) -> None:
    path = write(tmp_path, "NEWUSDT", [f"0.{173 + n % 5}" for n in range(60)])

    made = tapewire("backtest", "--klines", path, "--strategy", "buy_and_hold", "--json")

    assert made.code == 0, made.err
    assert any("NEWUSDT trades in ticks of 0.0001 and lots of 1" in note for note in json.loads(made.out)["notes"])
    store = open_database("sqlite:///var/tapewire.db")
    run = find_run(store, "latest")
    store.close()
    recorded = run.config["instruments"]["NEWUSDT"]
    assert (D(recorded["tick_size"]), D(recorded["qty_step"]), D(recorded["min_qty"])) == (D("0.0001"), D(1), D(1))
    assert run.versions["core"] == "2"
    assert tapewire("verify").code == 0
    # What a later table has is no matter
    Path("var/instruments.json").write_text('{"linear": {"NEWUSDT": {"tick_size": "0.00001", "qty_step": "7", "min_qty": "7"}}}')
    assert tapewire("verify").code == 0
    again = tapewire("backtest", "--klines", path, "--strategy", "buy_and_hold", "--json")
    assert again.code == 0, again.err
    store = open_database("sqlite:///var/tapewire.db")
    assert find_run(store, "latest").config["instruments"]["NEWUSDT"]["qty_step"] == "7"
    store.close()


def test_a_run_that_recorded_no_rules_keeps_the_first_ones(tmp_path: Path) -> None:
    config = parse({"market": {"symbols": ["DOGEUSDT", "BTCUSDT", "NEWUSDT"]}}, where="test")

    old = with_first_rules(config)

    assert [instrument_for(symbol, old).tick_size for symbol in old.market.symbols] == [D("0.01"), D("0.10"), D("0.01")]
    plan = Plan(((write(tmp_path, "DOGEUSDT", ["0.17293"]), None),))
    assert instrument_for("DOGEUSDT", History(plan, old, recorded=True).config).tick_size == D("0.01")


async def test_a_live_run_trades_by_the_rules_of_its_venue(sandbox: Sandbox, database: object, tmp_path: Path) -> None:
    def at(url: str, symbol: str, **more: object) -> Config:
        return parse({"market": {"symbols": [symbol]}, "bybit": {"endpoint": url}, **more}, where="test")

    url = sandbox.rest_url
    theirs = sandbox.listing.instrument("linear", "ETHUSDT")
    found = await with_venue_rules(at(url, "ETHUSDT"), None, database)  # type: ignore[arg-type]
    assert instrument_for("ETHUSDT", found).tick_size == theirs.tick_size
    given = at(url, "ETHUSDT", instruments={"ETHUSDT": {"tick_size": "0.05"}})
    assert instrument_for("ETHUSDT", await with_venue_rules(given, None, database)).tick_size == D("0.05")  # type: ignore[arg-type]
    nowhere = "http://127.0.0.1:9"
    assert await with_venue_rules(at(nowhere, "ETHUSDT"), None, database)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="the tick and lot of NEWUSDT are not known"):
        await with_venue_rules(at(nowhere, "NEWUSDT"), None, database)  # type: ignore[arg-type]


async def test_the_table_is_refreshed_from_a_venue(sandbox: Sandbox, tmp_path: Path) -> None:
    from agent.feeds.bybit.instruments import fetch_rules
    from agent.trading_rules import read_table, write_table

    found = await fetch_rules(sandbox.rest_url, "linear")
    path = tmp_path / "var" / "instruments.json"

    assert write_table(path, "linear", ((symbol, one._asdict()) for symbol, one in found.items())) == len(found) > 0
    theirs = sandbox.listing.instrument("linear", "BTCUSDT")
    assert read_table(path)["linear", "BTCUSDT"]["tick_size"] == theirs.tick_size
