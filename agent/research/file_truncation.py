"""Replay a window up to a cut in a new process that finds no later bar, not even in the files of bars.

On Linux the process gets a mount namespace of its own (`unshare` of util-linux), in which truncated copies
lie over the files of bars. It finds no later bar in them, whichever library opens them. Other processes and
the files themselves are not affected.
"""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from itertools import takewhile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from agent.core.errors import StrategyError, TapewireError
from agent.data.klines import COLUMNS
from agent.data.rows import Rows
from agent.research.folds import Window
from agent.research.replay_inputs import ReplayInputs
from agent.research.replay_window import NumberedDecision

_UNSHARE: Final = ("unshare", "--map-root-user", "--mount", "--")
_CHILD: Final = "import sys; from agent.research.file_truncation import run_child; run_child(*sys.argv[1:])"


class TruncatedReplay(NamedTuple):
    """The decisions on the first `events` events, or the `error` with which the strategy failed.

    `files_cut` states whether the files of bars ended at the cut, too.
    """

    events: int
    decisions: list[NumberedDecision]
    error: str = ""
    files_cut: bool = False


class _Job(NamedTuple):
    inputs: ReplayInputs
    cut: int
    mounts: list[tuple[Path, Path]]  # truncated copies and the files that they hide


def can_truncate_files(inputs: ReplayInputs) -> bool:
    """Return whether this machine allows private mounts and the files of bars are parquet or CSV."""
    if (
        any(path.suffix not in (".parquet", ".csv") for path, _ in inputs.plan.klines)
        or shutil.which("unshare") is None
    ):
        return False
    with TemporaryDirectory() as folder:
        source, target = Path(folder) / "source", Path(folder) / "target"
        source.touch()
        target.touch()
        probe = [*_UNSHARE, "mount", "--bind", str(source), str(target)]
        return subprocess.run(probe, capture_output=True, check=False).returncode == 0


def replay_truncated(task: tuple[ReplayInputs, int]) -> TruncatedReplay:
    """Replay settled inputs in a new process up to a cut (UTC ms).

    If this machine can, the files of bars end there too. Raises TapewireError if the process fails for
    another reason than the strategy.
    """
    inputs, cut = task
    truncate_files = can_truncate_files(inputs)
    with TemporaryDirectory() as name:
        folder = Path(name)
        mounts = []
        for number, (path, _) in enumerate(inputs.plan.klines if truncate_files else ()):
            copy = folder / f"{number}{path.suffix}"
            # A bar is complete an interval after it opens
            truncate(path, copy, cut - inputs.config.market.interval + 1, timezone=inputs.plan.timezone)
            mounts.append((copy, path.resolve()))
        job, result = folder / "job", folder / "result"
        job.write_bytes(pickle.dumps(_Job(inputs, cut, mounts)))
        # The output is captured, so that nothing that the strategy prints mixes with ours
        command = [*(_UNSHARE if mounts else ()), sys.executable, "-c", _CHILD, str(job), str(result)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not result.is_file():
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise TapewireError(f"the replay that ends at a cut failed: {lines[-1]}")
        found: TruncatedReplay = pickle.loads(result.read_bytes())
    return found._replace(files_cut=truncate_files)


def truncate(path: Path, copy: Path, end: int, *, timezone: str | None = None) -> None:
    """Write the rows of the bars that open before `end` (UTC ms) to `copy`, unchanged."""
    column = {"open_time": COLUMNS["open_time"]}
    times = Rows(path, column, required=("open_time",), times=("open_time",), timezone=timezone).times[
        "open_time"
    ]
    rows = int(np.searchsorted(times, end))
    if path.suffix == ".parquet":
        pq.write_table(pq.read_table(path).slice(0, rows), copy)
        return
    with path.open("rb") as source, copy.open("wb") as target:
        for _, line in zip(range(rows + 1), source, strict=False):  # with the header
            target.write(line)


def run_child(job_file: str, result_file: str) -> None:
    """Run in the new process: mount the copies, replay, write the result."""
    job: _Job = pickle.loads(Path(job_file).read_bytes())
    for copy, path in job.mounts:
        subprocess.run(["mount", "--bind", str(copy), str(path)], check=True)
    plan = job.inputs.plan
    inputs = job.inputs._replace(plan=plan._replace(end=job.cut + 1))
    window = inputs.load_window(Window(plan.start or 0, job.cut + 1), judged_from=plan.end)
    events = list(takewhile(lambda event: event.available_at <= job.cut, window.events()))
    try:
        replay = TruncatedReplay(len(events), window.decide(events))
    except StrategyError as error:
        replay = TruncatedReplay(len(events), [], str(error))
    Path(result_file).write_bytes(pickle.dumps(replay))
