"""Walk-forward: learn from one window of history, trade the next one, move on.

No test window was learned from.

The test window of each fold is an ordinary recorded backtest that begins warm and ends flat; `tapewire
verify` replays it. The daily returns of all folds in sequence are the out-of-sample returns that are
assessed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from sqlalchemy import select

from agent import __version__
from agent.analysis.deflation import sharpes
from agent.analysis.report.verdict import Verdict
from agent.analysis.run_metrics import Metrics
from agent.analysis.significance import Moments, moments_of, sharpe
from agent.analysis.trades import RoundTrip, round_trips
from agent.core.errors import SafetyError, UsageError
from agent.core.events import DAY_MS, Fill, FundingPayment
from agent.data.klines import KlineFile
from agent.replay.backtest import backtest, new_run_id
from agent.replay.evaluations import Evaluated, Result, input_files, record_results, versions_of
from agent.replay.history import History
from agent.research.assessment import (
    ClosePrices,
    Floats,
    OutOfSampleEvidence,
    Times,
    assess,
    give_verdict,
    placebo_test,
)
from agent.research.fitters import Fitter
from agent.research.folds import Fold, Window
from agent.research.parallel import Advance, run_parallel
from agent.research.replay_inputs import ReplayInputs
from agent.research.replay_window import LoadedWindow, window_daily_returns, with_overrides
from agent.research.surrogate_market import shuffle_headlines
from agent.store import tables
from agent.store.database import Database
from agent.store.queries import list_runs, read_decisions
from agent.store.run_deletion import delete_run
from agent.store.runs import Run, RunStatus
from agent.store.tries import Study, Try, is_assistant, study_of, tries_on
from agent.system.atomic import write_bytes
from agent.system.clock import iso

FOLDER: Final = Path("var/walkforward")
WARMUP_BARS: Final = 1_000
SPENT: Final = "HELD-OUT TIME SPENT"
"""Stamp of a result on held-out time on which another variant was judged before."""

_WAY: Final = ("ranges", "points", "recipe")  # of the recorded settings: what the fitter depends on


class Settings(NamedTuple):
    """Settings of a walk-forward.

    `fit` names the fitter in the record; `warmup` (ms) is read before each test window.
    """

    fit: str
    warmup: int
    placebo: int = 0  # replays of each test window with shuffled headlines
    jobs: int = 1
    seed: int = 0
    held_out: bool = False  # the folds are held-out time, which is judged once
    judge_again: bool = False  # judge it even if another variant was judged on it


class FoldRecord(msgspec.Struct, frozen=True):
    """Record of a fold. Windows are in UTC ms; `overrides` was learned, `run` is the recorded backtest."""

    number: int
    train: tuple[int, int]
    test: tuple[int, int]
    run: str
    overrides: dict[str, Any]
    total_return: float
    sharpe: float | None
    max_drawdown: float
    buy_and_hold: float | None
    trades: int
    exposure: float
    stamps: tuple[str, ...]
    fit_seconds: float
    test_seconds: float


class WalkForward(msgspec.Struct, frozen=True):
    """Record of a walk-forward, the parent of its folds' runs.

    `returns` are daily, of the periods that end at `days`.
    """

    id: str
    version: str
    strategy: str
    symbols: tuple[str, ...]
    fit: str
    settings: dict[str, Any]
    inputs: dict[str, str]  # file -> SHA-256
    stamps: tuple[str, ...]
    folds: list[FoldRecord]
    days: list[int]
    returns: list[float]
    evidence: OutOfSampleEvidence
    verdict: Verdict
    seconds: float


class _FoldTask(NamedTuple):
    inputs: ReplayInputs
    fold: Fold
    fitter: Fitter
    folder: Path
    settings: Settings
    part_of: str


class _FoldResult(NamedTuple):
    record: FoldRecord
    days: Times
    returns: Floats
    trades: list[RoundTrip]
    equity_at: dict[int, float]
    placebo: list[float]
    run: Run


def walk_forward(
    inputs: ReplayInputs,
    folds: Sequence[Fold],
    fitter: Fitter,
    settings: Settings,
    *,
    folder: Path = FOLDER,
    described: dict[str, Any] | None = None,
    advance: Advance | None = None,
) -> WalkForward:
    """Fit and test each fold, assess the returns, and write `folder`/ID/result.json.

    `settings.jobs` folds run at a time. `described` adds to the recorded settings. All headlines should have
    cached scores. It is counted in the ledger of tries. Raises what fitters and backtests raise, and
    SafetyError if the held-out time is spent (see `check_unspent`).
    """
    began = time.monotonic()
    name = f"wf-{new_run_id()}"
    judged = Window(folds[0].test.start, folds[-1].test.end)
    stamps: tuple[str, ...] = ()
    claim: str | None = None
    with inputs.database() as database:  # create it before several processes try to, and refuse leakage early
        versions = inputs.scoring(database, folds[0].test.start).versions
        files = input_files(inputs.plan)
        way = {
            "fit": settings.fit,
            "warmup": settings.warmup,
            "folds": [[*fold.train, *fold.test] for fold in folds],
            **{key: value for key, value in (described or {}).items() if key in _WAY},
        }
        versions |= versions_of(inputs.config)
        evaluated = Evaluated(inputs.config, files, versions, inputs.plan.timezone, way)
        study = study_of(files, judged.start, judged.end)
        if settings.held_out:
            earlier = judged_before(database, study, evaluated.variant)
            check_unspent(earlier, judged, by=inputs.by, judge_again=settings.judge_again)
            stamps = (f"{SPENT}: JUDGED BEFORE",) if earlier else ()
            # Recorded first: who ends the command once the fold's run is recorded has seen the result
            unknown = Result(evaluated, DAY_MS, Moments(0), None, name)
            (claim,) = _record(database, study, unknown, inputs, settings)
    own_folder = folder / name
    own_folder.mkdir(parents=True)
    tasks = [
        _FoldTask(inputs, fold, fitter, own_folder / f"fold-{fold.number:02}", settings, name)
        for fold in folds
    ]
    results = run_parallel(
        _run_fold,
        tasks,
        jobs=settings.jobs,
        advance=advance,
        inputs=inputs,
        output=lambda task: task.folder,
    )
    days = np.concatenate([result.days for result in results])
    returns = np.concatenate([result.returns for result in results])
    prices = read_prices(inputs, judged)
    file_hashes = {item.path: item.sha256 for item in results[0].run.inputs if item.role == "klines"}
    total_return = float(np.prod(1 + returns) - 1)
    with inputs.database() as database:
        result = Result(evaluated, DAY_MS, moments_of(returns), total_return, name)
        _record(database, study, result, inputs, settings, instead_of=claim)
        known = tries_on(database, study)
    others = earlier_tries(folder, file_hashes, judged, counted={one.run for one in known})
    others.discard(tuple(returns.tolist()))
    ratios = sharpes(known, len(returns))
    ratios += [(sharpe(other) or 0.0) * (len(other) / len(returns)) ** 0.5 for other in others]
    placebos = [
        float(np.prod([1 + result.placebo[i] for result in results]) - 1)
        for i in range(len(results[0].placebo))
    ]
    evidence = assess(
        days,
        returns,
        [trade for result in results for trade in result.trades],
        {ts: equity for result in results for ts, equity in result.equity_at.items()},
        prices,
        trials=len(ratios),
        trial_sharpes=ratios,
        placebo=placebo_test(total_return, placebos),
        seed=settings.seed,
    )
    stamps += tuple(stamp for fold in results for stamp in fold.record.stamps)
    record = WalkForward(
        id=name,
        version=__version__,
        strategy=inputs.config.strategy.name,
        symbols=tuple(prices),
        fit=settings.fit,
        settings={**settings._asdict(), **(described or {})},
        inputs=file_hashes,
        stamps=tuple(dict.fromkeys(stamps)),
        folds=[result.record for result in results],
        days=days.tolist(),
        returns=returns.tolist(),
        evidence=evidence,
        verdict=give_verdict(evidence),
        seconds=time.monotonic() - began,
    )
    write_bytes(
        own_folder / "result.json", msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n"
    )
    return record


def _record(
    database: Database,
    study: Study,
    result: Result,
    inputs: ReplayInputs,
    settings: Settings,
    *,
    instead_of: str | None = None,
) -> list[str]:
    return record_results(
        database,
        study,
        [result],
        by=inputs.by,
        kind="walkforward",
        held_out=settings.held_out,
        instead_of=instead_of,
    )


def judged_before(database: Database, study: Study, variant: str) -> list[Try]:
    """Return the tries that judged held-out time of the same data with another variant."""
    return [one for one in tries_on(database, study) if one.held_out and one.variant != variant]


def check_unspent(earlier: Sequence[Try], window: Window, *, by: str, judge_again: bool) -> None:
    """Raise SafetyError if held-out time was judged before: it can tell nothing new about another variant.

    A person may judge it again, and the result is marked; an assistant may not.
    """
    if not earlier or (judge_again and not is_assistant(by)):
        return
    first = earlier[0]
    raise SafetyError(
        f"the held-out time from {iso(window.start)[:10]} to {iso(window.end)[:10]} is spent: "
        f"another variant ({first.strategy} {first.variant[:8]}) was judged on it at "
        f"{iso(first.recorded_at)} by {first.by}",
        hint="hold out time that is not judged yet, such as bars that come later"
        + ("" if is_assistant(by) else "; --judge-again judges it nevertheless, and marks the result"),
    )


def earlier_tries(
    folder: Path, file_hashes: dict[str, str], judged: Window, *, counted: set[str]
) -> set[tuple[float, ...]]:
    """Return the daily returns of walk-forwards in `folder` on an overlapping time of the same klines.

    They count as tries. Those whose ids are `counted` are left out, because the ledger has them; others were
    made by an earlier version, or with another store. A repetition has the same returns and doesn't count.
    """
    found = set()
    for path in folder.glob("*/result.json"):
        if path.parent.name in counted:
            continue
        try:
            other = msgspec.json.decode(path.read_bytes(), type=WalkForward)
        except (msgspec.MsgspecError, OSError):
            continue  # written by another version, or truncated
        overlaps = other.folds[0].test[0] < judged.end and other.folds[-1].test[1] > judged.start
        if overlaps and set(other.inputs.values()) & set(file_hashes.values()):
            found.add(tuple(other.returns))
    return found


def read_prices(inputs: ReplayInputs, window: Window) -> dict[str, ClosePrices]:
    """Read the closes of every symbol over a window."""
    plan = inputs.plan
    found = {}
    for path, symbol in plan.klines:
        file = KlineFile(
            path,
            symbol,
            around_the_clock=inputs.config.market.category != "equity",
            start=window.start,
            end=window.end,
            timezone=plan.timezone,
        )
        found[file.symbol] = ClosePrices(*file.closes())
    return found


def check_test_length(folds: Sequence[Fold], interval: int) -> None:
    """Raise UsageError if a test window is shorter than a day or ten bars of `interval` ms."""
    shortest = min(fold.test.end - fold.test.start for fold in folds)
    if shortest < max(10 * interval, DAY_MS):
        raise UsageError("a test window is shorter than a day or ten bars", hint="lengthen --test")


def _run_fold(task: _FoldTask) -> _FoldResult:
    fold, settings = task.fold, task.settings
    part_of = f"{task.part_of} fold {fold.number}"
    if task.folder.exists():
        _remove_lost(task.inputs, part_of)
    task.folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    overrides: dict[str, Any] = {}
    if fold.train.end > fold.train.start:
        overrides = task.fitter.fit(fold.train, task.folder)
    fitted = time.monotonic()
    config = task.inputs.config
    if overrides:
        config = with_overrides(config, overrides, where=f"fold {fold.number}")
    inputs = task.inputs._replace(config=config)
    if overrides:  # the parameters may need another warm-up
        inputs = inputs._replace(plan=inputs.plan._replace(warm_up=None))
    plan = inputs.part(fold.test, warmup=settings.warmup, close_out=True, part_of=part_of)
    with inputs.database() as database:
        history = History(plan, config)
        scoring = inputs.scoring(database, fold.test.start)
        done = backtest(
            history,
            database,
            scorer=scoring.scorer,
            stamps=scoring.stamps,
            versions=scoring.versions,
            allow_leakage=inputs.allow_leakage,
        )
        tested = time.monotonic()
        capital = float(config.account.initial_capital)
        days, returns, trades, equity_at = _read_run(database, done.run.id, done.metrics, capital)
        # A position that is still open ends with its fold, so that it doesn't overlap with the next one's
        trades = [
            trade if trade.exit_ts is not None else msgspec.structs.replace(trade, exit_ts=fold.test.end)
            for trade in trades
        ]
        placebo: list[float] = []
        if settings.placebo:
            window = LoadedWindow(plan, config, scoring.scorer, scoring.versions)
            for number in range(settings.placebo):
                shuffled = shuffle_headlines(window.news_events, settings.seed + number)
                placebo.append(window.replay(news_events=shuffled).total_return)
    metrics = done.metrics
    record = FoldRecord(
        number=fold.number,
        train=(fold.train.start, fold.train.end),
        test=(fold.test.start, fold.test.end),
        run=done.run.id,
        overrides=overrides,
        total_return=metrics.performance.total_return,
        sharpe=metrics.performance.sharpe,
        max_drawdown=metrics.performance.max_drawdown,
        buy_and_hold=metrics.buy_and_hold.total_return if metrics.buy_and_hold else None,
        trades=metrics.trades.trades + metrics.open_trades,
        exposure=metrics.exposure,
        stamps=done.run.stamps,
        fit_seconds=fitted - began,
        test_seconds=tested - fitted,
    )
    return _FoldResult(record, days, returns, trades, equity_at, placebo, done.run)


def _remove_lost(inputs: ReplayInputs, part_of: str) -> None:
    """Remove the unfinished run of a fold whose process was lost: the fold is run again."""
    with inputs.database() as database:
        for run in list_runs(database):
            if run.status is RunStatus.RUNNING and run.config.get("window", {}).get("part_of") == part_of:
                delete_run(database, run)


def _read_run(
    database: Database, run_id: str, metrics: Metrics, capital: float
) -> tuple[Times, Floats, list[RoundTrip], dict[int, float]]:
    """Read a recorded run: ends of days, daily returns, round trips, and the equity at the entry of each."""
    query = select(tables.equity.c.ts, tables.equity.c.equity).where(tables.equity.c.run_id == run_id)
    with database.read() as connection:
        samples = connection.execute(query.order_by(tables.equity.c.seq)).all()
    ts, equity = [int(row.ts) for row in samples], [float(row.equity) for row in samples]
    days, returns = window_daily_returns(ts, equity, metrics, capital)
    decisions = (found.decision for found in read_decisions(database, run_id))
    trades = round_trips(decision for decision in decisions if isinstance(decision, Fill | FundingPayment))
    entries = [trade.entry_ts for trade in trades]
    rows = np.searchsorted(np.array(ts, np.int64), np.array(entries, np.int64), side="right") - 1
    equity_at = {
        at: capital if row < 0 else equity[row] for at, row in zip(entries, rows.tolist(), strict=True)
    }
    return days, returns, trades, equity_at
