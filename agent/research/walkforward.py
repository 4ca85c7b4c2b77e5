"""Walk-forward: learn from one stretch of history, trade the next one, move on; what is judged was never learned from.

Each fold's test window is an ordinary recorded backtest, which begins warm and ends flat, and which `verify` decides again.
Their returns, one after the other, are the out-of-sample equity that the evidence is weighed from.
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
from agent.analysis.report.verdict import Verdict
from agent.analysis.run_metrics import Metrics
from agent.analysis.trades import RoundTrip, round_trips
from agent.core.errors import UsageError
from agent.core.events import DAY_MS, Fill, FundingPayment
from agent.data.klines import KlineFile
from agent.replay.backtest import backtest, new_run_id
from agent.replay.history import History
from agent.research.evidence import Evidence, Floats, Prices, Times, placebo_test, verdict_on, weigh
from agent.research.fitters import Fitter
from agent.research.folds import Fold, Window
from agent.research.material import Material
from agent.research.placebo import shuffled
from agent.research.rehearsal import Stage, daily, overridden
from agent.research.workers import Advance, spread
from agent.store import tables
from agent.store.database import Database
from agent.store.queries import read_decisions
from agent.system.atomic import write_bytes

FOLDER: Final = Path("var/walkforward")
WARMUP_BARS: Final = 1_000


class Settings(NamedTuple):
    """How a walk-forward is made. `fit` names the fitter for the record; `warmup` (ms) is read before each test window."""

    fit: str
    warmup: int
    placebo: int = 0  # replays of each test window with shuffled headlines
    jobs: int = 1
    seed: int = 0


class FoldRecord(msgspec.Struct, frozen=True):
    """A fold as it is kept. Windows in UTC ms; `overrides` is what was learned, `run` the recorded backtest of the test window."""

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
    """A finished walk-forward: the parent record of its folds' runs. `returns` are daily, of the periods that end at `days`."""

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
    evidence: Evidence
    verdict: Verdict
    seconds: float


class _Task(NamedTuple):
    material: Material
    fold: Fold
    fitter: Fitter
    folder: Path
    settings: Settings
    part_of: str


class _Outcome(NamedTuple):
    record: FoldRecord
    days: Times
    returns: Floats
    trades: list[RoundTrip]
    equity_at: dict[int, float]
    placebo: list[float]
    inputs: dict[str, str]


def walk_forward(
    material: Material,
    folds: Sequence[Fold],
    fitter: Fitter,
    settings: Settings,
    *,
    folder: Path = FOLDER,
    described: dict[str, Any] | None = None,
    advance: Advance | None = None,
) -> WalkForward:
    """Learn and test fold by fold over `settings.jobs` processes, weigh the whole, and keep it in `folder`/ID/result.json.

    `described` is what else of the settings the record should say. All headlines should be scored before.
    Raises what fitting and backtests raise.
    """
    began = time.monotonic()
    name = f"wf-{new_run_id()}"
    place = folder / name
    place.mkdir(parents=True)
    # made here, lest processes make it at once; and refused here, before any work
    with material.database() as database:
        material.scoring(database, folds[0].test.start)
    tasks = [
        _Task(material, fold, fitter, place / f"fold-{fold.number:02}", settings, name) for fold in folds
    ]
    outcomes = spread(_run, tasks, jobs=settings.jobs, advance=advance)
    judged = Window(folds[0].test.start, folds[-1].test.end)
    days = np.concatenate([outcome.days for outcome in outcomes])
    returns = np.concatenate([outcome.returns for outcome in outcomes])
    prices = read_prices(material, judged)
    inputs = outcomes[0].inputs
    tried = earlier_tries(folder, inputs, judged)
    tried.discard(tuple(returns.tolist()))
    evidence = weigh(
        days,
        returns,
        [trade for outcome in outcomes for trade in outcome.trades],
        {ts: equity for outcome in outcomes for ts, equity in outcome.equity_at.items()},
        prices,
        trials=1 + len(tried),
        placebo=placebo_test(
            float(np.prod(1 + returns) - 1),
            [
                float(np.prod([1 + outcome.placebo[i] for outcome in outcomes]) - 1)
                for i in range(len(outcomes[0].placebo))
            ],
        ),
        seed=settings.seed,
    )
    result = WalkForward(
        id=name,
        version=__version__,
        strategy=material.config.strategy.name,
        symbols=tuple(prices),
        fit=settings.fit,
        settings={**settings._asdict(), **(described or {})},
        inputs=inputs,
        stamps=tuple(dict.fromkeys(stamp for outcome in outcomes for stamp in outcome.record.stamps)),
        folds=[outcome.record for outcome in outcomes],
        days=days.tolist(),
        returns=returns.tolist(),
        evidence=evidence,
        verdict=verdict_on(evidence),
        seconds=time.monotonic() - began,
    )
    write_bytes(place / "result.json", msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    return result


def earlier_tries(folder: Path, inputs: dict[str, str], judged: Window) -> set[tuple[float, ...]]:
    """The daily returns of walk-forwards kept in `folder` that judged an overlapping time of the same klines.

    Each was a try, and tries add up; the same again is no other try.
    """
    found = set()
    for path in folder.glob("*/result.json"):
        try:
            other = msgspec.json.decode(path.read_bytes(), type=WalkForward)
        except (msgspec.MsgspecError, OSError):
            continue  # of another version, or cut off: it can't be counted
        overlaps = other.folds[0].test[0] < judged.end and other.folds[-1].test[1] > judged.start
        if overlaps and set(other.inputs.values()) & set(inputs.values()):
            found.add(tuple(other.returns))
    return found


def read_prices(material: Material, window: Window) -> dict[str, Prices]:
    """The closes of every symbol over a window."""
    plan = material.plan
    found = {}
    for path, symbol in plan.klines:
        file = KlineFile(
            path,
            symbol,
            around_the_clock=material.config.market.category != "equity",
            start=window.start,
            end=window.end,
            timezone=plan.timezone,
        )
        found[file.symbol] = Prices(*file.closes())
    return found


def _run(task: _Task) -> _Outcome:
    """One fold, in whatever process."""
    material, fold, settings = task.material, task.fold, task.settings
    task.folder.mkdir()
    began = time.monotonic()
    overrides: dict[str, Any] = {}
    if fold.train.end > fold.train.start:
        overrides = task.fitter.fit(fold.train, task.folder)
    fitted = time.monotonic()
    config = (
        overridden(material.config, overrides, where=f"fold {fold.number}") if overrides else material.config
    )
    material = material._replace(config=config)
    plan = material.part(
        fold.test, warmup=settings.warmup, close_out=True, part_of=f"{task.part_of} fold {fold.number}"
    )
    with material.database() as database:
        history = History(plan, config)
        scoring = material.scoring(database, fold.test.start)
        done = backtest(
            history,
            database,
            scorer=scoring.scorer,
            stamps=scoring.stamps,
            versions=scoring.versions,
            allow_leakage=material.allow_leakage,
        )
        tested = time.monotonic()
        days, returns, trades, equity_at = _told(
            database, done.run.id, done.metrics, float(config.account.initial_capital)
        )
        placebo: list[float] = []
        if settings.placebo:
            stage = Stage(plan, config, scoring.scorer)
            placebo = [
                stage.rehearse(wire=shuffled(stage.wire, settings.seed + number)).total_return
                for number in range(settings.placebo)
            ]
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
    inputs = {item.path: item.sha256 for item in done.run.inputs if item.role == "klines"}
    return _Outcome(record, days, returns, trades, equity_at, placebo, inputs)


def _told(
    database: Database, run_id: str, metrics: Metrics, capital: float
) -> tuple[Times, Floats, list[RoundTrip], dict[int, float]]:
    """Daily returns and round trips of a recorded run, and the equity at the entry of each."""
    query = select(tables.equity.c.ts, tables.equity.c.equity).where(tables.equity.c.run_id == run_id)
    with database.read() as connection:
        samples = connection.execute(query.order_by(tables.equity.c.seq)).all()
    ts, equity = [int(row.ts) for row in samples], [float(row.equity) for row in samples]
    days, returns = daily(ts, equity, metrics, capital)
    moves = (found.decision for found in read_decisions(database, run_id))
    trades = round_trips(move for move in moves if isinstance(move, Fill | FundingPayment))
    entries = [trade.entry_ts for trade in trades]
    rows = np.searchsorted(np.array(ts, np.int64), np.array(entries, np.int64), side="right") - 1
    return (
        days,
        returns,
        trades,
        {at: capital if row < 0 else equity[row] for at, row in zip(entries, rows.tolist(), strict=True)},
    )


def check_room(folds: Sequence[Fold], interval: int) -> None:
    """Raises UsageError where a test window is too short to close out and judge."""
    shortest = min(fold.test.end - fold.test.start for fold in folds)
    if shortest < max(10 * interval, DAY_MS):
        raise UsageError("a test window is shorter than a day or ten bars", hint="lengthen --test")
