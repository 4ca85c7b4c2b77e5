"""A what-if in the words of a user, and its result: shared by `tapewire whatif` and the dashboard."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any, Literal, NamedTuple

import msgspec

from agent.core.events import Order
from agent.replay.backtest import Progress
from agent.replay.recorded_inputs import RecordedInputs
from agent.replay.what_if import Change, FoldedLife, WhatIf, fold_on
from agent.system.clock import parse_time


class WhatIfRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What is to differ, in texts. `begins` is an event's number or a UTC time; empty: the first event.

    `remove` and `flip` are ids of headlines, or their first characters.
    """

    begins: str = ""
    change: dict[str, str] = {}  # dotted keys of the configuration
    params: dict[str, str] = {}
    remove: tuple[str, ...] = ()
    flip: tuple[str, ...] = ()
    strategy: str = ""
    sleeve: str = ""  # whose strategy or parameters change

    def wanted(self, source: RecordedInputs) -> Change:
        """Return the change of the run. Raises UsageError for a headline that the run doesn't have."""
        return Change(
            self.change,
            self.strategy,
            self.params,
            frozenset(map(source.headline, self.remove)),
            frozenset(map(source.headline, self.flip)),
            self.sleeve,
        )

    def first_event(self, source: RecordedInputs) -> int:
        """Return the number of the event from which the change holds. Raises UsageError without one."""
        if not self.begins:
            return 1
        if self.begins.isdecimal():
            return int(self.begins)
        return source.event_at(parse_time(self.begins, "--from"))


def answer(source: RecordedInputs, request: WhatIfRequest, *, progress: Progress | None = None) -> WhatIf:
    """Fold both lives. Raises like `fold_on`, and UsageError for an unknown headline or time."""
    first = request.first_event(source)
    return fold_on(source, request.wanted(source), begins=first, progress=progress)


class FigureRow(NamedTuple):
    """A figure of both lives. Of a share, the difference is in percentage points."""

    name: str
    kind: Literal["money", "return", "share", "count", "number"]
    as_it_was: Decimal | float | None
    changed: Decimal | float | None

    @property
    def difference(self) -> Decimal | float | None:
        """Changed minus as it was; None if one of them is undefined."""
        if isinstance(self.as_it_was, Decimal) and isinstance(self.changed, Decimal):
            return self.changed - self.as_it_was
        if self.as_it_was is None or self.changed is None:
            return None
        if isinstance(self.as_it_was, int) and isinstance(self.changed, int):
            return self.changed - self.as_it_was
        return float(self.changed) - float(self.as_it_was)

    def in_words(self) -> tuple[str, str, str]:
        """Return both figures and their difference as texts."""
        value, difference = _FORMATS[self.kind]
        was, changed = (_or_dash(one, value) for one in (self.as_it_was, self.changed))
        return was, changed, _or_dash(self.difference, difference)


_Number = Decimal | float | None
_Format = Callable[[Any], str]
_FORMATS: dict[str, tuple[_Format, _Format]] = {
    "money": (lambda value: f"{value:,.2f}", lambda value: f"{value:+,.2f}"),
    "return": (lambda value: f"{value:+.2%}", lambda value: f"{100 * value:+.2f} pp"),
    "share": (lambda value: f"{value:.2%}", lambda value: f"{100 * value:+.2f} pp"),
    "count": (lambda value: f"{value:,}", lambda value: f"{value:+,}"),
    "number": (lambda value: f"{value:.2f}", lambda value: f"{value:+.2f}"),
}


def _or_dash(value: _Number, text: _Format) -> str:
    return "–" if value is None else text(value)


def figures(found: WhatIf) -> list[FigureRow]:
    """Return the figures of both lives."""
    was, changed = found.as_it_was, found.changed
    before, after = was.metrics, changed.metrics
    return [
        FigureRow("final equity", "money", was.final_equity, changed.final_equity),
        FigureRow("return", "return", before.performance.total_return, after.performance.total_return),
        FigureRow(
            "largest drawdown", "share", before.performance.max_drawdown, after.performance.max_drawdown
        ),
        FigureRow("Sharpe ratio", "number", before.performance.sharpe, after.performance.sharpe),
        FigureRow("orders", "count", _orders(was), _orders(changed)),
        FigureRow("round trips", "count", before.trades.trades, after.trades.trades),
        FigureRow("win rate", "share", before.trades.win_rate, after.trades.win_rate),
        FigureRow("fees", "money", before.fees, after.fees),
        FigureRow("turnover, × equity", "number", before.turnover, after.turnover),
    ]


def profits_by_sleeve(found: WhatIf) -> list[FigureRow]:
    """Return the profit of each sleeve in both lives; one that a life doesn't have earned 0 in it."""
    was, changed = ({n: s.profit for n, s in one.sleeves.items()} for one in (found.as_it_was, found.changed))
    none = Decimal(0)
    return [FigureRow(name, "money", was.get(name, none), changed.get(name, none)) for name in was | changed]


def remarks(found: WhatIf) -> list[str]:
    """Return what a reader must know about the life as it was."""
    if found.as_recorded is False:
        return ["the life as it was is not the recorded run: tapewire verify shows where it differs"]
    if not found.on_paper:
        return ["a run at a venue: both lives are folded on paper, with the costs in [paper]"]
    if found.as_recorded is None:
        return ["the run did not complete, so the life as it was can't be compared with its record"]
    return []


def as_object(found: WhatIf) -> dict[str, Any]:
    """Return the result for JSON."""

    def life(one: FoldedLife) -> dict[str, Any]:
        return {
            "final_equity": one.final_equity,
            "orders": _orders(one),
            "trades": one.metrics.trades.trades,
            "metrics": one.metrics,
            "equity": list(zip(one.times, one.equity, strict=True)),
            "notes": one.notes,
            "sleeves": {
                name: {**part._asdict(), "profit": part.profit} for name, part in one.sleeves.items()
            },
        }

    difference = found.difference
    return {
        "run": found.run.id,
        "from": found.begins,
        "from_at": found.begins_at,
        "as_recorded": found.as_recorded,
        "identical": difference is None,
        "result_of_the_change": found.changed.final_equity - found.as_it_was.final_equity,
        "as_it_was": life(found.as_it_was),
        "changed": life(found.changed),
        "first_difference": None
        if difference is None
        else {
            "event": difference.event_seq,
            "at": difference.event.available_at,
            "input": difference.event,
            "as_it_was": difference.as_it_was,
            "changed": difference.changed,
        },
    }


def _orders(life: FoldedLife) -> int:
    return sum(isinstance(made.decision, Order) for made in life.decisions)
