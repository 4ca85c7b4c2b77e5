"""A small recorded run of two symbols on hourly bars, with one trade on a headline that contains HTML."""

from __future__ import annotations

from decimal import Decimal as D
from pathlib import Path
from typing import Any

import msgspec

from agent.analysis.benchmark import BuyAndHoldBenchmark
from agent.analysis.equity import EquityCurve
from agent.analysis.run_metrics import compute
from agent.analysis.trades import TradeBook
from agent.config import Config
from agent.core.events import (
    HOUR_MS,
    AssetSentiment,
    Direction,
    Fill,
    FundingPayment,
    News,
    Order,
    OrderType,
    Provenance,
    RiskEvent,
    RiskState,
    Sentiment,
    Side,
    Signal,
)
from agent.data.columns import content_hash
from agent.store.database import Database, open_database
from agent.store.recorder import Recorder
from agent.store.runs import InputFile, Run, RunKind

START = 1_704_067_200_000  # 2024-01-01
SYMBOLS = ("BTCUSDT", "ETHUSDT")
HOSTILE = 'Rally </script><script>alert("1")</script><img src=x onerror=alert(2)> & --accent %{x}'


def record_run(
    folder: Path,
    *,
    hours: int = 48,
    finish: bool = True,
    stamps: tuple[str, ...] = (),
    paper: dict[str, Any] | None = None,
    headlines: int = 0,
    answers: tuple[AssetSentiment, ...] = (),
    kinds: tuple[str, ...] = ("",),
    model: str = "starter",
    provenance: Provenance | None = None,
) -> Database:
    """Record run `run-1` in `folder`/store.db, with kline files beside it; prices are 100 + hour.

    Adds as many scored `headlines` on BTCUSDT, two per story, spread over the run at half past an hour. With
    `answers` for single assets, the headlines are about both symbols. `kinds` are those of successive
    stories, by turns.
    """
    config = Config.model_validate(
        {"market": {"interval": "1h"}, "paper": paper or {}, "model": {"path": model}}
    )
    inputs = tuple(_kline_file(folder / f"{symbol}-1h.csv", symbol, hours) for symbol in SYMBOLS)
    run = Run(
        id="run-1",
        kind=RunKind.BACKTEST,
        started_at=START,
        strategy="sentiment",
        params={"weight": 0.1},
        config=config.model_dump(mode="json") | {"window": {"start": START, "end": None}},
        inputs=inputs,
        stamps=stamps,
    )
    database = open_database(f"sqlite:///{folder / 'store.db'}")
    with Recorder(database, run) as recorder:
        for number in range(headlines):
            ts = START + (1 + number * (hours - 1) // headlines) * HOUR_MS + HOUR_MS // 2
            _score(recorder, number, ts, answers, kinds[number // 2 % len(kinds)], provenance)
        _trade(recorder, hours, finish=finish)
    return database


def _score(
    recorder: Recorder,
    number: int,
    ts: int,
    answers: tuple[AssetSentiment, ...],
    kind: str,
    provenance: Provenance | None,
) -> None:
    """Record headline `number`: two bullish and two bearish by turns, with rising confidence."""
    sure = 0.5 + 0.4 * number / 1_000
    rest = (1 - sure) / 2
    bearish, bullish = (sure, rest) if number % 4 < 2 else (rest, sure)
    recorder.event_seq += 1
    symbols = SYMBOLS if answers else SYMBOLS[:1]
    recorder.news(News(f"h{number}", ts, ts, f"Headline {number}"), symbols, f"h{number - number % 2}")
    sentiment = Sentiment(
        f"h{number}",
        ts,
        ts,
        bearish,
        rest,
        bullish,
        "model",
        assets=answers,
        kind=kind,
        provenance=provenance,
    )
    recorder.sentiment(sentiment)


def _trade(recorder: Recorder, hours: int, *, finish: bool) -> None:
    """Buy 1 BTCUSDT in hour 10 on a headline, pay funding in hour 16, sell in hour 20, halt in hour 30."""
    curve, book = EquityCurve(10_000.0, HOUR_MS), TradeBook()
    hold = BuyAndHoldBenchmark(SYMBOLS, 10_000.0, HOUR_MS)
    for hour in range(1, hours + 1):
        ts = START + hour * HOUR_MS
        recorder.event_seq = hour
        for symbol in SYMBOLS:
            hold.add(symbol, ts, 100.0 + hour)
        if hour == 10:
            recorder.news(News("n1", ts, ts, HOSTILE, publisher="<b>Wire</b>"), ("BTCUSDT",), "n1")
            recorder.decision(Signal("BTCUSDT", ts, Direction.BUY, 0.9, 0.05, 0.05, 0.9, True, ("n1",)))
        if hour in (10, 20):
            side = Side.BUY if hour == 10 else Side.SELL
            order = Order(f"o{hour}", "BTCUSDT", ts, side, OrderType.MARKET, D(1), reason="why <i>not</i>")
            fill = Fill(
                "f",
                order.id,
                "BTCUSDT",
                ts,
                ts,
                side,
                D(1),
                D(100 + hour),
                D(1),
                slippage=D("0.5"),
                reason=order.reason,
            )
            recorder.decision(order)
            recorder.decision(fill)
            book.add(fill)
        if hour == 16:
            payment = FundingPayment("BTCUSDT", ts, D("0.0001"), D(1), D(116), D("-0.25"))
            recorder.decision(payment)
            book.add_funding(payment)
        if hour == 30:
            recorder.decision(RiskEvent(ts, RiskState.HALTED, "max_drawdown", "a <u>fall</u>"))
        if hour > 30:
            recorder.decision(RiskEvent(ts, RiskState.HALTED, "state HALTED", "max_drawdown", "BTCUSDT"))
        totals = book.symbols.get("BTCUSDT")
        equity = 10_000 + (float(totals.pnl(D(100 + hour))) if totals else 0.0)
        exposure = float(totals.qty) * (100 + hour) if totals else 0.0
        recorder.equity([ts], [equity], [equity - exposure], [exposure])
        curve.add(ts, equity, exposure > 0)
    if finish:
        metrics = compute(curve, book, category="linear", interval=HOUR_MS, benchmark=hold)
        recorder.finish(
            first_event_at=START + HOUR_MS,
            last_event_at=START + hours * HOUR_MS,
            final_equity=D(repr(metrics.final_equity)),
            metrics=msgspec.to_builtins(metrics),
        )


def _kline_file(path: Path, symbol: str, hours: int) -> InputFile:
    """Write bars with closes of 100 + hour, from an hour before the run to an hour after it."""
    rows = [
        f"{START + (hour - 1) * HOUR_MS},{100 + hour},{100 + hour},{100 + hour},{100 + hour},1"
        for hour in range(0, hours + 2)
    ]
    path.write_text("\n".join(["open_time,open,high,low,close,volume", *rows]) + "\n")
    return InputFile("klines", str(path), content_hash(path), symbol, len(rows))
