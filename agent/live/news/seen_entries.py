"""What is remembered of a feed, so that an entry is news only once, over restarts too."""

from __future__ import annotations

from typing import Protocol

import msgspec

from agent.live.news.document import Entry


class FeedMemory(msgspec.Struct):
    """A feed's validators, and the entries that were given out, least recently listed first.

    An entry is known if its id or its link was given out with the same title; with another title it is news
    of its own. Feeds share one id among all entries, use it again for an update, or change it at each poll.
    """

    read: bool = False  # whether a whole document has been given out; until then its entries are a backlog
    etag: str = ""
    last_modified: str = ""
    # of entries that were given out; None: an earlier version did, without their names
    keys: dict[str, bool | None] = {}
    names: dict[str, None] = {}  # see `Entry.names`

    def knows(self, entry: Entry) -> bool:
        """Whether it was given out. What is known is listed still, so it is remembered anew."""
        known = any(name in self.names for name in entry.names)
        if entry.key in self.keys:
            titled = self.keys.pop(entry.key)
            self.keys[entry.key] = True
            known = known or titled is None
        if known:
            self._remember_names(entry)
        return known

    def key_of(self, entry: Entry) -> str:
        """The key for an entry that isn't known: its own, unless an entry with another title was given
        out under that.
        """
        return f"{entry.key}\x1f{entry.names[0]}" if entry.key in self.keys and entry.names else entry.key

    def remember(self, entry: Entry) -> None:
        """It has been given out."""
        self.keys[entry.key] = True
        self._remember_names(entry)

    def forget(self, limit: int) -> None:
        """Keep the `limit` most recently listed; each has two names at most."""
        for key in list(self.keys)[: max(0, len(self.keys) - limit)]:
            del self.keys[key]
        for name in list(self.names)[: max(0, len(self.names) - 2 * limit)]:
            del self.names[name]

    def _remember_names(self, entry: Entry) -> None:
        for name in entry.names:
            self.names.pop(name, None)
            self.names[name] = None


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
