"""Counts the processor's instructions per bar of the engine's workloads with valgrind's callgrind.

    python bench/instructions.py [--check | --save] [--workloads w1 w2 sparse]

Unlike time, the count is the same however busy the machine is. Each workload of `bench/replay.py` runs
twice, with 4,000 and with 14,000 bars; the difference belongs to 10,000 bars, without start and imports.
Prints one JSON object. `--save` writes it to `bench/results/instructions.json`; `--check` compares with that
file and fails if a workload has 10 % more instructions. Another interpreter, compiler or numpy counts
differently: then `--check` says so and passes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np

ROOT: Final = Path(__file__).resolve().parent.parent
RECORD: Final = ROOT / "bench/results/instructions.json"
COUNTS: Final = (4_000, 14_000)
MOST: Final = 1.1
"""Largest ratio to the record that `--check` accepts."""


def count(workload: str, bars: int) -> int:
    """Return the instructions of one run. Raises SystemExit if valgrind fails."""
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", sys.executable]
    command += [str(ROOT / "bench/replay.py"), workload, "--count", str(bars)]
    environment = os.environ | {"PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or found is None:
        raise SystemExit(f"valgrind failed on {workload}: {done.stderr[-500:]}")
    return int(found[1])


def machine() -> dict[str, str]:
    """Return what the counts depend on, apart from the program."""
    compiler = subprocess.run(["cc", "-dumpfullversion"], capture_output=True, text=True).stdout.strip()
    known = {"python": platform.python_version(), "numpy": np.__version__, "compiler": compiler}
    return known | {"machine": platform.machine()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workloads", nargs="+", default=["w1", "w2", "sparse"])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--save", action="store_true")
    args = parser.parse_args()
    if shutil.which("valgrind") is None:
        print("valgrind is not installed: nothing was counted", file=sys.stderr)
        return
    few, many = COUNTS
    result: dict[str, Any] = {"on": machine(), "per_bar": {}}
    for workload in args.workloads:
        result["per_bar"][workload] = round((count(workload, many) - count(workload, few)) / (many - few))
    print(json.dumps(result))
    if args.save:
        RECORD.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if not args.check:
        return
    if not RECORD.is_file():
        raise SystemExit("nothing to compare with: record the counts with --save first")
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    if record["on"] != result["on"]:
        print(f"not compared: recorded on {record['on']}, counted on {result['on']}", file=sys.stderr)
        return
    for workload, instructions in result["per_bar"].items():
        ratio = instructions / record["per_bar"][workload]
        print(f"{workload}: {instructions:,} instructions a bar, {ratio:.3f} x the record", file=sys.stderr)
        if ratio > MOST:
            raise SystemExit(f"{workload} has {ratio:.2f} x the recorded instructions a bar, at most {MOST}")


if __name__ == "__main__":
    main()
