"""Results of parameter searches, which `tapewire tune` writes as files and `tapewire report` reads."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from agent.analysis.overfitting import Overfitting
from agent.core.errors import DataError, UsageError
from agent.research.walk_forward import WalkForward
from agent.system.atomic import write_bytes
from strategies.description import Value

RESULTS: Final = Path("var/tune")
"""Folder of the results."""


class TrialRecord(msgspec.Struct, frozen=True):
    """A trial: its parameters and annual Sharpe ratio in sample, None if it has none.

    `state` is complete, pruned (ended early, so the ratio is of a part), invalid (the strategy refuses the
    parameters) or failed.
    """

    number: int
    params: dict[str, Value]
    sharpe: float | None
    state: str


class TuningResult(msgspec.Struct, frozen=True):
    """Result of a search.

    - `value`: the best annual in-sample Sharpe ratio of all `trials`; `pruned` of these ended early.
    - `reused`: trials of an earlier search.
    - `tries`: the trials, and all other tries on the in-sample data in the ledger.
    - `deflated_sharpe`: probability that the best's true ratio is above what luck gives the best of so many
      tries.
    - `overfitting`: how the complete trials rank on the time by which they were not chosen; None for fewer
      than two.
    - `tried`: all trials in order of their number.
    - `held_out`: walk-forward with the best parameters over the time that no trial has seen.
    """

    study: str
    storage: str
    trials: int
    pruned: int
    invalid: int
    params: dict[str, Value]
    value: float
    in_sample: tuple[int, int]
    deflated_sharpe: float | None
    overfitting: Overfitting | None
    held_out: WalkForward
    reused: int = 0
    tries: int = 0
    tried: list[TrialRecord] = []


def record_result(result: TuningResult, folder: Path = RESULTS) -> Path:
    """Write the result as `folder`/STUDY.json, from which `tapewire report STUDY` makes its page."""
    path = folder / f"{result.study}.json"
    write_bytes(path, msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    return path


def find_result(name: str, folder: Path = RESULTS) -> TuningResult | None:
    """Read the result of the study whose name begins with `name`; None without one, or for `latest`.

    Raises UsageError if several match, DataError if the file can't be read.
    """
    if name == "latest":
        return None
    known = sorted(path.stem for path in folder.glob("*.json"))
    found = [one for one in known if one == name] or [one for one in known if name and one.startswith(name)]
    if not found:
        return None
    if len(found) > 1:
        raise UsageError(f"several studies begin with {name!r}", hint=", ".join(found[:5]))
    path = folder / f"{found[0]}.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=TuningResult)
    except (msgspec.MsgspecError, OSError) as error:
        raise DataError(
            f"{path} can't be read: {error}", hint="repeat the search: its trials are kept"
        ) from None
