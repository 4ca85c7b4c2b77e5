"""Recorded runs for the page: the list, a run's report, and a run moved through in time. All reading is done in threads."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import msgspec
import numpy as np
import structlog

from agent.core.errors import TapewireError
from agent.dashboard.recording import Recording
from agent.store.database import Database
from agent.store.queries import find_run, list_runs, read_frame
from agent.store.runs import Run, RunStatus

T = TypeVar("T")

LISTED: Final = 200
"""Runs in the list, the newest."""

_OPEN: Final = 2  # recordings at once
_REPORTS: Final = 4  # pages kept, about 5 MB each
_THREADS: Final = 2
_WAITING: Final = 8  # requests for a thread; more are turned away
_log: Final = structlog.get_logger(__name__)


class Busy(TapewireError):
    """Too many want to read at once."""


class RunRow(msgspec.Struct, frozen=True):
    """A run in the list. Fractions; None where the run has not recorded them."""

    id: str
    kind: str
    status: str
    strategy: str
    symbols: tuple[str, ...]
    started_at: int
    first_event_at: int | None
    last_event_at: int | None
    events: int
    decisions: int
    total_return: float | None
    max_drawdown: float | None
    sharpe: float | None
    trades: int | None
    stamps: tuple[str, ...]
    error: str


class Archive:
    """The store, read only."""

    def __init__(self, database: Database, *, bars: int) -> None:
        self._database = database
        self._bars = bars
        self._threads = ThreadPoolExecutor(_THREADS, "dashboard")
        self._waiting = 0
        self._recordings: OrderedDict[str, _Opened] = OrderedDict()
        self._reports: OrderedDict[tuple[str, int | None], bytes] = OrderedDict()
        # deepest drawdowns of runs that ended without figures
        self._falls: dict[tuple[str, int | None], float | None] = {}

    async def runs(self) -> list[RunRow]:
        """The newest first."""
        return await self._in_thread(self._list)

    async def report(self, run_id: str) -> bytes:
        """The report as a page. Raises UsageError where there is no such run, DataError where it has nothing to report."""
        run = await self._in_thread(lambda: find_run(self._database, run_id))
        key = run.id, run.finished_at
        page = self._reports.get(key)
        if page is None:
            page = await self._in_thread(lambda: _report(self._database, run.id))
            if run.status is not RunStatus.RUNNING:
                self._reports[key] = page
                if len(self._reports) > _REPORTS:
                    self._reports.popitem(last=False)
        return page

    async def find(self, run_id: str) -> Run | None:
        """The run with this id, or with one that begins so; None if there is none."""
        try:
            return await self._in_thread(lambda: find_run(self._database, run_id))
        except TapewireError:
            return None

    async def open(self, run_id: str, *, again: bool = False) -> dict[str, Any]:
        """Where the slider goes from and to, once the run is read; until then, how far that is. `again`: to its present end."""
        run = await self._in_thread(lambda: find_run(self._database, run_id))
        opened = self._recordings.get(run.id)
        if opened is None or (
            again and opened.done and (run.status is RunStatus.RUNNING or opened.recording.run != run)
        ):
            await self._forget(run.id)
            opened = self._recordings[run.id] = _Opened(Recording(self._database, run))
            opened.task = asyncio.create_task(self._read(opened))
            while len(self._recordings) > _OPEN:
                await self._forget(next(iter(self._recordings)))
        self._recordings.move_to_end(run.id)
        if not opened.done:
            return {"ready": False, "share": opened.recording.share}
        if opened.error is not None:
            await self._forget(run.id)
            raise opened.error
        recording = opened.recording
        return {
            "ready": True,
            "head": recording.head,
            "begins": recording.begins,
            "ends": recording.ends,
            "marks": recording.marks,
            "status": run.status,
            "failure": failure(run),
        }

    async def at(self, run_id: str, moment: int, symbol: str) -> dict[str, Any]:
        """The page after the events up to `moment` (UTC ms). Raises Busy where the run is not open."""
        opened = self._recordings.get(run_id)
        if opened is None or not opened.done or opened.error is not None:
            raise Busy(f"run {run_id} is not open", hint="open it first")
        async with opened.lock:
            return await self._in_thread(lambda: opened.recording.at(moment, symbol))

    async def close(self) -> None:
        """Give everything back."""
        for run_id in list(self._recordings):
            await self._forget(run_id)
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _list(self) -> list[RunRow]:
        rows = []
        for run in list_runs(self._database, LISTED):
            row = _row(run)
            # a life: it records its curve, and no figures
            if row.max_drawdown is None and run.status is not RunStatus.RUNNING:
                key = run.id, run.finished_at
                if key not in self._falls:
                    self._falls[key] = _deepest_fall(self._database, run.id)
                row = msgspec.structs.replace(row, max_drawdown=self._falls[key])
            rows.append(row)
        return rows

    async def _read(self, opened: _Opened) -> None:
        try:
            await self._in_thread(lambda: opened.recording.open(bars=self._bars))
        except TapewireError as error:
            opened.error = error
        except Exception as error:  # noqa: BLE001 - a record that can't be read is told on the page, and ends nothing
            _log.error("a run can't be opened", run=opened.recording.run.id, exc_info=error)
            opened.error = TapewireError(
                f"run {opened.recording.run.id} can't be opened: {type(error).__name__}: {error}"
            )
        finally:
            opened.done = True

    async def _forget(self, run_id: str) -> None:
        opened = self._recordings.pop(run_id, None)
        if opened is None:
            return
        opened.recording.stop()
        if opened.task is not None:
            await asyncio.wait({opened.task})
        async with opened.lock:
            opened.recording.close()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        if self._waiting >= _WAITING:
            raise Busy("too many requests at once", hint="try again in a moment")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._waiting -= 1


class _Opened:
    """A recording, and how far it is."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.done = False
        self.error: TapewireError | None = None
        self.lock = asyncio.Lock()
        self.task: asyncio.Task[None] | None = None


def failure(run: Run) -> str:
    """Why a run ended before its end; empty if it did not."""
    ended = {RunStatus.FAILED: "failed", RunStatus.INTERRUPTED: "was interrupted"}.get(run.status)
    if ended is None:
        return ""
    why = run.error.rstrip(".")
    return f"The run {ended}: {why}." if why else f"The run {ended}."


def _row(run: Run) -> RunRow:
    performance, trades = run.metrics.get("performance", {}), run.metrics.get("trades", {})
    initial = float(run.config.get("account", {}).get("initial_capital") or 0)
    total = performance.get("total_return")
    # At a venue, returns begin with what the account had
    own_capital = run.config.get("execution", {}).get("mode") != "testnet"
    if total is None and run.final_equity is not None and initial and own_capital:
        total = float(run.final_equity) / initial - 1
    return RunRow(
        run.id, run.kind.value, run.status.value, run.strategy, tuple(run.config.get("market", {}).get("symbols", ())), run.started_at,
        run.first_event_at, run.last_event_at, run.events, run.decisions, total, performance.get("max_drawdown"),
        performance.get("sharpe"), trades.get("trades"), run.stamps, run.error,
    )  # fmt: skip


def _deepest_fall(database: Database, run_id: str) -> float | None:
    """From a peak of the recorded curve, as a fraction <= 0; None without a curve."""
    equity = read_frame(database, run_id, "equity").equity.to_numpy()
    return float((equity / np.maximum.accumulate(equity) - 1).min()) if len(equity) else None


def _report(database: Database, run_id: str) -> bytes:
    from agent.analysis.report.html import render  # plotly and pandas: only once somebody asks
    from agent.analysis.report.report_loader import load_report_data

    return render(load_report_data(database, run_id)).encode()
