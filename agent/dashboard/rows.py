"""Rows that know what changed: a page that has seen version n is sent what came after it, and nothing twice."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, Self, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Rows(Generic[K, V]):
    """The `limit` rows that changed last, by key. Versions only grow; putting a row costs O(1), asking O(what changed)."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rows: OrderedDict[K, tuple[int, V]] = OrderedDict()

    def __contains__(self, key: K) -> bool:
        return key in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, key: K) -> V | None:
        """The row with this key."""
        found = self._rows.get(key)
        return None if found is None else found[1]

    def put(self, key: K, row: V, version: int) -> None:
        """Add a row, or change it; the one that changed longest ago makes room."""
        self._rows[key] = version, row
        self._rows.move_to_end(key)
        if len(self._rows) > self._limit:
            self._rows.popitem(last=False)

    def since(self, version: int) -> list[V]:
        """What was put after `version`, in order."""
        changed = []
        for stamp, row in reversed(self._rows.values()):
            if stamp <= version:
                break
            changed.append(row)
        changed.reverse()
        return changed

    def copy(self) -> Self:
        """The same rows, to go on from; rows themselves must not change."""
        twin = type(self)(self._limit)
        twin._rows = self._rows.copy()
        return twin
