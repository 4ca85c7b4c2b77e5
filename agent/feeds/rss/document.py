"""What is read out of a feed document."""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """One item of a feed; texts are plain and bounded."""

    key: str  # what makes it itself within its feed: a hash of its id, else of its link, else of title and link
    title: str
    summary: str
    url: str  # "" if it is no http(s) address
    published_raw: str
    published: int | None  # UTC ms; None if the feed states no date that can be read
    publisher: str  # the original source, if the feed is an aggregation


class Document(NamedTuple):
    """A feed that was read, its entries in the order of the document, which is mostly newest first."""

    title: str
    entries: list[Entry]
    empty: int  # entries without text, left out
    cut_off: bool = False  # it ends too early, so its last entry, which may lack anything, is left out
