"""The twin of a run as one HTML page that loads nothing else and runs no script."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from agent.analysis.report import formats
from agent.analysis.twin_parts import LABELS
from agent.analysis.twin_report import Delays, TwinReport, by_size, waterfall
from agent.core.errors import StoreError, TapewireError
from agent.system.atomic import write_bytes

SHOWN_ORDERS: Final = 100
"""Orders of the page's table, those with the largest differences."""

_PAGE: Final = Path(__file__).with_name("page")


def render_twin(report: TwinReport) -> str:
    """Return the page."""
    environment = Environment(
        loader=FileSystemLoader(_PAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {name: getattr(formats, name) for name in ("number", "money", "price", "minute")}
    shown = sorted(report.orders, key=lambda order: -abs(order.difference))[:SHOWN_ORDERS]
    return environment.get_template("twin.html.j2").render(
        report=report,
        headline=headline(report),
        sentences=sentences(report),
        waterfall=waterfall(report),
        causes=[cause for cause in LABELS if any(cause in day.causes for day in report.days)],
        labels=LABELS,
        both=sum(bool(order.venue_qty and order.paper_qty) for order in report.orders),
        shown=sorted((order for order in shown if order.causes), key=lambda order: order.ts),
        delay=_delay,
        style=Markup((_PAGE / "report.css").read_text(encoding="utf-8")),
    )


def write_twin(report: TwinReport, page: Path) -> None:
    """Write the page. Raises TapewireError if the file can't be written."""
    try:
        write_bytes(page, render_twin(report).encode())
    except StoreError as error:
        raise TapewireError(error.message, hint="choose another path with --output") from None


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


def _delay(delays: Delays | None) -> str:
    return formats.MISSING if delays is None else f"{formats.number(delays.median, 0)}\u00a0ms"
