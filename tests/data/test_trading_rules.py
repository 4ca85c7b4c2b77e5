"""Tick and lot come from the venue, the table or the file; a run records them and is verified with them."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path

import pytest

from agent.config import Config, parse
from agent.core.errors import ConfigError
from agent.core.instruments import instrument_for, with_first_rules
from agent.data.klines import KlineFile
from agent.data.trading_rules import derive_rules, read_table, resolve_rules
from agent.live.session import find_resumable, open_run
from agent.live.venue_rules import with_venue_rules
from agent.replay.history import History, Plan
from agent.sandbox import Sandbox, SandboxOptions
from agent.store.database import Database, open_database
from agent.store.queries import find_run
from agent.store.recorder import Recorder
from agent.store.runs import RunStatus
from tests.cli.conftest import Outcome
from tests.cli.conftest import tapewire as tapewire
from tests.live.conftest import database as database

D = Decimal
START = 1_735_689_600_000


def write(folder: Path, symbol: str, prices: list[str], volume: str = "1000000000") -> Path:
    """Write one-minute bars, each with a single price."""
    rows = [f"{START + n * 60_000},{p},{p},{p},{p},{volume}" for n, p in enumerate(prices)]
    path = folder / f"{symbol}-1m.csv"
    path.write_text("open_time,open,high,low,close,volume\n" + "\n".join(rows) + "\n")
    return path


def rules(path: Path, **sections: object) -> tuple[Decimal, Decimal]:
    """Return tick and lot for a run of the file."""
    file = KlineFile(path)
    config = parse(
        {"market": {"symbols": [file.symbol], **sections.pop("market", {})}, **sections}, where="test"
    )  # type: ignore[dict-item]
    config, _ = resolve_rules(config, [file])
    settled = instrument_for(file.symbol, config)
    return settled.tick_size, settled.qty_step


@pytest.mark.parametrize(
    ("symbol", "prices", "tick", "lot"),
    [
        ("BTCUSDT", ["95016.2", "95017"], "0.10", "0.001"),  # the table
        (
            "DOGEUSDT",
            ["0.17", "0.173"],
            "0.00001",
            "1",
        ),  # the table's tick is finer than the file's; 1 / 0.17 is 5.8, so lots of 1
        ("1000PEPEUSDT", ["0.0075016", "0.0075"], "0.0000001", "100"),
        # the file: ten decimals; 1 / 0.0000093 is 107,527
        ("PEPEUSDT", ["0.0000093011", "0.0000093"], "1E-10", "100000"),
        ("NEWUSDT", ["2.3123", "2.31"], "0.0001", "0.1"),
        ("NEWUSDT", ["2.3", "2.3"], "0.001", "0.1"),  # one decimal is 4 % of the price: at most 0.1 %
        ("NEWUSDT", ["5", "7"], "0.0001", "0.1"),  # whole prices hardly restrict the tick
        ("NEWUSDT", ["1.2300000190734863", "1.5"], "1E-7", "0.1"),  # eight digits; more are rounding errors
    ],
)
def test_tick_and_lot_are_derived_for_a_symbol(
    tmp_path: Path, symbol: str, prices: list[str], tick: str, lot: str
) -> None:
    assert rules(write(tmp_path, symbol, prices)) == (D(tick), D(lot))


def test_configured_rules_come_first(tmp_path: Path) -> None:
    path = write(tmp_path, "DOGEUSDT", ["0.17293", "0.173"])

    assert rules(path, instruments={"DOGEUSDT": {"tick_size": "0.0001", "qty_step": "10"}}) == (
        D("0.0001"),
        D(10),
    )


@pytest.mark.parametrize(
    ("symbol", "prices", "tick"),
    [("SPY", ["585.12", "586"], "0.01"), ("EURUSD", ["1.08500", "1.08608"], "0.00001")],
)
def test_equities_trade_in_cents_unless_that_is_too_coarse(
    tmp_path: Path, symbol: str, prices: list[str], tick: str
) -> None:
    assert rules(write(tmp_path, symbol, prices), market={"category": "equity"}) == (D(tick), D(1))


def test_a_tick_beyond_a_thousandth_of_the_price_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "DOGEUSDT", ["0.17293", "0.173"])

    with pytest.raises(
        ConfigError, match=r"instruments.DOGEUSDT.tick_size is 0.01, which is more than 0.1 %"
    ) as refused:
        rules(path, instruments={"DOGEUSDT": {"tick_size": "0.01"}})
    assert refused.value.hint == 'write tick_size = "0.00001"'


def test_the_window_does_not_change_the_rules(tmp_path: Path) -> None:
    path = write(tmp_path, "NEWUSDT", ["2.3123", *["2.3"] * 9])

    assert derive_rules(KlineFile(path, start=START + 300_000)) == derive_rules(KlineFile(path))


def test_a_run_records_its_rules_and_verifies_by_them(
    tapewire: Callable[..., Outcome], tmp_path: Path
) -> None:
    path = write(tmp_path, "NEWUSDT", [f"0.{173 + n % 5}" for n in range(60)])

    made = tapewire("backtest", "--klines", path, "--strategy", "buy_and_hold", "--json")

    assert made.code == 0, made.err
    assert any(
        "NEWUSDT trades in ticks of 0.0001 and lots of 1" in note for note in json.loads(made.out)["notes"]
    )
    store = open_database("sqlite:///var/tapewire.db")
    run = find_run(store, "latest")
    store.close()
    recorded = run.config["instruments"]["NEWUSDT"]
    assert (D(recorded["tick_size"]), D(recorded["qty_step"]), D(recorded["min_qty"])) == (
        D("0.0001"),
        D(1),
        D(1),
    )
    assert run.versions["core"] == "2"
    assert tapewire("verify").code == 0
    # a later table has no effect on the run
    Path("var/instruments.json").write_text(
        '{"linear": {"NEWUSDT": {"tick_size": "0.00001", "qty_step": "7", "min_qty": "7"}}}'
    )
    assert tapewire("verify").code == 0
    again = tapewire("backtest", "--klines", path, "--strategy", "buy_and_hold", "--json")
    assert again.code == 0, again.err
    store = open_database("sqlite:///var/tapewire.db")
    assert find_run(store, "latest").config["instruments"]["NEWUSDT"]["qty_step"] == "7"
    store.close()


def test_a_run_without_recorded_rules_uses_the_first_versions_rules(tmp_path: Path) -> None:
    config = parse({"market": {"symbols": ["DOGEUSDT", "BTCUSDT", "NEWUSDT"]}}, where="test")

    old = with_first_rules(config)

    assert [instrument_for(symbol, old).tick_size for symbol in old.market.symbols] == [
        D("0.01"),
        D("0.10"),
        D("0.01"),
    ]
    plan = Plan(((write(tmp_path, "DOGEUSDT", ["0.17293", "0.173"]), None),))
    assert instrument_for("DOGEUSDT", History(plan, old, recorded=True).config).tick_size == D("0.01")


@asynccontextmanager
async def venue(folder: Path) -> AsyncIterator[str]:
    """Run a sandbox that lists NEWUSDT at 0.173, in ticks of 0.00001 and lots of 1; yield its address."""
    path = write(folder, "NEWUSDT", ["0.173"] * 600)
    async with Sandbox(SandboxOptions(klines=(Path(f"NEWUSDT={path}"),), start=START + 6_000_000)) as running:
        yield running.rest_url


def at(url: str, folder: Path, **more: object) -> Config:
    """Return the configuration of an agent that trades NEWUSDT at `url`."""
    return parse(
        {
            "market": {"symbols": ["NEWUSDT"]},
            "bybit": {"endpoint": url},
            "store": {"url": f"sqlite:///{folder / 'store.db'}"},
        }
        | more,
        where="test",
    )


async def test_a_live_run_uses_the_rules_of_its_venue(database: Database, tmp_path: Path) -> None:
    async with venue(tmp_path) as url:
        found = instrument_for("NEWUSDT", await with_venue_rules(at(url, tmp_path), None, database))
        config = at(url, tmp_path, instruments={"NEWUSDT": {"tick_size": "0.0001"}})
        given = instrument_for("NEWUSDT", await with_venue_rules(config, None, database))

    assert (found.tick_size, found.qty_step, found.min_qty) == (D("0.00001"), D(1), D(1))
    assert (given.tick_size, given.qty_step) == (D("0.0001"), D(1))


@pytest.mark.parametrize("tick", ["0.000015", "0.01"])  # no multiple of 0.00001; 5.8 % of the price
async def test_a_tick_that_the_venue_does_not_have_is_refused_at_a_live_start(
    database: Database, tmp_path: Path, tick: str
) -> None:
    async with venue(tmp_path) as url:
        config = at(url, tmp_path, instruments={"NEWUSDT": {"tick_size": tick}})
        with pytest.raises(
            ConfigError, match=r"NEWUSDT\.tick_size is .*, but the venue's is 0\.00001"
        ) as refused:
            await with_venue_rules(config, None, database)
    assert refused.value.hint == 'leave it out, or write tick_size = "0.00001"'


async def test_if_the_venue_is_unreachable_the_last_runs_rules_apply(
    database: Database, tmp_path: Path
) -> None:
    async with venue(tmp_path) as url:
        known = await with_venue_rules(at(url, tmp_path), None, database)
    nowhere = at("http://127.0.0.1:9", tmp_path)
    with pytest.raises(ConfigError, match="the tick and lot of NEWUSDT are unknown"):
        await with_venue_rules(nowhere, None, database)

    run, _ = open_run(known, database)
    with Recorder(database, run) as recorder:
        recorder.finish(
            first_event_at=None,
            last_event_at=None,
            final_equity=D(1),
            metrics={},
            status=RunStatus.INTERRUPTED,
        )

    assert (await with_venue_rules(nowhere, None, database)).instruments == known.instruments
    shipped = parse({"bybit": {"endpoint": "http://127.0.0.1:9"}}, where="test")
    known = instrument_for("BTCUSDT", await with_venue_rules(shipped, None, database))
    assert (known.tick_size, known.qty_step) == (D("0.10"), D("0.001"))


def test_the_table_is_downloaded_from_a_venue(tapewire: Callable[..., Outcome], tmp_path: Path) -> None:
    async def refresh() -> Outcome:
        async with venue(tmp_path) as url:
            return await asyncio.to_thread(tapewire, "download", "instruments", "--url", url)

    done = asyncio.run(refresh())

    assert done.code == 0, done.err
    assert "var/instruments.json: 1 instruments of linear" in done.out
    made = tapewire(
        "backtest", "--klines", tmp_path / "NEWUSDT-1m.csv", "--strategy", "buy_and_hold", "--json"
    )
    assert made.code == 0, made.err
    assert not [note for note in json.loads(made.out)["notes"] if "trades in ticks" in note]
    assert read_table(Path("var/instruments.json"))["linear", "NEWUSDT"]["tick_size"] == D("0.00001")


def test_a_table_that_cannot_be_read_is_an_error(tapewire: Callable[..., Outcome], tmp_path: Path) -> None:
    path = write(tmp_path, "NEWUSDT", ["0.173", "0.174"])
    Path("var").mkdir()
    Path("var/instruments.json").write_text("{")

    failed = tapewire("backtest", "--klines", path, "--strategy", "buy_and_hold")

    assert failed.code == 2
    assert "var/instruments.json can't be read" in failed.err


def test_the_hint_for_a_run_of_an_earlier_core_names_the_changelog(
    tapewire: Callable[..., Outcome], tmp_path: Path
) -> None:
    path = write(tmp_path, "DOGEUSDT", [f"0.{17293 + n % 5}" for n in range(60)])
    assert tapewire("backtest", "--klines", path, "--strategy", "buy_and_hold").code == 0
    # as recorded by an earlier version, apart from the decisions
    with sqlite3.connect("var/tapewire.db") as store:
        [config] = store.execute("select config from runs").fetchone()
        store.execute(
            "update runs set versions = '{}', config = ?",
            (json.dumps(json.loads(config) | {"instruments": {}}),),
        )
    store.close()

    found = tapewire("verify")

    assert found.code == 1
    assert "different at decision" in found.out
    assert "made by revision 1 of the core" in found.out
    assert "docs/changelog.md" in found.out


async def test_a_resumed_run_keeps_its_rules(database: Database, tmp_path: Path) -> None:
    """A venue or a new table doesn't change them: other rules would begin another run, without positions."""
    async with venue(tmp_path) as url:
        run, _ = open_run(await with_venue_rules(at(url, tmp_path), None, database), database)
        with Recorder(database, run) as recorder:
            recorder.finish(
                first_event_at=None,
                last_event_at=None,
                final_equity=D(1),
                metrics={},
                status=RunStatus.INTERRUPTED,
            )
        found = find_resumable(at(url, tmp_path), database)
        stated = find_resumable(at(url, tmp_path, instruments={"NEWUSDT": {"tick_size": "0.0001"}}), database)

    assert found is not None
    assert found[0].id == run.id
    assert instrument_for("NEWUSDT", found[1]).tick_size == D("0.00001")
    assert stated is None  # the configuration states other rules
