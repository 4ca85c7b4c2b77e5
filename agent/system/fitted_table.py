"""Tables that fit the width of a terminal without cutting a heading or a figure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

Cell = str | Text
"""A cell's content; a string is shown literally."""

_GAP: Final = 2  # columns between two cells
_NARROWEST: Final = 16  # width below which no text is wrapped
_INDENT: Final = 2  # of a stacked row, below its first cell


class Column(NamedTuple):
    """A column of a fitted table."""

    heading: str
    right: bool = False  # aligned to the right, as figures are
    wraps: bool = False  # holds words, which may continue on the next line
    optional: int = 0  # the column with the highest number is left out first; 0: never


def figures(*headings: str) -> tuple[Column, ...]:
    """Return columns of figures."""
    return tuple(Column(heading, right=True) for heading in headings)


def fitted_table(
    columns: Sequence[Column], rows: Sequence[Sequence[Cell]], width: int, *, gap: int = _GAP
) -> RenderableType:
    """Return a table that is at most `width` columns wide.

    If it doesn't fit, texts are wrapped, then optional columns are left out, then each row becomes a block of
    lines. Words that are longer than a line are broken.
    """
    cells = [[cell if isinstance(cell, Text) else Text(cell) for cell in row] for row in rows]
    natural = [
        max([cell_len(column.heading), *(_widest_line(row[number]) for row in cells)])
        for number, column in enumerate(columns)
    ]
    shown = list(range(len(columns)))
    while (widths := _widths(columns, natural, shown, width, gap)) is None:
        optional = [number for number in shown if columns[number].optional]
        if not optional:
            return Group(*_stacked(columns, cells, shown, width))
        shown.remove(max(optional, key=lambda number: columns[number].optional))
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, gap, 0, 0))
    for number, size in zip(shown, widths, strict=True):
        column = columns[number]
        table.add_column(
            Text(column.heading),
            justify="right" if column.right else "left",
            width=size,
            no_wrap=not column.wraps,
            overflow="fold",
        )
    for row in cells:
        table.add_row(*(row[number] for number in shown))
    return table


def _widest_line(cell: Text) -> int:
    return max((cell_len(line) for line in cell.plain.split("\n")), default=0)


def _widths(
    columns: Sequence[Column], natural: Sequence[int], shown: Sequence[int], width: int, gap: int
) -> list[int] | None:
    """Return the widths of the `shown` columns; None if they don't fit."""
    found = [natural[number] for number in shown]
    beyond = sum(found) + gap * (len(found) - 1) - width
    while beyond > 0:
        narrowest = [
            max(_NARROWEST, cell_len(columns[number].heading)) if columns[number].wraps else size
            for number, size in zip(shown, found, strict=True)
        ]
        widest = max(range(len(found)), key=lambda place: found[place] - narrowest[place], default=0)
        spare = found[widest] - narrowest[widest] if found else 0
        if spare <= 0:
            return None
        cut = min(spare, beyond)
        found[widest] -= cut
        beyond -= cut
    return found


def _stacked(
    columns: Sequence[Column], cells: Sequence[Sequence[Text]], shown: Sequence[int], width: int
) -> Iterator[RenderableType]:
    """Show each row as its first cell, with its heading if it is a figure, and below it the others with
    theirs.
    """
    first, *others = shown
    heading = f"{columns[first].heading} ".lstrip() if columns[first].right else ""
    for row in cells:
        yield Text.assemble((heading, "dim"), row[first], overflow="fold")
        lines: list[Text] = []
        for number in others:
            if not row[number].plain:
                continue
            pair = Text.assemble((f"{columns[number].heading} ".lstrip(), "dim"), row[number])
            if lines and cell_len(lines[-1].plain) + cell_len(pair.plain) + _GAP <= width - _INDENT:
                lines[-1].append(" " * _GAP).append_text(pair)
            else:
                lines.append(pair)
        for line in lines:
            line.overflow = "fold"
            yield Padding(line, (0, 0, 0, _INDENT), expand=False)
