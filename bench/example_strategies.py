"""Runs the strategies of examples/strategies on real bars; prints one JSON line for each.

    python bench/example_strategies.py --klines BTCUSDT-1m.parquet --klines ETHUSDT-1m.parquet \
        --start 2025-03-01 [--end 2025-06-01] [--news FILE] [--cuts 4] [--only NAME]

Each line states trades, return, whether `tapewire verify` finds the run identical, and whether `check
startup` and `check lookahead` pass. `trials` is the number of different warm-ups that were compared.
Strategies that read headlines are left out without --news. Exit code 1 if one of the checks fails.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "examples/strategies"


def tapewire(folder: str, *args: str) -> tuple[int, str, float]:
    """Run a command of the command line; return its exit code, its output and its time in seconds."""
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "tapewire", *args], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode not in (0, 1) or not done.stdout:
        raise SystemExit(f"tapewire {' '.join(args)}:\n{done.stderr}")
    return done.returncode, done.stdout, time.perf_counter() - begun


def measure(file: Path, options: list[str], cuts: int) -> dict[str, Any]:
    """Return the results of one strategy."""
    options = [*options, "--strategy", str(file)]
    with tempfile.TemporaryDirectory() as folder:
        _, out, seconds = tapewire(folder, "backtest", "--json", *options)
        run = json.loads(out)
        verified, _, _ = tapewire(folder, "verify", "latest")
        _, out, _ = tapewire(folder, "check", "startup", "--json", *options)
        startup = json.loads(out)
        _, out, _ = tapewire(folder, "check", "lookahead", f"--cuts={cuts}", "--jobs=1", "--json", *options)
        lookahead = json.loads(out)
    return {
        "strategy": file.stem,
        "trades": run["trades"],
        "fills": run["metrics"]["fills"],
        "return": round(run["final_equity"] / run["metrics"]["initial_equity"] - 1, 4),
        "seconds": round(seconds, 1),
        "verify": verified == 0,
        "startup": startup["passed"],
        "trials": len(startup["trials"]),
        "compared": startup["trials"][0]["decisions"],
        "lookahead": lookahead["passed"],
        "notes": run["notes"],
    }


def main() -> None:
    """Measure each strategy and print its line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--klines", type=Path, required=True, action="append")
    parser.add_argument("--start", required=True)
    parser.add_argument("--end")
    parser.add_argument("--news", type=Path)
    parser.add_argument("--cuts", type=int, default=4)
    parser.add_argument("--only", action="append")
    args = parser.parse_args()
    options = [f"--klines={path.resolve()}" for path in args.klines] + [f"--start={args.start}"]
    options += [f"--end={args.end}"] if args.end else []
    failed = False
    for file in sorted(FOLDER.glob("*.py")):
        reads_news = "on_signal" in file.read_text()
        if (args.only and file.stem not in args.only) or (reads_news and not args.news):
            continue
        news = [f"--news={args.news.resolve()}"] if reads_news else []
        found = measure(file, options + news, args.cuts)
        failed = failed or not (found["verify"] and found["startup"] and found["lookahead"])
        print(json.dumps(found), flush=True)
    raise SystemExit(failed)


if __name__ == "__main__":
    main()
