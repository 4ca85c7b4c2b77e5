"""The twin of a recorded venue run: the same events, traded on paper."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Final

import msgspec

from agent.analysis.twin_parts import CostRules, exact
from agent.analysis.twin_report import BarDifferences, Boundary, DifferentDecision, TwinRecord, day_of
from agent.config import Config
from agent.config.costs import costs_in_words
from agent.core.errors import DataError, ModelError, SafetyError, UsageError
from agent.core.events import Order
from agent.replay.backtest import Progress
from agent.replay.decides_anew import DecidesAnew
from agent.replay.fusion_model import reopen_predictor
from agent.replay.twin_events import is_strategys, recorded_events, run_config
from agent.replay.twin_fold import OwnOrders, find_holes, with_markets
from agent.replay.twin_history import HistoryTwin, replay_history
from agent.store.database import Database
from agent.store.runs import Run
from strategies import check_source, load_strategy

_TICK: Final = 16_384
_NO_MONEY: Final = Decimal("1e-9")
_COMPARED: Final = ("side", "type", "qty", "price", "trigger", "reduce_only")
"""Fields in which two orders must agree to be the same decision."""


def fold_twin(
    database: Database,
    run: Run,
    *,
    costs: Config | None = None,
    anew: bool = True,
    history: Sequence[tuple[Path, str | None]] | None = None,
    trust_strategy: bool = False,
    progress: Progress | None = None,
) -> TwinRecord:
    """Fold a venue run's journal against the paper exchange; `costs` replaces the run's `[paper]` section.

    With `anew` a second engine decides for itself. If its strategy or model is missing, a note states it and
    the twin executes the run's own orders. With `history` the run's window is also replayed as a backtest, on
    these kline files, else on the run's own bars. Raises UsageError, StoreError or DataError.
    """
    config = run_config(run)
    if costs is not None:
        # the band decides which changes are traded, and costs nothing
        paper = costs.paper.model_copy(update={"rebalance_band": config.paper.rebalance_band})
        config = config.model_copy(update={"paper": paper, "costs": costs.costs})
    notes: list[str] = []
    initial = config.account.initial_capital
    own = OwnOrders(config, initial)
    second = _decides_anew(config, run, notes, trust_strategy=trust_strategy) if anew else None
    boundaries: list[Boundary] = []
    ours: list[tuple[int, Order]] = []
    day, tick, last = "", _TICK, 0

    def close(day: str) -> None:
        marks = {symbol: position.mark_decimal for symbol, position in own.paper.positions.items()}
        equity = None if second is None else second.equity
        with exact():
            venue, paper = own.venue.exact_equity(), own.paper.exact_equity()
        boundaries.append(Boundary(last, day, marks, venue, paper, equity))

    for seq, event, decisions in recorded_events(database, run, config):
        if (today := day_of(event.available_at)) != day:
            if day:
                close(day)
            day = today
        with exact():  # a venue's amounts may have many digits, and no sum of the parts may be rounded
            own.handle(seq, event, decisions)
        if second is not None:
            second.handle(seq, event, decisions)
        ours += [(seq, one) for one in decisions if isinstance(one, Order) and is_strategys(one)]
        last = seq
        if progress and seq >= tick:
            tick += _TICK
            progress(event.available_at)
    if not last:
        raise UsageError(f"run {run.id} has no events yet")
    close(day)
    if run.final_equity is not None and abs(run.final_equity - boundaries[-1].venue) > _NO_MONEY:
        notes.append(
            f"the recorded fills give an equity of {boundaries[-1].venue:f}, the run recorded "
            f"{run.final_equity:f}"
        )
    if own.ignored_bars:
        notes.append(f"{own.ignored_bars:,} late or duplicate bars were ignored, as in the run")
    bars: list[BarDifferences] = []
    if history is not None and second is not None:
        backtest = replay_history(database, run, config, history)
        boundaries = _with_history(boundaries, backtest, initial)
        bars = backtest.bars
        notes += backtest.notes
    elif history is not None:
        notes.append("without an engine that decides anew, the history is not replayed")
    half_spread = config.paper.half_spread_bps * 1e-4
    return TwinRecord(
        run=run.id,
        venue=config.execution.testnet.venue,
        currency=config.account.currency,
        costs=costs_in_words(config.paper, config.costs),
        initial=own.venue.initial,
        orders={id: record.facts() for id, record in own.records.items()},
        moves={
            id: with_markets(record.moves, own.prices[record.order.symbol])
            for id, record in own.records.items()
        },
        funding=own.funding,
        boundaries=boundaries,
        rules={symbol: CostRules(rules, half_spread) for symbol, rules in own.instruments.items()},
        holes={symbol: find_holes(times, config) for symbol, times in own.fresh.items()},
        settled_holes={id: record.holes for id, record in own.records.items() if record.holes is not None},
        first_different=None if second is None else first_difference(ours, second.orders),
        notes=notes,
        bars=bars,
    )


def _with_history(boundaries: list[Boundary], backtest: HistoryTwin, initial: Decimal) -> list[Boundary]:
    """Add the equities of the two backtests to each day."""
    result = []
    closed = history = initial
    for boundary in boundaries:
        closed = backtest.closed.get(boundary.day, closed)
        history = backtest.history.get(boundary.day, history)
        result.append(msgspec.structs.replace(boundary, closed=closed, history=history))
    return result


def _decides_anew(config: Config, run: Run, notes: list[str], *, trust_strategy: bool) -> DecidesAnew | None:
    """Return an engine on paper; None, with a note, if the run's strategy or model can't be had."""
    try:
        if not trust_strategy:
            check_source(run.strategy, run.versions)
        return DecidesAnew(
            config, load_strategy(run.strategy, run.params), run.id, reopen_predictor(config, run)
        )
    except (SafetyError, UsageError, DataError, ModelError) as error:
        notes.append(f"nothing was decided anew, so the part decision is zero: {error.message}")
        return None


def first_difference(
    at_venue: Iterable[tuple[int, Order]], on_paper: Iterable[tuple[int, Order]]
) -> DifferentDecision | None:
    """Return the first order of a symbol that differs between two lists of (event number, order).

    The n-th orders of a symbol are compared. Orders that follow a difference may all differ, because the
    positions do.
    """
    ours, theirs = _by_symbol(at_venue), _by_symbol(on_paper)
    found: list[DifferentDecision] = []
    for symbol in sorted(ours.keys() | theirs.keys()):
        mine, other = ours.get(symbol, []), theirs.get(symbol, [])
        for number in range(max(len(mine), len(other))):
            left = mine[number] if number < len(mine) else None
            right = other[number] if number < len(other) else None
            same = (
                left is not None
                and right is not None
                and all(getattr(left[1], field) == getattr(right[1], field) for field in _COMPARED)
            )
            if not same:
                seq, order = min((one for one in (left, right) if one is not None), key=lambda one: one[0])
                found.append(DifferentDecision(seq, order.ts, symbol, _in_words(left), _in_words(right)))
                break
    return min(found, key=lambda one: one.seq, default=None)


def _by_symbol(orders: Iterable[tuple[int, Order]]) -> dict[str, list[tuple[int, Order]]]:
    result: dict[str, list[tuple[int, Order]]] = {}
    for seq, order in orders:
        result.setdefault(order.symbol, []).append((seq, order))
    return result


def _in_words(decided: tuple[int, Order] | None) -> str:
    if decided is None:
        return ""
    order = decided[1]
    price = "" if order.price is None else f" at {order.price:f}"
    trigger = "" if order.trigger is None else f" from {order.trigger:f}"
    return f"{order.side.value.lower()} {order.qty:f} {order.type.value.lower()}{price}{trigger}"
