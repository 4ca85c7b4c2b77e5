"""Every reader of strangers' words, for as long as you like.

    python -m tests.fuzz [--seconds 60] [--seed 1] [--target NAME] [--replay FILE]

Targets take turns, a block of inputs each. The last line is the count; exit code 1 where something got through, with the input, made
as small as it gets, in tests/fuzz/corpus/TARGET/ and the traceback above. `--replay` reads one file with `--target`.
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
from tests.fuzz.search import corpus, quiet, search, survive
from tests.fuzz.targets import TARGETS

_BLOCK: Final = 50  # inputs


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60, help="for all targets together")
    parser.add_argument("--seed", type=int, default=1, help="of the first block")
    parser.add_argument("--target", choices=(*TARGETS,), help="this one alone")
    parser.add_argument("--replay", type=Path, help="read this file with --target")
    given = parser.parse_args()
    quiet()
    if given.replay:
        if not given.target:
            parser.error("--replay needs --target")
        print("taken" if survive(TARGETS[given.target], given.replay.read_bytes()) else "refused")
        return 0
    return run([given.target] if given.target else [*TARGETS], given.seconds, given.seed)


def run(names: list[str], seconds: float, seed: int) -> int:
    """All `names` in turn, at least once each, until the time is up; those that broke are left out from then on."""
    began, inputs, taken, broken = time.monotonic(), Counter[str](), Counter[str](), list[str]()
    with Progress(
        TextColumn("{task.description:18}"), BarColumn(), TimeRemainingColumn(), console=err
    ) as progress:
        task = progress.add_task("", total=seconds)
        turn = 0
        while (turn < len(names) or time.monotonic() - began < seconds) and len(broken) < len(names):
            name = names[turn % len(names)]
            if name not in broken:
                progress.update(task, description=name, completed=time.monotonic() - began)

                def heard(was_taken: bool, name: str = name) -> None:
                    inputs[name] += 1
                    taken[name] += was_taken

                try:
                    if turn < len(names):
                        for path in corpus(name):
                            heard(survive(TARGETS[name], path.read_bytes()))
                    search(name, _BLOCK, seed + turn // len(names), heard)
                except Exception:  # noqa: BLE001 - the boundary: whatever comes out is what was looked for
                    broken.append(name)
                    progress.console.print(
                        f"{name} breaks:", traceback.format_exc(limit=-5)[-1_500:], markup=False
                    )
            turn += 1
    for name in names:
        print(f"{name:18} {inputs[name]:7,} inputs, {taken[name] / max(inputs[name], 1):4.0%} taken")
    print(
        f"{inputs.total():,} inputs to {len(names)} targets, {len(broken)} broke{': ' if broken else ''}{', '.join(broken)}"
    )
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
