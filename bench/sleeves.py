"""Two sleeves on real minutes of BTC and ETH, and the same strategies as separate runs; prints JSON.

    python bench/sleeves.py [--data DIR] [--start 2023-11-01] [--end 2025-05-31]

DIR holds `BTCUSDT-1m.parquet` and `ETHUSDT-1m.parquet`; the default is ../shared/data/klines. The sleeves
follow and oppose hourly averages with half of the capital each, so some of their orders cross. `attribution`
has the sums over the sleeves and the account's figures, which must be equal. `separate` has the same
strategies with the same capital in runs of their own: without crosses, and without sharing the volume of a
bar.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

from agent.cli.command_options import parse_window
from agent.config import Config, parse
from agent.core.events import Kline
from agent.core.sinks import NullSink
from agent.core.sleeves import SleevedEngine, engines_of
from agent.core.strategy import Market, Strategy, StrategyParams
from agent.data.merge import merge
from agent.replay.backtest import rare_collection
from agent.replay.history import History, Plan
from agent.replay.open_engine import open_engine

ROOT = Path(__file__).resolve().parent.parent
SYMBOLS = ("BTCUSDT", "ETHUSDT")
HERE = f"{Path(__file__).resolve()}:HourlyCross"


class CrossParams(StrategyParams):
    """Windows in hours; `sign` -1 reverses the positions."""

    fast: int = 24
    slow: int = 96
    sign: int = 1
    weight: float = 0.4


class HourlyCross(Strategy[CrossParams]):
    """Is long while the fast average of hourly closes is above the slow one, else short."""

    intervals = ("1h",)

    def on_bar(self, bar: Any, market: Market) -> None:
        close = market.bars(bar.symbol, "1h", self.params.slow).close
        if len(close) == self.params.slow:
            rising = close[-self.params.fast :].mean() > close.mean()
            self.target(bar.symbol, weight=self.params.weight * self.params.sign * (1 if rising else -1))


def configuration(**sections: Any) -> Config:
    """Return the settings of all runs."""
    base: dict[str, Any] = {
        "market": {"symbols": SYMBOLS},
        "risk": {"max_drawdown": 1.0, "max_daily_loss": 1.0},
    }
    return parse(base | sections, where="bench")


def replayed(config: Config, plan: Plan) -> dict[str, Any]:
    """Replay the files; return the engine's account and the sleeves' results."""
    history = History(plan, config)
    engine = open_engine(history.config, NullSink(), run_id="bench")
    began, bars = time.process_time(), 0
    with rare_collection():
        for event in merge(history.sources()):
            bars += event.__class__ is Kline
            engine.handle(event)
    engine.finish()
    seconds = time.process_time() - began
    account = engine.portfolio
    found: dict[str, Any] = {
        "final_equity": account.exact_equity(),
        "fees": account.fees,
        "funding": account.funding,
        "slippage": account.slippage,
        "turnover": account.turnover,
        "cpu_seconds": round(seconds, 1),
        "bars": bars,
        "refused": {name: sum(one.risk.refusals.values()) for name, one in engines_of(engine).items()},
    }
    if isinstance(engine, SleevedEngine):
        found["sleeves"] = engine.results
        found["idle"] = engine.idle
        found["crosses"] = engine.crosses.totals
    return found


def attribution(account: dict[str, Any]) -> dict[str, Any]:
    """Compare the sums over the sleeves with the account."""
    sleeves = account["sleeves"].values()
    sums = {
        "final_equity": sum((one.equity for one in sleeves), account["idle"]),
        "fees": sum(one.fees for one in sleeves),
        "funding": sum(one.funding for one in sleeves),
        "slippage": sum(one.slippage for one in sleeves),
    }
    return {
        name: {"sleeves": str(value), "account": str(account[name]), "difference": str(value - account[name])}
        for name, value in sums.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "klines")
    parser.add_argument("--start")
    parser.add_argument("--end")
    args = parser.parse_args()
    files = tuple((args.data / f"{symbol}-1m.parquet", symbol) for symbol in SYMBOLS)
    if missing := [str(path) for path, _ in files if not path.is_file()]:
        sys.exit(f"missing: {', '.join(missing)}; name their folder with --data")
    start, end = parse_window(args.start, args.end)
    plan = Plan(files, start=start, end=end)
    strategies = {
        "slow": {"name": HERE, "params": {"fast": 24, "slow": 96}},
        "against": {"name": HERE, "params": {"fast": 12, "slow": 48, "sign": -1}},
    }
    together = replayed(
        configuration(
            sleeves=[{"name": name, "strategy": one, "share": "0.5"} for name, one in strategies.items()]
        ),
        plan,
    )
    alone = {
        name: replayed(configuration(strategy=one, account={"initial_capital": "5000"}), plan)
        for name, one in strategies.items()
    }
    crosses = together["crosses"]
    print(
        json.dumps(
            {
                "benchmark": "two sleeves",
                "bars": together["bars"],
                "attribution": attribution(together),
                "sleeves": {
                    name: {key: str(value) for key, value in one._asdict().items()}
                    for name, one in together["sleeves"].items()
                },
                "crosses": {
                    "count": crosses.count,
                    "value": str(crosses.value),
                    "fees_saved": str(crosses.fees_saved),
                },
                "separate": {
                    name: {key: str(value) for key, value in one.items()} for name, one in alone.items()
                },
                "together_minus_separate": str(
                    together["final_equity"]
                    - sum((one["final_equity"] for one in alone.values()), Decimal(0))
                ),
                "cpu_seconds": together["cpu_seconds"],
                "cpu_seconds_separate": round(sum(one["cpu_seconds"] for one in alone.values()), 1),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
