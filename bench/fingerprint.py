"""Fingerprints of whole decision chains, to show that a change of the engine decides the same.

    python bench/fingerprint.py --klines FILE … [--end MS] [--sentiment FILE] [--events]

Runs five strategies over the files and prints one JSON line for each: the number of decisions, the head of
their chain (with the numbers of their events), and digests of the equity samples and the metrics. Without
`--sentiment` scores are generated, one an hour. `--events` makes an event of each bar. Run it with the
compiled modules and without, and with an earlier checkout on PYTHONPATH: the lines must be equal.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import msgspec

sys.path.append(str(Path(__file__).resolve().parent.parent))

from agent.config import parse
from agent.core import engine as engine_module
from agent.core.events import HOUR_MS, Decision, Event
from agent.core.sinks import ListSink
from agent.replay.backtest import replay
from agent.replay.history import History, Plan
from agent.store.chain import DecisionChain
from strategies import load_strategy

ORDERS: Final = '''
import tapewire as tw


class Orders(tw.Strategy):
    """Orders of all kinds, chosen by the features and the last digits of the price."""

    def on_kline(self, kline, market):
        number, symbol = int(kline.close * 100) % 997, kline.symbol
        features = market.features(symbol)
        if number > 8 or not features.warm:
            return
        side = 1 if features.return_20 > 0 else -1
        price = market.price(symbol)
        if number < 3:
            self.target(symbol, weight=0.3 * side, stop=-0.01 * side, take_profit=0.02 * side)
        elif number < 5:
            self.target(symbol, weight=0.3 * side, trail=-0.01 * side)
        elif number < 7:
            self.target(symbol, weight=0.3 * side, limit=price * (1 - 0.001 * side), expire="1h")
        else:
            self.target(symbol, weight=0.0)
'''


class ChainSink(ListSink):
    """Chains the decisions and keeps the samples."""

    def __init__(self) -> None:
        super().__init__()
        self.event_seq = 0
        self.chain = DecisionChain()

    def decision(self, decision: Decision) -> None:
        self.chain.add(decision, self.event_seq)


def write_scores(path: Path, first: int, end: int) -> None:
    """Write generated scores, one an hour on average, of times from `first` to `end` (UTC ms)."""
    rng = random.Random(1)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "published_at", "title", "bearish", "neutral", "bullish", "currencies"])
        for number, at in enumerate(
            sorted(rng.randrange(first, end) for _ in range((end - first) // HOUR_MS))
        ):
            bearish = round(rng.random(), 3)
            title, coin = f"story {number} {rng.randrange(10**9)}", rng.choice(["BTC", "ETH"])
            writer.writerow([f"n{number}", at, title, bearish, 0.0, round(1 - bearish, 3), coin])


def digest(value: Any) -> str:
    return hashlib.sha256(msgspec.json.encode(value)).hexdigest()[:16]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--klines", type=Path, nargs="+", required=True)
    parser.add_argument("--end", type=int, help="UTC ms")
    parser.add_argument("--sentiment", type=Path)
    parser.add_argument("--events", action="store_true")
    args = parser.parse_args()
    compiled = not engine_module.__file__.endswith(".py")
    print(f"compiled: {compiled}, events: {args.events}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as scratch:
        orders = Path(scratch) / "orders.py"
        orders.write_text(ORDERS, encoding="utf-8")
        files = tuple((file, None) for file in args.klines)
        whole = History(Plan(files, end=args.end), parse({}, where="fingerprint"))
        scores = args.sentiment or Path(scratch) / "scores.csv"
        if args.sentiment is None:
            write_scores(scores, whole.start, whole.end)
        stops = {"position_size": 0.5, "allow_short": True, "stop": 0.02, "take_profit": 0.03}
        cases: list[tuple[str, dict[str, Any]]] = [
            ("buy_and_hold", {}),
            ("sma_cross", {"fast": 200, "slow": 2000, "allow_short": True}),
            ("sentiment", stops),
            ("sentiment", {"position_size": 0.3, "hold": "6h", "limit_offset": 0.001}),
            (str(orders), {}),
        ]
        for name, params in cases:
            config = parse({"strategy": {"name": name, "params": params}}, where="fingerprint")
            history = History(Plan(files, end=args.end, sentiment=scores), config)
            sources: list[Iterable[Event]] = list(history.sources())
            if args.events:
                sources = [iter(source) for source in sources]
            sink = ChainSink()
            cpu = time.process_time()
            done = replay(history, load_strategy(name, params), sink, sources, run_id="fingerprint")
            cpu = time.process_time() - cpu
            line = {"strategy": Path(name).stem, "params": params, "decisions": sink.chain.count}
            line |= {
                "chain": sink.chain.head,
                "samples": digest(sink.samples),
                "metrics": digest(done.metrics),
            }
            print(json.dumps(line), flush=True)
            print(f"{Path(name).stem}: {history.bars / cpu:,.0f} bars per CPU second", file=sys.stderr)


if __name__ == "__main__":
    main()
