"""The twin of a run as one HTML page that loads nothing else and runs no script."""

from __future__ import annotations

from typing import Final

from markupsafe import Markup

from agent.analysis.report import formats
from agent.analysis.report.page_parts import PAGE, environment
from agent.analysis.report.twin_view import view_of
from agent.analysis.twin_report import Delays, TwinReport

SHOWN_ORDERS: Final = 100
"""Orders of the page's table, those with the largest differences."""


def render_twin(report: TwinReport) -> str:
    """Return the page."""
    return (
        environment()
        .get_template("twin.html.j2")
        .render(
            report=report,
            twin=view_of(report, orders=SHOWN_ORDERS),
            both=sum(bool(order.venue_qty and order.paper_qty) for order in report.orders),
            delay=_delay,
            style=Markup((PAGE / "report.css").read_text(encoding="utf-8")),
        )
    )


def _delay(delays: Delays | None) -> str:
    return formats.MISSING if delays is None else f"{formats.number(delays.median, 0)}\u00a0ms"
