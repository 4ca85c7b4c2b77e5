"""Runs a benchmark with this checkout's code and another one's by turns: before and after on one machine.

    python -m bench.load --against DIR [--rounds 3] …

DIR is a checkout of an earlier version, for example of `git worktree add DIR COMMIT`, with its compiled
modules if this one has them. The script is this checkout's in both cases, so that both are measured in the
same way; only the packages are DIR's.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any, Final

import msgspec

ROOT: Final = Path(__file__).resolve().parent.parent


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of a comparison to those of a benchmark."""
    parser.add_argument("--against", type=Path, help="checkout of the code to compare with")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each, by turns; medians are printed")


def compare(script: str, given: argparse.Namespace) -> dict[str, Any]:
    """Run `script` with the other options of this process; return medians, and ratios of after to before.

    Exits with the error of a run that fails.
    """
    options = _without(sys.argv[1:], "--against", "--rounds")
    runs: dict[Path, list[dict[str, Any]]] = {given.against.resolve(): [], ROOT: []}
    for _ in range(given.rounds):
        for checkout, results in runs.items():
            results.append(_run(script, checkout, options))
    before, after = (_medians(results) for results in runs.values())
    numbers = dict(_leaves(before))
    return {
        "benchmark": after["benchmark"],
        "against": str(given.against),
        "rounds": given.rounds,
        "before": before,
        "after": after,
        "after_by_before": {
            name: round(value / numbers[name], 3) for name, value in _leaves(after) if numbers.get(name)
        },
    }


def _run(script: str, checkout: Path, options: list[str]) -> dict[str, Any]:
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    done = subprocess.run(
        [sys.executable, script, *options], env=environment, stdout=subprocess.PIPE, check=False
    )
    if done.returncode:
        sys.exit(f"error: {script} failed with the code of {checkout}")
    found: dict[str, Any] = msgspec.json.decode(done.stdout)
    return found


def _without(arguments: list[str], *names: str) -> list[str]:
    """Remove options that have a value."""
    kept: list[str] = []
    rest = iter(arguments)
    for one in rest:
        if one in names:
            next(rest, None)
        elif one.partition("=")[0] not in names:
            kept.append(one)
    return kept


def _medians(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the median of each number; anything else is the first run's."""
    return {name: _median([one.get(name) for one in results]) for name in results[0]}


def _median(values: list[Any]) -> Any:
    if isinstance(values[0], dict):
        return _medians([one for one in values if isinstance(one, dict)])
    if all(isinstance(one, int | float) and not isinstance(one, bool) for one in values):
        return median(values)
    return values[0]


def _leaves(results: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers by dotted name."""
    for name, value in results.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{name}", value
