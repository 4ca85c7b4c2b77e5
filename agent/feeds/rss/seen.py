"""What is remembered of a feed, so that an entry is news only once, over restarts too."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import msgspec


class FeedMemory(msgspec.Struct):
    """A feed's validators, and the keys of the entries that were given out, least recently listed first."""

    read: bool = False  # whether a whole document has been given out; until then its entries are a backlog
    etag: str = ""
    last_modified: str = ""
    keys: dict[str, None] = {}

    def unseen(self, keys: Iterable[str]) -> set[str]:
        """Those not given out yet. The others are listed still, so they are remembered anew."""
        new = set()
        for key in keys:
            if key in self.keys:
                self.keys[key] = self.keys.pop(key)
            else:
                new.add(key)
        return new

    def remember(self, key: str) -> None:
        """It has been given out."""
        self.keys[key] = None

    def forget(self, limit: int) -> None:
        """Keep the `limit` most recently listed."""
        for key in list(self.keys)[: max(0, len(self.keys) - limit)]:
            del self.keys[key]


class SeenStore(Protocol):
    """Keeps memories by the feed's URL. What was not saved in time is given out again, under the same id."""

    async def load(self, url: str) -> FeedMemory | None:
        """None: the feed was never read."""
        ...

    async def save(self, url: str, memory: FeedMemory) -> None:
        """Keep it; called whenever it has changed."""
        ...


class MemorySeenStore:
    """Remembers until the program ends."""

    def __init__(self) -> None:
        self._memories: dict[str, FeedMemory] = {}

    async def load(self, url: str) -> FeedMemory | None:
        """None: the feed was never read."""
        return self._memories.get(url)

    async def save(self, url: str, memory: FeedMemory) -> None:
        """Kept in memory."""
        self._memories[url] = memory
