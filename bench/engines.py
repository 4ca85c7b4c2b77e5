"""Compares the engine with the plainest loops and with other engines, in one interleaved run.

    python bench/engines.py [--rounds 5] [--peers DIR] [--python NAME=PATH …] [--save bench/results]

Each round runs every script once, one after the other, so that the load of the machine meets all of them.
DIR holds the public engines' scripts (`bench_floor.py`, `gen_data.py`, `bench_NAME.py`); the default is
../shared/bench/peers. A peer runs if it can be imported by this interpreter, or by the one that `--python`
names: backtestingpy, basana, nautilus, vectorbt. Workloads are those of `bench/replay.py`.

Printed are a table with versions, and one JSON line: per engine and workload the median of bars per second
of the processor's time, and the median over the rounds of its ratio to the plain loop of the same workload;
for the sparse workload also of the ratio to the plain loop of W2. Trades and final equity must agree with
the plain loop's.
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
from typing import Any, Final

from rich.console import Console
from rich.table import Table

ROOT: Final = Path(__file__).resolve().parent.parent
MODULES: Final = {
    "backtestingpy": "backtesting",
    "basana": "basana",
    "nautilus": "nautilus_trader",
    "vectorbt": "vectorbt",
}
FLOOR: Final = "plain loop"
NUMBA: Final = "numba loop"


class Entry:
    """A script of one engine and workload, and the lines it has printed."""

    def __init__(self, engine: str, workload: str, command: list[str], folder: Path) -> None:
        self.engine = engine
        self.workload = workload
        self._command = command
        self._folder = folder
        self.lines: list[dict[str, Any]] = []
        self.failure = ""

    def run(self) -> None:
        """Run the script; a peer's error ends its entry."""
        if self.failure:
            return
        done = subprocess.run(self._command, cwd=self._folder, capture_output=True, text=True)
        if done.returncode:
            self.failure = (done.stderr.strip().splitlines() or ["failed"])[-1]
        else:
            self.lines.append(json.loads(done.stdout.splitlines()[-1]))

    def speed(self) -> float:
        """The median of bars per second of the processor's time."""
        return statistics.median(line["bars"] / line["cpu_seconds"] for line in self.lines)

    def ratio(self, floor: Entry) -> float:
        """The median over the rounds of how often the speed of `floor` is reached."""
        pairs = zip(self.lines, floor.lines, strict=True)
        return statistics.median(
            (one["bars"] / one["cpu_seconds"]) / (other["bars"] / other["cpu_seconds"])
            for one, other in pairs
        )


def entries_of(peers: Path, pythons: dict[str, str]) -> list[Entry]:
    """Return the scripts to run; `peers` is a copy of the public engines' folder with its data."""
    data = str(peers / "data/bars.npz")
    found = []
    for workload in ("w1", "w2"):
        found.append(
            Entry(FLOOR, workload, [sys.executable, "bench_floor.py", workload, "py", "open"], peers)
        )
        if _imports(sys.executable, "numba"):
            command = [sys.executable, "bench_floor.py", workload, "numba", "open"]
            found.append(Entry(NUMBA, workload, command, peers))
    found.append(
        Entry(FLOOR, "sparse", [sys.executable, str(ROOT / "bench/sparse_loop.py"), "--bars", data], ROOT)
    )
    for workload in ("w1", "w2", "sparse"):
        command = [sys.executable, str(ROOT / "bench/replay.py"), workload, "--bars", data]
        found.append(Entry("tapewire", workload, command, ROOT))
        found.append(Entry("tapewire, event by event", workload, [*command, "--events"], ROOT))
    for name, module in MODULES.items():
        python = pythons.get(name, sys.executable)
        if not _imports(python, module):
            print(f"{name} is not installed: name its interpreter with --python {name}=PATH", file=sys.stderr)
            continue
        workloads = ("w1",) if name == "vectorbt" else ("w1", "w2")
        found += [
            Entry(name, workload, [python, f"bench_{name}.py", workload, "open"], peers)
            for workload in workloads
        ]
    return found


def _imports(python: str, module: str) -> bool:
    return subprocess.run([python, "-c", f"import {module}"], capture_output=True).returncode == 0


def results_of(entries: list[Entry]) -> list[dict[str, Any]]:
    """Return one row for each engine and workload. Raises SystemExit if results differ from the floor's."""
    floors = {entry.workload: entry for entry in entries if entry.engine == FLOOR}
    rows = []
    for entry in entries:
        if entry.failure:
            rows.append({"engine": entry.engine, "workload": entry.workload, "failed": entry.failure})
            continue
        floor = floors[entry.workload]
        mine, theirs = entry.lines[-1], floor.lines[-1]
        same = (mine["trades"], mine["final_equity"]) == (theirs["trades"], theirs["final_equity"])
        if not same and entry.engine.startswith("tapewire"):
            raise SystemExit(f"{entry.engine} {entry.workload}: {mine} differs from {theirs}")
        row = {"engine": entry.engine, "workload": entry.workload, "version": mine["version"]}
        row |= {"bars_per_cpu_s": round(entry.speed()), "ratio_to_plain_loop": round(entry.ratio(floor), 3)}
        row |= {"agrees": same, "peak_rss_mb": mine.get("peak_rss_mb")}
        if entry.workload == "sparse":
            row["ratio_to_plain_loop_of_w2"] = round(entry.ratio(floors["w2"]), 2)
        rows.append(row)
    return rows


def table_of(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("workload", "engine", "version"):
        table.add_column(name)
    for name in ("bars per CPU s", "x plain loop", "x plain loop of W2", "peak MB", "same result"):
        table.add_column(name, justify="right")
    for row in sorted(rows, key=lambda row: ("w1", "w2", "sparse").index(row["workload"])):
        if "failed" in row:
            table.add_row(row["workload"], row["engine"], "", "", "", "", "", row["failed"])
            continue
        more = row.get("ratio_to_plain_loop_of_w2", "")
        speed, ratio, peak = (
            f"{row['bars_per_cpu_s']:,}",
            f"{row['ratio_to_plain_loop']:.2f}",
            row["peak_rss_mb"],
        )
        agrees = "yes" if row["agrees"] else "no"
        table.add_row(
            row["workload"], row["engine"], row["version"], speed, ratio, str(more), str(peak or ""), agrees
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", type=Path, default=ROOT.parent / "shared/bench/peers")
    parser.add_argument(
        "--python", action="append", default=[], metavar="NAME=PATH", help="interpreter of a peer"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", type=Path, help="folder for engines.json and engines.txt")
    args = parser.parse_args()
    if not (args.peers / "bench_floor.py").is_file():
        sys.exit(f"{args.peers} has no bench_floor.py: name the peers' folder with --peers")
    with tempfile.TemporaryDirectory() as scratch:
        peers = Path(scratch)
        for script in args.peers.glob("*.py"):
            shutil.copy(script, peers)
        subprocess.run([sys.executable, "gen_data.py"], cwd=peers, check=True, capture_output=True)
        entries = entries_of(peers, dict(item.split("=", 1) for item in args.python))
        for number in range(args.rounds):
            print(f"round {number + 1} of {args.rounds}", file=sys.stderr)
            for entry in entries:
                entry.run()
    rows = results_of(entries)
    console = Console(width=120, record=True)
    console.print(table_of(rows))
    line = json.dumps({"benchmark": "engines", "rounds": args.rounds, "rows": rows})
    print(line)
    if args.save is not None:
        (args.save / "engines.json").write_text(line + "\n", encoding="utf-8")
        (args.save / "engines.txt").write_text(console.export_text(), encoding="utf-8")


if __name__ == "__main__":
    main()
