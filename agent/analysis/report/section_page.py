"""Pages of sections: text, charts and tables under a verdict, in the style of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from agent.analysis.report.page_parts import render_page
from agent.analysis.report.plot import Figure


class Cell(NamedTuple):
    """A cell: its text, what it sorts by if that isn't the text, whether it is a number, and its tone."""

    text: str
    value: float | str | None = None
    number: bool = False
    tone: str = ""  # gain or loss


class Table(NamedTuple):
    """A table; a column whose cells are numbers is aligned to the right. The first cells are headings."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    title: str = ""
    sortable: bool = False


class Finding(NamedTuple):
    """A statement that holds or not (`fine`; None: it wasn't tested), with its evidence."""

    fine: bool | None
    text: str
    details: Sequence[tuple[str, str]] = ()


class PageSection(NamedTuple):
    """A section: sentences, findings, then charts (SVG, or the id of a figure over time), then tables."""

    title: str
    text: Sequence[str] = ()
    findings: Sequence[Finding] = ()
    charts: Sequence[Markup | str] = ()
    tables: Sequence[Table] = ()
    note: str = ""


class SectionPage(NamedTuple):
    """A page: what it is of, its verdict and sections. `figures` are the charts over time by their id."""

    kind: str
    title: str
    lines: Sequence[str]  # below the title
    headline: str
    sections: Sequence[PageSection]
    tone: str = "plain"  # good, bad or plain
    sentences: Sequence[str] = ()
    warnings: Sequence[str] = ()
    stamps: Sequence[str] = ()
    figures: Mapping[str, Figure] = {}


def text(value: Any) -> Cell:
    """Return a cell with a text."""
    return Cell(str(value))


def number(shown: str, value: float | None, *, toned: bool = False) -> Cell:
    """Return a cell with a number, green or red by its sign if it is `toned`."""
    tone = "" if not toned or not value else "gain" if value > 0 else "loss"
    return Cell(shown, value if value is not None else "", True, tone)


def render_sections(page: SectionPage) -> str:
    """Return the page as HTML, which loads nothing else."""
    return render_page("sections.html.j2", figures=page.figures, page=page)
