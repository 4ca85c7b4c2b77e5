"""Messages that wait for the broker: bounded, the newest state in the place of an older one, never a wait for who puts one in."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from itertools import count, islice
from typing import NamedTuple

import msgspec


class Outgoing(NamedTuple):
    """One message; it is encoded when it is sent. `key` is its place in the outbox."""

    key: int | str
    topic: str
    message: msgspec.Struct
    retain: bool


class Outbox:
    """At most `capacity` messages; beyond it the oldest is dropped and counted. Of one event loop."""

    def __init__(self, capacity: int) -> None:
        self.dropped = 0
        self._capacity = capacity
        self._numbers = count()
        self._waiting: OrderedDict[int | str, Outgoing] = OrderedDict()
        self._filled = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, topic: str, message: msgspec.Struct, *, retain: bool = False, latest: bool = False) -> None:
        """Take a message in. With `latest` it replaces the one of its topic that still waits."""
        key = topic if latest else next(self._numbers)
        self._waiting[key] = Outgoing(key, topic, message, retain)
        if len(self._waiting) > self._capacity:
            self._waiting.popitem(last=False)
            self.dropped += 1
        self._filled.set()

    async def take(self, limit: int) -> list[Outgoing]:
        """The oldest messages, at most `limit`, once there are any. They wait on until `sent` is told of them."""
        while not self._waiting:
            self._filled.clear()
            await self._filled.wait()
        return list(islice(self._waiting.values(), limit))

    def sent(self, messages: list[Outgoing]) -> None:
        """The broker has these."""
        for message in messages:
            if self._waiting.get(message.key) is message:
                del self._waiting[message.key]
