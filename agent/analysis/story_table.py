"""What each story of a run contributed, and the rows of it that tables show.

`agent.research.story_results` computes the contributions.
"""

from __future__ import annotations

from decimal import Decimal
from typing import NamedTuple

import msgspec


class StoryResult(NamedTuple):
    """One story and its contribution."""

    story: str  # id of its first headline
    at: int  # `available_at` of that, UTC ms
    title: str
    headlines: int
    symbols: tuple[str, ...]
    contribution: Decimal  # account currency
    orders: int  # of the run while the lives differ
    orders_without: int
    until: int | None  # when the lives coincide again (UTC ms); None: at the run's end they still differ
    sleeves: dict[str, Decimal] = {}  # the contribution by sleeve; empty without sleeves


class StoryResults(NamedTuple):
    """Results of all folded stories, the largest contribution first."""

    stories: list[StoryResult]
    silent: int  # stories without a vote, which are not folded


class StoryTable(msgspec.Struct, frozen=True):
    """The stories that changed the result, those with the largest contributions at either end.

    `gap` is the number of rows before the ones that were left out; None if all are there.
    """

    rows: list[StoryResult]
    gap: int | None
    moved: int  # stories that changed the result
    voted: int  # stories that were folded
    silent: int  # stories without a vote, which are not folded

    @property
    def summary(self) -> str:
        """Return how many stories changed the result, as a sentence without a full stop."""
        same = self.voted - self.moved
        return (
            f"{self.moved:,} of {self.voted:,} stories that voted changed the result; "
            f"{same:,} changed nothing; {self.silent:,} had no vote and were not folded"
        )


def table_of(found: StoryResults, most: int) -> StoryTable:
    """Return the table with at most `most` stories at each end."""
    moved = [story for story in found.stories if story.contribution or story.orders != story.orders_without]
    short = len(moved) > 2 * most
    rows = [*moved[:most], *moved[-most:]] if short else moved
    return StoryTable(rows, most if short else None, len(moved), len(found.stories), found.silent)
