"""Measures how a live run's store grows and how long a restart takes; prints one JSON object.

    python bench/growth.py [--symbols 2] [--days 365] [--hours 2] [--folder DIR]

`market_day_mb` is the size of a day's journal in a market that pushes each open bar once a second,
extrapolated from `--hours` of market. `all` journals every state, `sampled` uses the default
`live.open_bars_every`, for an account that is flat, holds, and holds with a stop. `restart` is a start of the
core on a store with `--days` of journal at the sampled rate: with a snapshot and 15 minutes to fold, and by
folding everything, of which a part is measured. Segments older than `store.segment` are in archives, not in
the store.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from agent.config import Config, parse
from agent.core.engine import Engine
from agent.core.events import MINUTE_MS, Event, Kline
from agent.core.sinks import NullSink
from agent.core.strategy import Market, Strategy
from agent.live.event_filter import OpenBarSampler
from agent.live.pipeline import Pipeline
from agent.store.database import Database, open_database
from agent.store.journal import Journal, encode
from agent.store.queries import find_run
from agent.store.recorder import Recorder
from agent.store.runs import Run, RunKind
from agent.store.state_snapshots import list_snapshots
from strategies import load_strategy

T0: Final = 1_735_689_600_000
DAY_MINUTES: Final = 1_440


class HoldStrategy(Strategy):
    """Holds a small position in every symbol, with a stop at distance `stop` (None: without a stop)."""

    weight = 0.0
    stop: float | None = None

    def on_kline(self, kline: Kline, market: Market) -> None:
        if self.weight and not market.position(kline.symbol):
            self.target(kline.symbol, weight=self.weight / len(market.symbols), stop=self.stop)


def market(symbols: Sequence[str], minutes: int, seed: int = 0) -> Iterator[Kline]:
    """Yield a state of each bar per second: a random walk of 0.6 % an hour."""
    rng = random.Random(seed)
    prices = dict.fromkeys(symbols, 30_000.0)
    volumes = dict.fromkeys(symbols, 0.0)
    for minute in range(minutes):
        start = T0 + minute * MINUTE_MS
        bars = {symbol: (price, price, price) for symbol, price in prices.items()}
        for second in range(1, 61):
            for number, symbol in enumerate(symbols):
                price = prices[symbol] = round(prices[symbol] * (1 + rng.gauss(0, 1e-4)), 1)
                opened, high, low = bars[symbol]
                high, low = max(high, price), min(low, price)
                bars[symbol] = (opened, high, low)
                volumes[symbol] += rng.expovariate(0.5)
                at = start + second * 1000 - (0 if second == 60 else 900 - number * 800 // len(symbols))
                volume = round(volumes[symbol], 3)
                yield Kline(
                    symbol,
                    MINUTE_MS,
                    start,
                    at,
                    at,
                    opened,
                    high,
                    low,
                    price,
                    volume,
                    volume * price,
                    second == 60,
                )
        volumes = dict.fromkeys(symbols, 0.0)


def settings(symbols: Sequence[str], **sections: Any) -> Config:
    """Return the default configuration with this strategy."""
    raw: dict[str, Any] = {"market": {"symbols": list(symbols)}, "account": {"initial_capital": "100000"}}
    return parse(raw | sections, where="bench")


def journalled(config: Config, events: Iterator[Kline], every: int, strategy: Strategy) -> Iterator[Kline]:
    """Yield the market events that are journalled."""
    engine = Engine(config, strategy, NullSink(), run_id="bench", equity_block=1)
    gate = OpenBarSampler(engine, every)
    for event in events:
        for one in gate.on_bar(event):
            engine.handle(one)
            yield one


def measure_journal(folder: Path, events: Iterator[Kline]) -> tuple[int, int]:
    """Return the number of events and the bytes of a store with this journal."""
    file = folder / "bytes.db"
    open_database(f"sqlite:///{file}").close()
    before = file.stat().st_size
    with closing(open_database(f"sqlite:///{file}")) as database:
        Recorder(database, Run("bench", RunKind.LIVE, T0, "sma_cross"))
        journal = Journal(database, "bench")
        batch: list[Event] = []
        for event in events:
            batch.append(event)
            if len(batch) == 1_000:
                journal.append(batch)
                batch = []
        journal.append(batch)
        count = journal.last_seq
    size = file.stat().st_size - before
    file.unlink()
    return count, size


def measure_day(symbols: Sequence[str], hours: float, folder: Path) -> dict[str, Any]:
    """Return MB and events per day, with all states and sampled."""
    config = settings(symbols)
    found: dict[str, Any] = {}
    for name, weight, stop in (
        ("flat", 0.0, None),
        ("holding", 0.5, None),
        ("holding with a stop", 0.5, -0.05),
    ):
        for mode, every in (("all", 0), ("sampled", config.live.open_bars_every)):
            if mode == "all" and name != "flat":
                continue  # same result as above
            strategy = HoldStrategy()
            strategy.weight, strategy.stop = weight, stop
            events, size = measure_journal(
                folder, journalled(config, market(symbols, int(hours * 60)), every, strategy)
            )
            scale = 24 / hours
            key = "all" if mode == "all" else f"sampled, {name}"
            found[key] = {
                "events": round(events * scale),
                "mb": round(size * scale / 1e6, 2),
                "bytes_an_event": round(size / events),
            }
    return found


def fill(database: Database, symbols: Sequence[str], days: int) -> int:
    """Insert rows of another run at the sampled rate and return their number."""
    Recorder(database, Run("past", RunKind.LIVE, T0, "sma_cross"))
    payload = encode(next(market(symbols[:1], 1)))
    states = 5  # per minute and symbol: the close and four samples
    a_minute = states * len(symbols)
    with closing(database.engine.raw_connection()) as connection:
        cursor = connection.cursor()
        cursor.execute("PRAGMA synchronous=OFF")
        for day in range(days):
            first = day * DAY_MINUTES * a_minute
            rows = [
                (
                    "past",
                    first + number + 1,
                    "Kline",
                    T0 + day * 86_400_000 + number // a_minute * MINUTE_MS,
                    payload,
                )
                for number in range(DAY_MINUTES * a_minute)
            ]
            cursor.executemany("INSERT INTO journal VALUES (?, ?, ?, ?, ?)", rows)
            connection.commit()
    return days * DAY_MINUTES * a_minute


async def run_core(
    config: Config, database: Database, events: Sequence[Event], *, first: bool
) -> dict[str, float]:
    """Return the seconds until the core is ready, then handle `events`. Every run but the first is killed."""
    run = Run(
        "life",
        RunKind.LIVE,
        T0,
        config.strategy.name,
        params=dict(config.strategy.params),
        config=config.persisted(),
    )
    began = time.perf_counter()
    pipeline = Pipeline(config, database, run if first else find_run(database, "life"), resume=not first)
    try:
        with pipeline:
            seconds = time.perf_counter() - began
            for at in range(0, len(events), 100):
                await pipeline.feed([(event, 0.0) for event in events[at : at + 100]])
            if first:
                pipeline.end(complete=False)
                took, size = pipeline.snapshots.status.took_ms, list_snapshots(database, "life")[0].size
                return {"snapshot_ms": took, "snapshot_kb": round(size / 1e3, 1)}
            folded = pipeline.journal.last_seq - pipeline.snapshots.status.resumed_from
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        return {"seconds": round(seconds, 3), "folded": folded - len(events)}


def restart(symbols: Sequence[str], days: int, hours: float, folder: Path) -> dict[str, Any]:
    """Measure a restart on a store with history, with a snapshot that is 15 minutes old."""
    config = settings(
        symbols,
        strategy={"name": "sma_cross", "params": {"fast": 20, "slow": 50}},
        store={"snapshot_every": "15m"},
    )
    sampled = list(
        journalled(
            config, market(symbols, int(hours * 60)), config.live.open_bars_every, load_strategy("sma_cross")
        )
    )
    tail = 15 * 5 * len(symbols)
    file = folder / "restart.db"
    with closing(open_database(f"sqlite:///{file}")) as database:
        rows = fill(database, symbols, days)
        found: dict[str, Any] = {"days": days, "rows": rows, "store_mb": round(file.stat().st_size / 1e6)}
        found |= asyncio.run(run_core(config, database, sampled[:-tail], first=True))
        asyncio.run(run_core(config, database, sampled[-tail:], first=False))
        found["with_snapshot"] = asyncio.run(run_core(config, database, [], first=False))
        with database.write() as connection:
            connection.exec_driver_sql("DELETE FROM snapshots")
        found["folding_all"] = whole = asyncio.run(run_core(config, database, [], first=False))
        found["folding_a_year_s"] = round(
            whole["seconds"] / max(whole["folded"], 1) * 5 * DAY_MINUTES * 365 * len(symbols)
        )
        found["folding_a_year_of_all_states_s"] = round(found["folding_a_year_s"] * 12)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--symbols", type=int, default=2)
    parser.add_argument("--days", type=int, default=365, help="days of journal in the store")
    parser.add_argument("--hours", type=float, default=2.0, help="hours of market to generate")
    parser.add_argument("--folder", type=Path, default=None)
    given = parser.parse_args()
    symbols = [f"S{number:02}USDT" for number in range(given.symbols)]
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        found = {
            "symbols": given.symbols,
            "market_day": measure_day(symbols, given.hours, Path(folder)),
            "restart": restart(symbols, given.days, given.hours, Path(folder)),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
