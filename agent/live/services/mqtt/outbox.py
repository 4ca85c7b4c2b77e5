"""Bounded buffer of messages for the broker; a newer state replaces an older one, and `put` never waits."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from itertools import count, islice
from typing import NamedTuple

import msgspec


class Outgoing(NamedTuple):
    """A message, encoded when it is sent. `key` is its place in the outbox."""

    key: int | str
    topic: str
    message: msgspec.Struct
    retain: bool


class Outbox:
    """Holds at most `capacity` messages; beyond it the oldest is dropped and counted. Not thread-safe."""

    def __init__(self, capacity: int) -> None:
        self.dropped = 0
        self._capacity = capacity
        self._numbers = count()
        self._waiting: OrderedDict[int | str, Outgoing] = OrderedDict()
        self._filled = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, topic: str, message: msgspec.Struct, *, retain: bool = False, latest: bool = False) -> None:
        """Add a message. With `latest` it replaces a waiting message of the same topic."""
        key = topic if latest else next(self._numbers)
        self._waiting[key] = Outgoing(key, topic, message, retain)
        if len(self._waiting) > self._capacity:
            self._waiting.popitem(last=False)
            self.dropped += 1
        self._filled.set()

    async def take(self, limit: int) -> list[Outgoing]:
        """Wait for messages and return at most `limit`, oldest first; they stay until `remove`."""
        while not self._waiting:
            self._filled.clear()
            await self._filled.wait()
        return list(islice(self._waiting.values(), limit))

    def remove(self, messages: list[Outgoing]) -> None:
        """Remove messages that the broker has received."""
        for message in messages:
            if self._waiting.get(message.key) is message:
                del self._waiting[message.key]
