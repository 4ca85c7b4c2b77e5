"""Sends replies one after the other, and waits as long as Telegram demands."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from typing import Final, Never

from agent.live.services.telegram.bot_api import BotApi, BotApiError
from agent.system.backoff import BackoffConfig, delays

_CAPACITY: Final = 100
_GIVE_UP: Final = 300.0  # seconds after which a reply has become useless
_PACE: Final = 0.05  # seconds between two messages; Telegram allows thirty a second to all chats

Buttons = tuple[tuple[str, str], ...]


class Reply:
    """A message to a chat, or the response to a button's press if `press` is its id."""

    __slots__ = ("alert", "buttons", "chat", "expires", "press", "text")

    def __init__(
        self, chat: int, text: str, *, buttons: Buttons = (), press: str = "", alert: bool = False
    ) -> None:
        self.chat = chat
        self.text = text
        self.buttons = buttons
        self.press = press
        self.alert = alert
        self.expires = asyncio.get_running_loop().time() + _GIVE_UP


class ReplyQueue:
    """At most a hundred replies; beyond them, and after five minutes, the oldest is dropped.

    `on_drop` is called with the reason of each reply that is given up.
    """

    def __init__(self, policy: BackoffConfig, rng: random.Random, on_drop: Callable[[str], None]) -> None:
        self._policy = policy
        self._rng = rng
        self._on_drop = on_drop
        self._waiting: deque[Reply] = deque()
        self._filled = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, reply: Reply) -> None:
        """Add a reply."""
        if len(self._waiting) >= _CAPACITY:
            self._waiting.popleft()
            self._on_drop(f"more than {_CAPACITY} replies wait")
        self._waiting.append(reply)
        self._filled.set()

    async def send_all(self, api: BotApi) -> Never:
        """Send what waits and what comes, until cancelled. A reply stays in the queue until it is sent."""
        loop = asyncio.get_running_loop()
        waits = delays(self._policy, self._rng)
        while True:
            while not self._waiting:
                self._filled.clear()
                await self._filled.wait()
            reply = self._waiting[0]
            if loop.time() >= reply.expires:
                self._remove(reply)
                self._on_drop(f"a reply could not be sent within {_GIVE_UP:g} s")
                continue
            try:
                if reply.press:
                    await api.answer(reply.press, reply.text, alert=reply.alert)
                else:
                    await api.send(reply.chat, reply.text, reply.buttons)
            except BotApiError as error:
                if error.is_final or reply.press:  # a press waits for seconds only
                    self._remove(reply)
                    self._on_drop(error.message)
                    continue
                await asyncio.sleep(max(next(waits), error.retry_after))
                continue
            self._remove(reply)
            waits = delays(self._policy, self._rng)
            await asyncio.sleep(_PACE)

    def _remove(self, reply: Reply) -> None:
        """Remove a reply, unless a newer one has displaced it."""
        if self._waiting and self._waiting[0] is reply:
            self._waiting.popleft()
