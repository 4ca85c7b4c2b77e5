"""Runs the whole engine on the public engines' workloads; prints one JSON line as their scripts do.

    python bench/replay.py {w1|w2|sparse} [--bars FILE.npz | --count 525600] [--fill open|close] [--events]

W1: SMA 20/100 crossover, long or flat. W2: the ten features on every bar and 50,000 news scores merged in
time order; long if EMA(score) + 40 * return_20 > 0.10, flat if below -0.10. sparse: every fiftieth of the
scores alone; long at one above 0.3, flat at one below -0.3. Cash 1,000,000, 0.99 all-in, fee 0.055 %, no
spread, no slippage. `--fill` selects whether orders fill at the next bar's open or at the signal bar's own
close. Without `--bars` the arrays are generated.

The timed part is all work from the arrays on: building the events, merging them, and the whole engine up to
reconciled books and equity samples. As in the other engines' scripts, neither metrics nor a database are
included; `--metrics` adds what a backtest folds as it goes (equity curve, drawdown, round trips). `--events`
makes an event of each bar, as a live run does.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import resource
import time
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from agent import __version__
from agent.config import Config, parse
from agent.core.block_runner import BlockRunner
from agent.core.engine import Engine
from agent.core.events import MINUTE_MS, Decision, Event, Fill, Gap, Kline, Sentiment
from agent.core.sinks import NullSink
from agent.core.strategy import BarSpan, Market, Strategy
from agent.data.bar_checks import Bars
from agent.data.block_stream import BarSlice, block_stream
from agent.data.merge import merge
from agent.replay.backtest import BacktestSink, rare_collection
from strategies.sma_cross import SmaCross

SYMBOL = "BTCUSDT"
WEIGHT = 0.99
BLOCK = 16_384


class FillCounter(NullSink):
    """Counts fills."""

    def __init__(self) -> None:
        self.fills = 0

    def decision(self, decision: Decision) -> None:
        self.fills += decision.__class__ is Fill


class ScoreMomentum(Strategy):
    """Rule of W2: a moving average of news scores plus momentum, with hysteresis."""

    def __init__(self) -> None:
        super().__init__()
        self.average = 0.0
        self.scores = 0

    def on_sentiment(self, sentiment: Sentiment, market: Market) -> None:
        self.average += 2.0 / 21.0 * (sentiment.score - self.average)
        self.scores += 1

    def on_kline(self, kline: Kline, market: Market) -> None:
        level = self.average + 40.0 * market.features(SYMBOL).return_20
        if level > 0.10:
            if not market.position(SYMBOL):
                self.target(SYMBOL, weight=WEIGHT)
        elif level < -0.10 and market.position(SYMBOL):
            self.target(SYMBOL, weight=0.0)

    def quiet_bars(self, bars: BarSpan, market: Market) -> int:
        average = self.average
        if market.position(SYMBOL):
            return bars.first_beyond("return_20", below=-0.10, weight=40.0, offset=average)
        return bars.first_beyond("return_20", above=0.10, weight=40.0, offset=average)


class ScoreThreshold(Strategy):
    """Rule of the event-sparse workload: it is called for scores alone."""

    reads_features = False

    def __init__(self) -> None:
        super().__init__()
        self.scores = 0

    def on_sentiment(self, sentiment: Sentiment, market: Market) -> None:
        self.scores += 1
        if sentiment.score > 0.3:
            if not market.position(SYMBOL):
                self.target(SYMBOL, weight=WEIGHT)
        elif sentiment.score < -0.3 and market.position(SYMBOL):
            self.target(SYMBOL, weight=0.0)


STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "w1": lambda: SmaCross(SmaCross.Params(fast=20, slow=100, weight=WEIGHT)),
    "w2": ScoreMomentum,
    "sparse": ScoreThreshold,
}
SPARSE = 50
"""The sparse workload has one of so many scores."""


def generate(count: int) -> dict[str, np.ndarray]:
    """Return `count` bars of a random walk, and a score every ten bars; times in ns."""
    rng = np.random.default_rng(7)
    start = 1_700_000_040_000_000_000 + np.arange(count) * 60_000_000_000
    close = 40_000.0 * np.exp(np.cumsum(rng.normal(0.0, 0.0006, count)))
    opened = np.concatenate(([40_000.0], close[:-1]))
    wide = np.abs(rng.normal(0.0, 0.0004, (2, count)))
    high, low = np.maximum(opened, close) * (1 + wide[0]), np.minimum(opened, close) * (1 - wide[1])
    at = np.sort(rng.integers(start[0], start[-1], max(1, count // 10)))
    score = np.clip(rng.normal(0.0, 0.35, len(at)), -1.0, 1.0)
    data = {"ts": start, "o": opened.round(2), "h": high.round(2), "l": low.round(2), "c": close.round(2)}
    return data | {"v": rng.uniform(1, 90, count).round(3), "nts": at, "nscore": score}


class ArrayBars:
    """The bars of the arrays, as `KlineFile` has those of a file."""

    def __init__(self, data: dict[str, np.ndarray]) -> None:
        self.symbol = SYMBOL
        self.interval = MINUTE_MS
        self._data = data

    def blocks(self) -> Iterator[Bars | Gap]:
        """Yield the bars as columns."""
        data = self._data
        for at in range(0, len(data["ts"]), BLOCK):
            start = data["ts"][at : at + BLOCK] // 1_000_000
            values = tuple(data[k][at : at + BLOCK] for k in "ohlcv")
            yield Bars(start, start + MINUTE_MS, start, np.full(len(start), MINUTE_MS), values)

    def __iter__(self) -> Iterator[Kline | Gap]:
        for bars in self.blocks():
            assert isinstance(bars, Bars)
            start, close = bars.start.tolist(), bars.close.tolist()
            columns = [column.tolist() for column in bars.values]
            yield from map(Kline, repeat(SYMBOL), repeat(MINUTE_MS), start, close, close, *columns)


def scores(data: dict[str, np.ndarray]) -> Iterator[Sentiment]:
    """Yield scores s in [-1, 1] as probabilities: bullish (1 + s) / 2, bearish (1 - s) / 2."""
    for ts, score in zip((data["nts"] // 1_000_000).tolist(), data["nscore"].tolist(), strict=True):
        yield Sentiment("", ts, ts, (1.0 - score) / 2.0, 0.0, (1.0 + score) / 2.0, symbols=(SYMBOL,))


def configuration(fill: str) -> Config:
    """Return the workloads' configuration: no risk limits, no spread, no slippage, no latency."""
    return parse(
        {
            "market": {"symbols": [SYMBOL], "category": "linear", "interval": "1m"},
            "account": {"initial_capital": 1_000_000},
            "instruments": {
                SYMBOL: {"tick_size": "0.01", "qty_step": "0.00001", "min_qty": "0.00001", "min_notional": 0}
            },
            "signals": {"threshold": 0.9999},  # the strategy uses the scores directly
            "risk": {
                "max_daily_loss": 1,
                "max_drawdown": 1,
                "max_position": 10,
                "max_leverage": 10,
                "max_order": 10,
            },
            "paper": {
                "fill": fill,
                "latency": 0,
                "half_spread_bps": 0,
                "slippage": "none",
                "liquidity": "infinite",
                "taker_fee": "0.00055",
                "rebalance_band": 0,
            },
        },
        where="bench/replay.py",
    )


def main() -> None:
    """Run one workload and print its line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workload", choices=list(STRATEGIES))
    parser.add_argument(
        "--bars", type=Path, help="the arrays of gen_data.py (ts, o, h, l, c, v, nts, nscore)"
    )
    parser.add_argument("--count", type=int, default=525_600, help="bars to generate")
    parser.add_argument("--fill", choices=["open", "close"], default="open")
    parser.add_argument("--events", action="store_true", help="make an event of each bar, as a live run does")
    parser.add_argument("--metrics", action="store_true", help="include the metrics of a backtest")
    args = parser.parse_args()
    if args.bars is None:
        data = generate(args.count)
    else:
        with np.load(args.bars) as arrays:
            data = {key: arrays[key] for key in arrays.files}
    if args.workload == "sparse":
        data |= {key: data[key][::SPARSE] for key in ("nts", "nscore")}
    strategy = STRATEGIES[args.workload]()
    settings = configuration(args.fill)
    tally = FillCounter()
    measured = BacktestSink(tally, settings) if args.metrics else None
    engine = Engine(settings, strategy, tally if measured is None else measured, run_id="bench")
    handle = engine.handle
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    sources: list[Iterable[Event]] = [ArrayBars(data)]
    if args.workload != "w1":
        sources.append(scores(data))
    with rare_collection():
        if args.events:
            for event in merge(sources):
                handle(event)
            engine.finish()
        else:
            runner = BlockRunner(engine)
            for part in block_stream(sources):
                if isinstance(part, BarSlice):
                    runner.handle(part.block, part.first, part.last)
                else:
                    handle(part)
            runner.finish()
        if measured is not None:
            measured.close()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    fills = tally.fills
    n = len(data["ts"])
    line: dict[str, Any] = {
        "engine": "tapewire",
        "version": __version__,
        "workload": args.workload,
        "fill": args.fill,
        "bars": n,
        "seconds": round(wall, 4),
        "cpu_seconds": round(cpu, 4),
        "bars_per_s": round(n / wall),
        "bars_per_cpu_s": round(n / cpu),
        "trades": fills // 2,
        "final_equity": float(engine.portfolio.exact_equity().quantize(Decimal("0.01"))),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "fills": fills,
        "python": platform.python_version(),
    }
    if isinstance(strategy, ScoreThreshold):
        line["news"] = strategy.scores
    if isinstance(strategy, ScoreMomentum):
        line |= {
            "news": strategy.scores,
            "last_features": [round(x, 10) for x in engine.market.features(SYMBOL)],
        }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
