"""Compares the whole engine with the simplest possible loop; prints one JSON line with ratios.

    python bench/compare_floor.py [--peers DIR] [--rounds 5]

DIR holds the public engines' scripts (`bench_floor.py`, `gen_data.py`); the default is ../shared/bench/peers.
The ratio is the median over the rounds of (CPU seconds of the plain Python loop) / (CPU seconds of the
engine) on workload W2, so 1 means as fast.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def last_line(command: list[str], cwd: Path) -> dict[str, Any]:
    """Run a script and return the JSON of its last line."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True)
    line: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return line


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", type=Path, default=ROOT.parent / "shared/bench/peers")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    if not (args.peers / "bench_floor.py").is_file():
        sys.exit(f"{args.peers} has no bench_floor.py: name the peers' folder with --peers")
    with tempfile.TemporaryDirectory() as scratch:
        peers = Path(scratch)
        for script in args.peers.glob("*.py"):
            shutil.copy(script, peers)
        subprocess.run([sys.executable, "gen_data.py"], cwd=peers, check=True, capture_output=True)
        floor = [sys.executable, "bench_floor.py", "w2", "py", "open"]
        ours = [sys.executable, str(ROOT / "bench/replay.py"), "w2", "--bars", str(peers / "data/bars.npz")]
        pairs = [(last_line(floor, peers), last_line(ours, ROOT)) for _ in range(args.rounds)]
    for theirs, mine in pairs:
        assert (theirs["trades"], theirs["final_equity"]) == (mine["trades"], mine["final_equity"]), (
            theirs,
            mine,
        )
    ratios = [theirs["cpu_seconds"] / mine["cpu_seconds"] for theirs, mine in pairs]
    fastest = min((mine for _, mine in pairs), key=lambda line: line["cpu_seconds"])
    print(
        json.dumps(
            {
                "benchmark": "replay w2",
                "ratio_to_plain_loop": round(statistics.median(ratios), 3),
                "ratios": [round(r, 3) for r in ratios],
                "bars_per_cpu_s": fastest["bars_per_cpu_s"],
                "floor_bars_per_cpu_s": round(
                    fastest["bars"] / min(theirs["cpu_seconds"] for theirs, _ in pairs)
                ),
                "peak_rss_mb": fastest["peak_rss_mb"],
                "trades": fastest["trades"],
                "final_equity": fastest["final_equity"],
            }
        )
    )


if __name__ == "__main__":
    main()
