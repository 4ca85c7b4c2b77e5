"""Tables fit any width, and cut no heading and no figure."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from agent.system.fitted_table import Column, figures, fitted_table

COLUMNS = (Column("method"), *figures("rows", "accuracy", "macro F1", "seconds"), Column("note", wraps=True))
ROWS = [
    ("lora", "11,931", "0.9123 ±0.0041", "0.8912 ±0.0102", "1,203.5", "stopped early as the loss rose"),
    ("full", "11,931", "0.9201 ±0.0039", "0.8999 ±0.0098", "12,203.5", "–"),
]


def lines(width: int, columns: tuple[Column, ...] = COLUMNS, rows: list[tuple[str, ...]] = ROWS) -> list[str]:
    console = Console(file=io.StringIO(), width=width, record=True)
    console.print(fitted_table(columns, rows, width))
    return [line.rstrip() for line in console.export_text().splitlines()]


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_every_figure_is_shown_in_full(width: int) -> None:
    shown = lines(width)
    assert max(map(cell_len, shown)) <= width
    text = " ".join(" ".join(shown).split())
    assert "…" not in text
    for cell in (cell for row in ROWS for cell in row[:5]):
        assert cell in text
    for column in COLUMNS[1:]:
        assert column.heading in text


def test_a_wide_table_has_one_line_a_row_and_a_narrow_one_blocks() -> None:
    assert len(lines(120)) == 1 + len(ROWS)
    assert lines(40)[:3] == ["lora", "  rows 11,931  accuracy 0.9123 ±0.0041", "  macro F1 0.8912 ±0.0102"]


def test_a_block_that_begins_with_a_figure_names_it() -> None:
    columns = (*figures("profit", "orders"), Column("story"))
    assert lines(20, columns, [("+13.74", "+2", "an ether fund")])[0] == "profit +13.74"


def test_words_are_wrapped_before_rows_become_blocks() -> None:
    assert lines(80)[2].strip() == "loss rose"


def test_optional_columns_are_left_out_one_by_one() -> None:
    columns = (Column("a"), Column("b", optional=1), Column("c", optional=2))
    rows = [("1" * 10, "2" * 10, "3" * 10)]
    found = [lines(width, columns, rows)[1].split() for width in (34, 30, 15)]
    assert [len(row) for row in found] == [3, 2, 1]


@given(
    st.lists(st.tuples(*[st.text("abc 12…", max_size=30)] * 3), max_size=4),
    st.integers(20, 100),
)
def test_no_line_is_longer_than_the_width(rows: list[tuple[str, ...]], width: int) -> None:
    columns = (Column("first"), Column("second", right=True), Column("third", wraps=True))
    shown = lines(width, columns, rows)
    assert all(cell_len(line) <= width for line in shown)
    for row in rows:
        for word in re.split(r"\s+", " ".join(row)):
            assert len(word) > width - 10 or word in " ".join(shown)
