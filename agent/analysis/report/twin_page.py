"""The twin of a run as one HTML page that loads nothing else and runs no script."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from markupsafe import Markup

from agent.analysis.report import formats
from agent.analysis.report.page_parts import PAGE, environment
from agent.analysis.report.twin_view import view_of
from agent.analysis.twin_report import Delays, TwinReport
from agent.core.errors import StoreError, TapewireError
from agent.system.atomic import write_bytes

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


def write_twin(report: TwinReport, page: Path) -> None:
    """Write the page. Raises TapewireError if the file can't be written."""
    try:
        write_bytes(page, render_twin(report).encode())
    except StoreError as error:
        raise TapewireError(error.message, hint="choose another path with --output") from None


def _delay(delays: Delays | None) -> str:
    return formats.MISSING if delays is None else f"{formats.number(delays.median, 0)}\u00a0ms"
