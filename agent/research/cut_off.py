"""Replays in a world where the files of bars end, too: whoever reads them, by whatever library, finds no future in them.

A process with a mount namespace of its own (Linux, `unshare` of util-linux) sees cut copies where the files are; nobody else does,
and nothing on disk is touched.
"""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from agent.core.errors import StrategyError
from agent.data.klines import COLUMNS
from agent.data.merge import merge
from agent.data.rows import Rows
from agent.research.folds import Window
from agent.research.material import Material
from agent.research.rehearsal import Decided

_PRIVATE: Final = ("unshare", "--map-root-user", "--mount", "--")


class CutOff(NamedTuple):
    """What was decided on the first `events` events, or the `error` that the strategy died of before."""

    events: int
    decided: list[Decided]
    error: str


class _Job(NamedTuple):
    material: Material
    end: int
    copies: list[tuple[Path, Path]]  # and the files that they stand for


def can_cut_files(material: Material) -> bool:
    """Whether this machine lets a process have its own view of files, and the files of bars are of a kind that can be cut."""
    if (
        any(path.suffix not in (".parquet", ".csv") for path, _ in material.plan.klines)
        or shutil.which("unshare") is None
    ):
        return False
    with TemporaryDirectory() as folder:
        one, other = Path(folder) / "one", Path(folder) / "other"
        one.touch()
        other.touch()
        tried = subprocess.run(
            [*_PRIVATE, "mount", "--bind", str(one), str(other)], capture_output=True, check=False
        )
    return tried.returncode == 0


def decide_cut_off(material: Material, end: int) -> CutOff | None:
    """What is decided on the bars that open before `end` (UTC ms) where the files hold no others; None where it can't be tried."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        copies = []
        for number, (path, _) in enumerate(material.plan.klines):
            copy = folder / f"{number}{path.suffix}"
            cut_file(path, copy, end, timezone=material.plan.timezone)
            copies.append((copy, path.resolve()))
        job, answer = folder / "job", folder / "answer"
        job.write_bytes(pickle.dumps(_Job(material, end, copies)))
        # Its complaints are kept: a strategy's words would be taken for ours
        done = subprocess.run(
            [*_PRIVATE, sys.executable, "-m", "agent.research.cut_off", str(job), str(answer)],
            capture_output=True,
            check=False,
        )
        if done.returncode or not answer.is_file():
            return None
        found = pickle.loads(answer.read_bytes())
    return found if isinstance(found, CutOff) else None


def cut_file(path: Path, copy: Path, end: int, *, timezone: str | None = None) -> None:
    """Write the rows of the bars that open before `end` to `copy`, as they are."""
    times = Rows(
        path,
        {"open_time": COLUMNS["open_time"]},
        required=("open_time",),
        times=("open_time",),
        timezone=timezone,
    )
    rows = int(np.searchsorted(times.times["open_time"], end))
    if path.suffix == ".parquet":
        pq.write_table(pq.read_table(path).slice(0, rows), copy)
        return
    with path.open("rb") as source, copy.open("wb") as target:
        for _, line in zip(range(rows + 1), source, strict=False):  # the header too
            target.write(line)


def _main(job_file: str, answer: str) -> None:
    job = pickle.loads(Path(job_file).read_bytes())
    for copy, path in job.copies:
        subprocess.run(["mount", "--bind", str(copy), str(path)], check=True)
    material: Material = job.material._replace(plan=job.material.plan._replace(end=job.end))
    start = material.plan.start or 0
    stage = material.stage(Window(start, job.end), judged_from=job.material.plan.end)
    events = list(merge([stage.tape, stage.wire]))
    try:
        found = CutOff(len(events), stage.decide(events), "")
    except StrategyError as error:
        found = CutOff(len(events), [], str(error))
    Path(answer).write_bytes(pickle.dumps(found))


if __name__ == "__main__":
    from agent.research import cut_off

    cut_off._main(*sys.argv[1:])  # by its real name, by which what is pickled is found
