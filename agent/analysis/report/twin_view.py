"""The twin of a run as readers see it: sentences, waterfall, days and the orders that matter most.

The page of `tapewire twin`, the report and the dashboard show the same view.
"""

from __future__ import annotations

from decimal import Decimal

import msgspec

from agent.analysis.report import formats
from agent.analysis.twin_parts import LABELS, Cause
from agent.analysis.twin_report import BarDifferences, TwinDay, TwinOrder, TwinReport, by_size, waterfall
from agent.analysis.waterfall import Waterfall


class TwinView(msgspec.Struct, frozen=True):
    """What is shown of a `TwinReport`. Amounts are in `currency`; a negative one is worse at the venue."""

    run: str
    venue: str
    currency: str
    costs: str
    start: str
    end: str
    headline: str
    sentences: list[str]
    waterfall: Waterfall
    origins: dict[str, Decimal]  # label -> part of `positions`
    causes: list[Cause]  # columns of the table by day
    days: list[TwinDay]
    orders: list[TwinOrder]  # with the largest differences, by time
    all_orders: int
    bars: list[BarDifferences]
    notes: list[str]


def view_of(report: TwinReport, *, orders: int) -> TwinView:
    """Return the view with at most so many orders."""
    largest = sorted(report.orders, key=lambda order: -abs(order.difference))[:orders]
    return TwinView(
        run=report.run,
        venue=report.venue,
        currency=report.currency,
        costs=report.costs,
        start=report.start,
        end=report.end,
        headline=headline(report),
        sentences=sentences(report),
        waterfall=waterfall(report),
        origins={LABELS[cause]: amount for cause, amount in report.origins.items()},
        causes=[cause for cause in LABELS if any(cause in day.causes for day in report.days)],
        days=report.days,
        orders=sorted((order for order in largest if order.causes), key=lambda order: order.ts),
        all_orders=len(report.orders),
        bars=report.bars,
        notes=report.notes,
    )


def headline(report: TwinReport) -> str:
    """Return the difference as one sentence."""
    if not report.difference:
        return "The venue and the twin earned the same."
    amount = formats.money(abs(float(report.difference)), report.currency)
    return f"The venue earned {amount} {'more' if report.difference > 0 else 'less'} than the twin."


def sentences(report: TwinReport) -> list[str]:
    """Return what explains the difference: the largest parts, and the first decision that differs."""
    result = []
    if largest := [item for item in by_size(report.causes) if item[1]][:3]:
        parts = (f"{LABELS[cause]} {formats.money(float(a), signed=True)}" for cause, a in largest)
        result.append(f"Largest parts: {'; '.join(parts)}.")
    different = report.first_different
    if not report.decided_anew:
        result.append("The twin executed the run's own orders; it decided nothing.")
    elif different is None:
        result.append("The twin decided the same orders.")
    else:
        venue, paper = different.at_venue or "no order", different.on_paper or "no order"
        when = f"{formats.minute(different.ts)} UTC, event {different.seq:,}"
        result.append(
            f"The first decision that differs: {different.symbol} at {when}: {venue} at the venue, "
            f"{paper} on paper."
        )
    return result
