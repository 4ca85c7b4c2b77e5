"""Retry policy: exponential backoff with jitter, delays between connections, and a request budget.

No function here opens a connection, so every rule can be tested without one.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Iterator
from itertools import count

from pydantic import Field

from agent.core.durations import Duration
from agent.core.settings import Section


class BackoffConfig(Section):
    """Exponential backoff: waits of `first`, then `factor` times the last one, up to `ceiling`."""

    first: Duration = Field(500, gt=0)  # the wait after the first failure
    factor: float = Field(2.0, ge=1)  # of each wait to the one before
    ceiling: Duration = Field(60_000, gt=0)  # the longest wait
    # random share of each wait, so that clients don't reconnect in step
    jitter: float = Field(0.5, ge=0, le=1)
    # after a connection that lasted this long, the next wait is `first` again
    stable_after: Duration = Field(60_000, gt=0)


def delays(policy: BackoffConfig, rng: random.Random) -> Iterator[float]:
    """Yield the waits between tries in seconds, without end."""
    for attempt in count():
        # an unlimited exponent overflows a float; after 64 steps any ceiling is reached
        wait = min(policy.first * policy.factor ** min(attempt, 64), policy.ceiling) / 1000
        yield wait * (1 - policy.jitter * rng.random())


class Reconnection:
    """Delay before the next connection, given the lifetime of the last one.

    A venue that accepts a connection and closes it at once counts as a failure: only a connection that lasted
    `stable_after` resets the delay.
    """

    def __init__(self, policy: BackoffConfig, rng: random.Random) -> None:
        self._policy = policy
        self._rng = rng
        self._delays = delays(policy, rng)

    def after(self, lived: float) -> float:
        """Return the seconds to wait after a connection of `lived` seconds; 0 if connecting failed."""
        if lived * 1000 >= self._policy.stable_after:
            self._delays = delays(self._policy, self._rng)
        return next(self._delays)


class Budget:
    """Sliding-window limit: at most `limit` uses in any `window` seconds, and none while it is closed.

    All clients to which one limit of a venue applies share one budget.
    """

    def __init__(self, limit: int, window: float) -> None:
        self._window = window
        self._used: deque[float] = deque(maxlen=limit)
        self._closed_until = 0.0

    def delay(self, now: float) -> float:
        """Return the seconds from `now` (of any monotonic clock) until the next use is allowed."""
        opens = self._closed_until
        if len(self._used) == self._used.maxlen:
            opens = max(opens, self._used[0] + self._window)
        return max(0.0, opens - now)

    def use(self, now: float) -> None:
        """Count one use."""
        self._used.append(now)

    def close(self, until: float) -> None:
        """Allow no use before `until`, e.g. during a ban."""
        self._closed_until = max(self._closed_until, until)

    async def take(self) -> None:
        """Wait until a use is allowed, then count it."""
        loop = asyncio.get_running_loop()
        while (wait := self.delay(loop.time())) > 0:
            await asyncio.sleep(wait)
        self.use(loop.time())
