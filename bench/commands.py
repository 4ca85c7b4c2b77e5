"""Measures whole commands, against another checkout in the same run; prints one JSON line.

    python -m bench.commands [--against DIR] [--rounds 5] [--strategy buy_and_hold] [--klines FILE …]

The commands are `tapewire -h`, `tapewire score` of one headline, `tapewire backtest` of the sample data and
of the kline files (by default those of ../shared/data), and `tapewire verify` of the latter with each bar as
an event and in blocks, each in a fresh process beside `python -c pass`. The rounds of both checkouts are
interleaved. Each figure is a median: CPU seconds (user and system, of all threads) and seconds of the clock;
`ratio` is the other checkout's CPU seconds by this one's, round by round. A checkout runs the modules that
are compiled beside its sources, if there are any (`compiled`).

The exit code is 1 if both backtests don't have the same metrics, to the last digit.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parent.parent
SHARED: Final = ROOT.parent / "shared/data/klines"
_IN_BLOCKS: Final = "verify_blocks"  # not in the other checkout, which may not know the option
_MAIN: Final = "from agent.cli.main import main; main()"


class Took(NamedTuple):
    cpu: float
    wall: float
    output: str


def run(checkout: Path, code: str, arguments: list[str]) -> Took:
    """Run Python code in a fresh process whose packages are those of `checkout`."""
    env = os.environ | {"PYTHONPATH": str(checkout), "COLUMNS": "100"}
    before, began = os.times(), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=checkout, env=env, capture_output=True, text=True
    )
    wall, after = time.perf_counter() - began, os.times()
    if done.returncode:
        sys.exit(f"{checkout}: {' '.join(arguments)} failed: {done.stderr.strip()[-500:]}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Took(cpu, wall, done.stdout)


def commands(folder: Path, klines: list[Path], strategy: str) -> dict[str, list[str]]:
    """Return the arguments of each command, by name; runs go into a store in `folder`."""
    (folder / "config.toml").write_text(f'[store]\nurl = "sqlite:///{folder / "runs.db"}"\n')
    backtest = ["backtest", "--config", str(folder / "config.toml"), "--json"]
    files = [part for file in klines for part in ("--klines", str(file))]
    found = {
        "help": ["-h"],
        "score": ["score", "Bitcoin rallies after the ETF wins approval"],
        "backtest_sample": backtest,
    }
    if files:
        verify = ["verify", "--config", str(folder / "config.toml"), "--json"]
        found["backtest"] = [*backtest, "--strategy", strategy, *files]
        found |= {"verify": verify, _IN_BLOCKS: [*verify, "--blocks"]}
    return found


def measure(checkouts: dict[str, Path], klines: list[Path], strategy: str, rounds: int) -> dict[str, Any]:
    """Return the figures of each command and checkout."""
    took: dict[str, dict[str, list[Took]]] = {}
    with tempfile.TemporaryDirectory(prefix="tapewire-") as scratch:
        arguments = {}
        for name in checkouts:
            (Path(scratch) / name).mkdir()
            arguments[name] = commands(Path(scratch) / name, klines, strategy)
        for number in range(rounds + 1):
            for command in ["python", *next(iter(arguments.values()))]:
                for name, checkout in checkouts.items():
                    if command == _IN_BLOCKS and name == "against":
                        continue
                    code, given = ("pass", []) if command == "python" else (_MAIN, arguments[name][command])
                    one = run(checkout, code, given)
                    if number:  # the first round compiles bytecode and creates the store
                        took.setdefault(command, {}).setdefault(name, []).append(one)
    return {command: figures(by_checkout) for command, by_checkout in took.items()}


def figures(took: dict[str, list[Took]]) -> dict[str, Any]:
    """Return the medians of a command, and its ratio."""
    line: dict[str, Any] = {
        name: {
            "cpu": round(statistics.median(one.cpu for one in own), 3),
            "seconds": round(statistics.median(one.wall for one in own), 3),
        }
        for name, own in took.items()
    }
    if "against" in took:
        pairs = list(zip(took["against"], took["here"], strict=True))
        line["ratio"] = round(statistics.median(other.cpu / own.cpu for other, own in pairs), 2)
        if '"metrics"' in took["here"][0].output:
            line["same_metrics"] = all(_metrics(other) == _metrics(own) for other, own in pairs)
    return line


def _metrics(took: Took) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads(took.output)["metrics"]
    return metrics


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", type=Path, help="another checkout of this repository")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--strategy", default="buy_and_hold")
    parser.add_argument("--klines", type=Path, action="append", help="may be repeated")
    given = parser.parse_args()
    known = [SHARED / f"{symbol}USDT-1m.parquet" for symbol in ("BTC", "ETH")]
    klines = [file.resolve() for file in given.klines or known if file.exists()]
    checkouts = {"here": ROOT} | ({"against": given.against.resolve()} if given.against else {})
    found = measure(checkouts, klines, given.strategy, given.rounds)
    line = {
        "benchmark": "commands",
        "strategy": given.strategy,
        "rounds": given.rounds,
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
        "compiled": {name: any(path.glob("agent/core/*.so")) for name, path in checkouts.items()},
        **found,
    }
    print(json.dumps(line))
    sys.exit(not all(one.get("same_metrics", True) for one in found.values()))


if __name__ == "__main__":
    main()
