"""Emitted entries of a feed, so that an entry is emitted only once."""

from __future__ import annotations

import msgspec

from agent.live.news.feed_parser import FeedEntry


class SeenEntries(msgspec.Struct):
    """A feed's validators and emitted entries, least recently listed first.

    An entry is known if its id or its link was emitted with the same title. With another title it is a new
    entry: some feeds share one id among all entries, reuse an id for an update, or change an entry's id at
    each poll.
    """

    past_backlog: bool = False  # a whole document has been emitted; until then its entries are a backlog
    etag: str = ""
    last_modified: str = ""
    keys: dict[str, None] = {}
    names: dict[str, None] = {}  # see `FeedEntry.names`

    def is_known(self, entry: FeedEntry) -> bool:
        """Return whether the entry was emitted; if so, mark it as listed most recently."""
        known = any(name in self.names for name in entry.names)
        if entry.key in self.keys:
            _touch(self.keys, entry.key)
        if known:
            for name in entry.names:
                _touch(self.names, name)
        return known

    def new_key(self, entry: FeedEntry) -> str:
        """Return the key of a new entry: its own, or a longer one if an entry with another title was
        emitted under it.
        """
        return f"{entry.key}\x1f{entry.names[0]}" if entry.key in self.keys and entry.names else entry.key

    def add(self, entry: FeedEntry) -> None:
        """Mark the entry as emitted."""
        self.keys[entry.key] = None
        for name in entry.names:
            _touch(self.names, name)

    def trim(self, limit: int) -> None:
        """Keep the `limit` most recently listed entries; each has at most two names."""
        for key in list(self.keys)[: max(0, len(self.keys) - limit)]:
            del self.keys[key]
        for name in list(self.names)[: max(0, len(self.names) - 2 * limit)]:
            del self.names[name]


def _touch(order: dict[str, None], name: str) -> None:
    order.pop(name, None)
    order[name] = None
