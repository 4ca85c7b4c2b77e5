"""Fuzz every reader of untrusted input for as long as you like.

    python -m tests.fuzz [--seconds 60] [--seed 1] [--target NAME] [--replay FILE]

Targets take turns with a block of inputs each. The last line is the count. If a target fails, the exit code
is 1, the traceback is printed above, and the smallest failing input is saved in tests/fuzz/corpus/TARGET/.
`--replay` reads one file with `--target`.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Final

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from agent.cli.console import err
from tests.fuzz.fuzz_targets import TARGETS
from tests.fuzz.search import corpus, run_target, search, silence_log

_BLOCK: Final = 50  # inputs


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60, help="total time for all targets")
    parser.add_argument("--seed", type=int, default=1, help="seed of the first block")
    parser.add_argument("--target", choices=(*TARGETS,), help="only this target")
    parser.add_argument("--replay", type=Path, help="read this file with --target")
    given = parser.parse_args()
    silence_log()
    if given.replay:
        if not given.target:
            parser.error("--replay needs --target")
        print("accepted" if run_target(TARGETS[given.target], given.replay.read_bytes()) else "rejected")
        return 0
    return run([given.target] if given.target else [*TARGETS], given.seconds, given.seed)


def run(names: list[str], seconds: float, seed: int) -> int:
    """Fuzz all `names` in turn, at least once each, until the time is up. Failed targets are left out from
    then on.
    """
    began, inputs, accepted, failed = time.monotonic(), Counter[str](), Counter[str](), list[str]()
    with Progress(
        TextColumn("{task.description:18}"), BarColumn(), TimeRemainingColumn(), console=err
    ) as progress:
        task = progress.add_task("", total=seconds)
        turn = 0
        while (turn < len(names) or time.monotonic() - began < seconds) and len(failed) < len(names):
            name = names[turn % len(names)]
            if name not in failed:
                progress.update(task, description=name, completed=time.monotonic() - began)

                def on_result(was_accepted: bool, name: str = name) -> None:
                    inputs[name] += 1
                    accepted[name] += was_accepted

                try:
                    if turn < len(names):
                        for path in corpus(name):
                            on_result(run_target(TARGETS[name], path.read_bytes()))
                    search(name, _BLOCK, seed + turn // len(names), on_result)
                except Exception:  # noqa: BLE001 - any exception is a finding
                    failed.append(name)
                    progress.console.print(
                        f"{name} fails:", traceback.format_exc(limit=-5)[-1_500:], markup=False
                    )
            turn += 1
    for name in names:
        print(f"{name:18} {inputs[name]:7,} inputs, {accepted[name] / max(inputs[name], 1):4.0%} accepted")
    print(
        f"{inputs.total():,} inputs to {len(names)} targets, "
        f"{len(failed)} broke{': ' if failed else ''}{', '.join(failed)}"
    )
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
