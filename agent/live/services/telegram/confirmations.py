"""Confirmations of commands: each works once, for one chat, user and run, and for a short time."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple

from agent.core.errors import SafetyError
from agent.system.clock import steady_time

_MOST: Final = 100  # that wait at once; beyond it the oldest is dropped


class PendingCommand(NamedTuple):
    """A command that waits for its confirmation."""

    chat: int
    user: int
    run: str
    action: str
    args: dict[str, str]
    expires: float


class Confirmations:
    """Commands that wait for a confirmation, by a random code. A restart forgets them.

    `timer` is a monotonic clock in seconds that includes suspended time.
    """

    def __init__(self, seconds: float, timer: Callable[[], float] = steady_time) -> None:
        self._seconds = seconds
        self._timer = timer
        self._waiting: OrderedDict[str, PendingCommand] = OrderedDict()

    def request(self, chat: int, user: int, run: str, action: str, args: dict[str, str]) -> str:
        """Return the code that confirms a command. It replaces the user's earlier one for the action."""
        for code, earlier in list(self._waiting.items()):
            if (earlier.chat, earlier.user, earlier.action) == (chat, user, action):
                del self._waiting[code]
        code = secrets.token_urlsafe(16)
        self._waiting[code] = PendingCommand(chat, user, run, action, args, self._timer() + self._seconds)
        if len(self._waiting) > _MOST:
            self._waiting.popitem(last=False)
        return code

    def redeem(self, code: str, chat: int, user: int, run: str) -> PendingCommand:
        """Return the command of a code, which then is used up.

        Raises SafetyError if the code is unknown, or if it has expired or belongs to another chat, user or
        run. Another chat or user can't use it up.
        """
        pending = self._waiting.get(code)
        if pending is None:
            raise SafetyError(
                "this confirmation was used, replaced or withdrawn", hint="send the command again"
            )
        if pending.chat != chat or pending.user != user:
            raise SafetyError("only the sender of the command can confirm it, in the same chat")
        del self._waiting[code]
        if self._timer() >= pending.expires:
            raise SafetyError(
                f"the confirmation came later than {self._seconds:g} s after the command",
                hint="send the command again",
            )
        if pending.run != run:
            raise SafetyError(f"the command was for run {pending.run}, now run {run} is running")
        return pending
