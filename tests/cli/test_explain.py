"""`tapewire explain`: every order of sample runs, compared with the rows that the run recorded."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.config import load
from agent.core.engine import CORE, CORE_REVISION, Engine
from agent.core.events import Command, Kline
from agent.replay.verify import verify
from agent.store.database import open_database
from agent.store.journal import Journal, decode
from agent.store.queries import find_run
from agent.store.recorder import Recorder
from agent.store.runs import Run, RunKind
from strategies import load_strategy
from tests.cli.conftest import Outcome
from tests.conftest import ROOT

Tapewire = Callable[..., Outcome]
SAMPLE = ROOT / "tests/sample_data"
BTC = ("--klines", f"BTCUSDT={SAMPLE / 'BTCUSDT-1m.csv'}")
NEWS = ("--klines", f"ETHUSDT={SAMPLE / 'ETHUSDT-1m.csv'}", "--news", str(SAMPLE / "headlines.csv"))

PROTECTED = """
import tapewire as tw


class Protected(tw.Strategy):
    def on_start(self, market):
        self.bars = 0

    def on_kline(self, kline, market):
        self.bars += 1
        if self.bars == 100:
            self.target(kline.symbol, risk=0.004, stop=-0.01, take_profit=0.02, reason="<b>[red]in</b>")
        if self.bars == 110:
            self.target(kline.symbol, qty=0)
        if self.bars == 150:
            self.target(kline.symbol, weight=0.2, limit=kline.close * 0.5, expire="10m", reason="far away")
"""


def rows(query: str, *values: object) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect("var/tapewire.db")) as database:
        return database.execute(query, values).fetchall()


def explained(tapewire: Tapewire, *args: str) -> list[dict[str, Any]]:
    done = tapewire("explain", *args, "--json")
    assert done.code == 0, done.err
    found: list[dict[str, Any]] = json.loads(done.out)["orders"]
    return found


@pytest.mark.slow
def test_every_order_of_a_news_run_agrees_with_the_record(tapewire: Tapewire) -> None:
    assert tapewire("backtest", *BTC, *NEWS, "--json").code == 0
    orders = rows("SELECT id, event_seq, symbol, qty, ts FROM orders ORDER BY seq")
    assert len(orders) > 10
    with_signal = 0
    for number, (order_id, event_seq, symbol, qty, ts) in enumerate(orders, 1):
        (one,) = explained(tapewire, "latest", str(number))
        assert (one["order"]["id"], one["number"], one["event_seq"]) == (order_id, number, event_seq)
        assert one["event"]["available_at"] == ts
        # the signal that led to it was recorded on the same event, and the votes make its probabilities
        signals = rows(
            "SELECT direction, bearish, neutral, bullish, sources FROM signals "
            "WHERE event_seq = ? AND symbol = ?",
            *(event_seq, symbol),
        )
        for direction, bearish, neutral, bullish, sources in signals:
            votes = one["votes"]
            assert {vote["news_id"] for vote in votes} <= set(json.loads(sources))
            if direction == "HOLD":
                continue
            with_signal += 1
            assert one["event"]["event"] == "Sentiment"
            assert one["signal"]["direction"] == direction
            assert one["target"]["callback"] == "on_signal"
            total = sum(vote["weight"] for vote in votes)
            for name, mean in (("bearish", bearish), ("neutral", neutral), ("bullish", bullish)):
                assert sum(vote["weight"] * vote[name] for vote in votes) / total == pytest.approx(mean)
            for vote in votes:
                (news,) = rows("SELECT title, ts FROM news WHERE id = ?", vote["news_id"])
                assert (vote["title"], vote["published"]) == news
        # the size follows from equity and price
        size = one["size"]
        assert size["confirmed"]
        assert Decimal(str(size["qty"])) == Decimal(qty)
        if one["target"]["fields"]["weight"] > 0:
            aimed = one["target"]["fields"]["weight"] * size["equity"] / size["price"]
            assert size["aimed"] == pytest.approx(aimed)
            assert [check["value"] <= check["limit"] for check in one["checks"]] == [True] * 5
        # the fills are those of the record
        fills = rows("SELECT id, fee, available_at FROM fills WHERE order_id = ? ORDER BY seq", order_id)
        assert [fill["id"] for fill in one["outcome"]["fills"]] == [fill_id for fill_id, _, _ in fills]
        assert Decimal(str(one["outcome"]["fees"])) == sum(Decimal(fee) for _, fee, _ in fills)
        assert one["outcome"]["latency_ms"] == fills[0][2] - ts
        assert one["outcome"]["arrives_at"] == ts + 250
        assert one["outcome"]["ended"] == "filled"
    assert with_signal >= 5


@pytest.fixture
def protected(tapewire: Tapewire) -> Tapewire:
    """A run with a protected entry, an exit, and a limit order that expires."""
    Path("protected.py").write_text(PROTECTED)
    assert tapewire("backtest", *BTC, "--strategy", "protected.py").code == 0
    return tapewire


def test_a_target_by_risk_and_its_protection(protected: Tapewire) -> None:
    """0.4 % of 10,000 is 40; the stop is 1 % below the close of bar 100, so 40 / (1 % of it) is the size."""
    (entry,) = explained(protected, "latest", "1")
    assert (entry["event_seq"], entry["origin"]) == (100, "target")
    assert entry["target"]["callback"] == "on_kline"
    assert entry["target"]["fields"] == {
        **{"stop": -0.01, "take_profit": 0.02, "reason": "<b>[red]in</b>", "risk": 0.004}
    }
    price, stop = entry["event"]["close"], entry["order"]["stop"]
    aimed = 40 / (price - stop)
    assert entry["size"]["aimed"] == pytest.approx(aimed)
    assert entry["order"]["qty"] == pytest.approx(aimed // 0.001 * 0.001)
    assert entry["outcome"]["attached"] == [2, 3]
    (stop_order,) = explained(protected, "latest", "2")
    assert (stop_order["origin"], stop_order["parent"]) == ("protection", 1)
    assert (stop_order["target"], stop_order["checks"]) == (None, [])
    assert stop_order["outcome"]["ended"] == "cancelled: position closed"
    first, last = explained(protected, "latest", "t1")
    assert (first["number"], last["number"], first["trip"], last["trip"]) == (1, 4, 1, 1)
    assert last["order"]["reduce_only"]
    (expired,) = explained(protected, "latest", "5")
    assert expired["outcome"]["ended"] == "cancelled: expired"
    assert expired["outcome"]["ended_at"] == expired["order"]["ts"] + 600_000
    assert expired["outcome"]["fills"] == []


def test_the_panel_shows_texts_as_they_are(protected: Tapewire) -> None:
    shown = protected("explain", "latest", "1").out
    assert "<b>[red]in</b>" in shown
    assert "protected by" in shown
    listed = protected("explain").out
    assert "cancelled: expired" in listed
    assert [line for line in listed.splitlines() if line[:1].isdigit()] == ["1", "2", "3", "4", "5"]


@pytest.mark.parametrize(
    ("which", "message"),
    [
        ("6", "has no order '6' (a number from 1 to 5, an id, or t1 to t1 for a round trip)"),
        ("0", "has no order '0'"),
        ("t2", "has no round trip t2 (it has t1 to t1)"),
        ("tw-zz", "has no order 'tw-zz'"),
        ("tw-", "5 orders of run"),
    ],
)
def test_unknown_orders_are_one_line(protected: Tapewire, which: str, message: str) -> None:
    done = protected("explain", "latest", which)
    assert done.code == 2
    assert message in done.err


def test_an_id_and_its_first_characters_name_an_order(protected: Tapewire) -> None:
    ((order_id,),) = rows("SELECT id FROM orders WHERE event_seq = 100")
    for which in (order_id, order_id[:12], order_id.removeprefix("tw-")[:12]):
        if which.isdecimal():
            continue
        (found,) = explained(protected, "latest", which)
        assert found["order"]["id"] == order_id


def test_a_changed_strategy_is_not_imported(protected: Tapewire) -> None:
    Path("protected.py").write_text(PROTECTED.replace("== 110", "== 111"))
    done = protected("explain", "latest", "1")
    assert done.code == 3
    assert "--trust-strategy" in done.err


def test_another_decision_on_the_way_is_an_error(protected: Tapewire) -> None:
    with closing(sqlite3.connect("var/tapewire.db")) as database:
        database.execute("UPDATE orders SET qty = '0.001' WHERE event_seq = 100")
        database.commit()
    done = protected("explain", "latest", "5")
    assert done.code == 1
    assert "it decides differently from event 100 on" in done.err
    assert "tapewire verify" in done.err


def test_a_live_run_is_explained_from_its_journal(tapewire: Tapewire) -> None:
    """A life on the sample bars: an operator closes the position, which no target of the strategy did."""
    Path("protected.py").write_text(PROTECTED)
    config = load(None)
    config = config.model_copy(update={"market": config.market.model_copy(update={"symbols": ("BTCUSDT",)})})
    lines = (SAMPLE / "BTCUSDT-1m.csv").read_text().splitlines()[1:108]
    start = 1_740_916_800_000
    events: list[Any] = [Command("life", start, start, {"incarnation": "one", "cash": "stated"})]
    for number, line in enumerate(lines):
        opened, high, low, close, volume = map(float, line.split(",")[1:])
        at = start + number * 60_000
        events.append(
            Kline("BTCUSDT", 60_000, at, at + 60_000, at + 60_000, opened, high, low, close, volume)
        )
    end = events[-1].available_at
    events.append(Command("flatten", end + 1, end + 1, {}, by="operator"))
    with closing(open_database("sqlite:///var/tapewire.db")) as database:
        run = Run(
            "live-1",
            RunKind.LIVE,
            start,
            "protected.py",
            config=config.persisted(),
            versions={CORE: CORE_REVISION},
        )
        with Recorder(database, run) as recorder:
            strategy = load_strategy("protected.py")
            engine = Engine(config, strategy, recorder, run_id=run.id, equity_block=1, contain_errors=True)
            journal = Journal(database, run.id)
            for event in events:
                recorder.event_seq = journal.append([event])
                engine.handle(event)
            engine.finish()
            recorder.finish(
                **{"first_event_at": start, "last_event_at": end + 1, "metrics": {}},  # type: ignore[arg-type]
                final_equity=engine.portfolio.exact_equity(),
            )
        assert verify(database, find_run(database), trust_strategy=True).identical
    closing_order = len(rows("SELECT id FROM orders"))
    for number in (1, closing_order):
        (one,) = explained(tapewire, "latest", str(number), "--trust-strategy")
        ((payload,),) = rows("SELECT payload FROM journal WHERE seq = ?", one["event_seq"])
        assert one["event"] == json.loads(msgspec.json.encode(decode(payload)))
    assert (one["origin"], one["order"]["reason"]) == ("closing", "flatten")
    assert (one["event"]["action"], one["event"]["by"]) == ("flatten", "operator")
    assert (one["target"], one["size"]) == (None, None)
    assert one["outcome"]["ended"] == "it was still working at the end of the record"
