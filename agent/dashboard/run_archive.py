"""Recorded runs for the page: the list, reports and playback. All reads of the store run in threads."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Any, Final

import msgspec
import numpy as np
import structlog

from agent.analysis.report.report_data import recorded_config
from agent.analysis.report.twin_view import TwinView
from agent.analysis.run_rows import RunRow, run_row
from agent.analysis.story_table import StoryTable
from agent.analysis.thinning import ThinnedCurve
from agent.config import Config
from agent.core.errors import TapewireError
from agent.dashboard.dashboard_state import CURVE_POINTS
from agent.dashboard.headline_search import FoundHeadlines, search_headlines
from agent.dashboard.page_rows import run_header
from agent.dashboard.playback import RunPlayback
from agent.dashboard.replay_jobs import ReplayJobs
from agent.replay.changed_settings import CHANGEABLE, OF_SLEEVES
from agent.replay.twin_events import has_twin
from agent.store.database import Database
from agent.store.queries import find_run, list_runs, read_frame, read_slice
from agent.store.runs import Run, RunStatus
from agent.system.limited_threads import LimitedThreads, ServerBusy

MAX_RUNS: Final = 200
"""Runs in the list: the newest."""

_MAX_PLAYBACKS: Final = 2
_LONG_RUN: Final = 50_000  # events; reading them takes seconds, in which the page shows a glimpse
_MAX_REPORTS: Final = 4  # in memory, at most about 1.5 MB each
_TWIN_PATIENCE: Final = 30.0  # seconds that a report waits for the twin
_log: Final = structlog.get_logger(__name__)


class RunArchive:
    """Read-only access to the recorded runs. Keeps the last reports and playbacks in memory."""

    def __init__(self, database: Database, jobs: ReplayJobs, *, bars: int) -> None:
        self._database = database
        self._jobs = jobs
        self._bars = bars
        self._threads = LimitedThreads("dashboard")
        self._playbacks: OrderedDict[str, _OpenPlayback] = OrderedDict()
        self._reports: OrderedDict[tuple[str, int | None, bool], bytes] = OrderedDict()
        self._comparisons: OrderedDict[tuple[tuple[str, int | None], ...], bytes] = OrderedDict()
        self._drawdowns: dict[
            tuple[str, int | None], float | None
        ] = {}  # of ended runs without recorded metrics

    async def runs(self) -> list[RunRow]:
        """Return the newest runs, newest first."""
        return await self._threads.run(self._list)

    async def report(self, run_id: str) -> bytes:
        """Return the HTML report. Raises UsageError for an unknown run, DataError for one without results."""
        run = await self.run(run_id)
        stories = self._jobs.known("stories", run)
        key = run.id, run.finished_at, stories is not None
        page = self._reports.get(key)
        if page is None:
            twin = await self._twin(run)
            page = await self._threads.run(lambda: _render_report(self._database, run.id, twin, stories))
            if run.status is not RunStatus.RUNNING and not isinstance(twin, TapewireError):
                self._reports[key] = page
                if len(self._reports) > _MAX_REPORTS:
                    self._reports.popitem(last=False)
        return page

    async def _twin(self, run: Run) -> TwinView | TapewireError | None:
        """Return the twin of a run at a venue, or why it has none (yet); None for a run on paper."""
        if not has_twin(run):
            return None
        try:
            job = self._jobs.start("twin", run)
        except TapewireError as error:
            return error
        job.is_kept = True
        if job.task is not None and not job.done:
            await asyncio.wait({job.task}, timeout=_TWIN_PATIENCE)
        if not job.done:
            return TapewireError("the twin is still being folded", hint="reload this page in a while")
        found: TwinView | TapewireError = job.error or job.result
        return found

    async def run(self, run_id: str) -> Run:
        """Return the run whose id is `run_id` or starts with it. Raises UsageError unless there is one."""
        return await self._threads.run(lambda: find_run(self._database, run_id))

    async def changeable(self, run_id: str) -> dict[str, Any]:
        """Return what a what-if can change: settings by dotted key, and the strategy's parameters.

        `sleeves` is True if the parameters are those of sleeves, as `NAME.PARAMETER`.
        """
        run = await self.run(run_id)
        config = await self._threads.run(lambda: recorded_config(run))
        params = run.params
        if config.sleeves:
            params = {f"{name}.{key}": value for name, own in params.items() for key, value in own.items()}
        return {
            "settings": _changeable_settings(config),
            "params": params,
            "sleeves": bool(config.sleeves),
        }

    async def headlines(self, run_id: str, words: str, after: int) -> FoundHeadlines:
        """Return the headlines of a run that match. Raises UsageError for an unknown run."""
        run = await self.run(run_id)
        return await self._threads.run(lambda: search_headlines(self._database, run.id, words, after))

    async def comparison(self, a: str, b: str) -> bytes:
        """Return the HTML page that compares two runs. Raises like `report`."""
        runs = await self._threads.run(lambda: (find_run(self._database, a), find_run(self._database, b)))
        key = tuple((run.id, run.finished_at) for run in runs)
        page = self._comparisons.get(key)
        if page is None:
            page = await self._threads.run(lambda: _render_comparison(self._database, *runs))
            if all(run.status is not RunStatus.RUNNING for run in runs):
                self._comparisons[key] = page
                if len(self._comparisons) > _MAX_REPORTS:
                    self._comparisons.popitem(last=False)
        return page

    async def find(self, run_id: str) -> Run | None:
        """Return the run whose id is `run_id` or starts with it; None if it doesn't exist."""
        try:
            return await self.run(run_id)
        except TapewireError:
            return None

    async def open(self, run_id: str, *, again: bool = False) -> dict[str, Any]:
        """Open a run for playback: return the progress while it is read, then its header and bookmarks.

        The first call for a long run only returns a glimpse of it; the next one begins to read its events.
        With `again`, a run that has grown since it was opened is read anew.
        """
        run = await self.run(run_id)
        opened = self._playbacks.get(run.id)
        if opened is None or (again and opened.is_outdated(run)):
            await self._drop(run.id)
            opened = self._playbacks[run.id] = _OpenPlayback(RunPlayback(self._database, run))
            while len(self._playbacks) > _MAX_PLAYBACKS:
                await self._drop(next(iter(self._playbacks)))
        self._playbacks.move_to_end(run.id)
        if opened.task is None and (run.events < _LONG_RUN or (opened.glimpse is not None and not again)):
            opened.task = asyncio.create_task(self._read(opened))
        if not opened.done:
            is_read = opened.task is not None
            if opened.glimpse is None:
                opened.glimpse = await self._threads.run(lambda: _glimpse(self._database, run))
            share = opened.playback.share
            return {"ready": False, "share": share, "is_read": is_read, "glimpse": opened.glimpse}
        if opened.error is not None:
            await self._drop(run.id)
            raise opened.error
        playback = opened.playback
        return {
            "ready": True,
            "head": playback.header,
            "begins": playback.begins,
            "ends": playback.ends,
            "marks": playback.bookmarks,
            "status": run.status,
            "failure": failure(run),
            "has_twin": has_twin(run),
        }

    async def page_at(self, run_id: str, moment: int, symbol: str) -> dict[str, Any]:
        """Return the page as of `moment` (UTC ms). Raises ServerBusy unless the run is open."""
        opened = self._playbacks.get(run_id)
        if opened is None or not opened.done or opened.error is not None:
            raise ServerBusy(f"run {run_id} is not open", hint="open it first")
        async with opened.lock:
            return await self._threads.run(lambda: opened.playback.page_at(moment, symbol))

    async def close(self) -> None:
        """Close all playbacks and stop the threads."""
        for run_id in list(self._playbacks):
            await self._drop(run_id)
        self._threads.close()

    def _list(self) -> list[RunRow]:
        rows = []
        for run in list_runs(self._database, MAX_RUNS):
            row = run_row(run)
            if (
                row.max_drawdown is None and run.status is not RunStatus.RUNNING
            ):  # live runs record a curve, no metrics
                key = run.id, run.finished_at
                if key not in self._drawdowns:
                    self._drawdowns[key] = _max_drawdown(self._database, run.id)
                row = msgspec.structs.replace(row, max_drawdown=self._drawdowns[key])
            rows.append(row)
        return rows

    async def _read(self, opened: _OpenPlayback) -> None:
        run_id = opened.playback.run.id
        try:
            await self._threads.run(lambda: opened.playback.open(bars=self._bars))
        except TapewireError as error:
            opened.error = error
        except Exception as error:  # noqa: BLE001 - the page shows the error, and the server continues
            _log.error("a run can't be opened", run=run_id, exc_info=error)
            opened.error = TapewireError(f"run {run_id} can't be opened: {type(error).__name__}: {error}")
        finally:
            opened.done = True

    async def _drop(self, run_id: str) -> None:
        opened = self._playbacks.pop(run_id, None)
        if opened is None:
            return
        opened.playback.stop()
        if opened.task is not None:
            await asyncio.wait({opened.task})
        async with opened.lock:
            opened.playback.close()


class _OpenPlayback:
    """A playback and the task that reads it."""

    def __init__(self, playback: RunPlayback) -> None:
        self.playback = playback
        self.done = False
        self.error: TapewireError | None = None
        self.lock = asyncio.Lock()
        self.task: asyncio.Task[None] | None = None
        self.glimpse: dict[str, Any] | None = None

    def is_outdated(self, run: Run) -> bool:
        return self.done and (run.status is RunStatus.RUNNING or self.playback.run != run)


def failure(run: Run) -> str:
    """Return the reason why the run ended early, as a sentence; empty if it did not."""
    ended = {RunStatus.FAILED: "failed", RunStatus.INTERRUPTED: "was stopped before its end"}.get(run.status)
    if ended is None:
        return ""
    why = run.error.rstrip(".")
    return f"The run {ended}: {why}." if why else f"The run {ended}."


def _glimpse(database: Database, run: Run) -> dict[str, Any]:
    """Return what is known of a run before its events are read: its header, its time and recorded equity."""
    curve = ThinnedCurve(CURVE_POINTS)
    for ts, equity in read_slice(database, run.id, "equity", ("ts", "equity")):
        if equity is not None:
            curve.add(ts, equity)
    return {
        "head": run_header(run, recorded_config(run)),
        "begins": run.first_event_at,
        "ends": run.last_event_at,
        "curve": curve.points(),
    }


def _max_drawdown(database: Database, run_id: str) -> float | None:
    """Return the largest drawdown of the recorded curve as a fraction <= 0; None if no curve was recorded."""
    equity = read_frame(database, run_id, "equity").equity.to_numpy()
    return float((equity / np.maximum.accumulate(equity) - 1).min()) if len(equity) else None


def _render_comparison(database: Database, a: Run, b: Run) -> bytes:
    from agent.analysis.comparison.comparison_page import render_comparison
    from agent.replay.run_comparison import compare_runs

    return render_comparison(compare_runs(database, a, b)).encode()


def _changeable_settings(config: Config) -> dict[str, Any]:
    """Return the settings that a what-if can change, by dotted key."""
    found: dict[str, Any] = {}

    def add(prefix: str, section: dict[str, Any]) -> None:
        for name, value in section.items():
            if isinstance(value, dict) and value:
                add(f"{prefix}.{name}", value)
            else:
                found[f"{prefix}.{name}"] = value

    for name in CHANGEABLE:
        if name != "sleeves":
            add(name, getattr(config, name).model_dump(mode="json"))
    for sleeve in config.sleeves:
        add(f"sleeves.{sleeve.name}", sleeve.model_dump(mode="json", include=set(OF_SLEEVES)))
    return found


def _render_report(
    database: Database, run_id: str, twin: TwinView | TapewireError | None, stories: StoryTable | None
) -> bytes:
    from agent.analysis.report.html import render
    from agent.analysis.report.report_loader import load_report_data

    data = load_report_data(database, run_id)
    if isinstance(twin, TapewireError):
        data, twin = msgspec.structs.replace(data, absent_twin=str(twin)), None
    return render(data, twin=twin, stories=stories).encode()
