"""When to try again: a policy, the waits that it makes, and a budget of tries that a venue's rule allows.

Nothing here opens a connection, so every rule can be looked at without one.
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
    """Waits between tries: `first`, then `factor` times the last, at most `ceiling`."""

    first: Duration = Field(500, gt=0)  # the wait after the first failure
    factor: float = Field(2.0, ge=1)  # by which each wait is longer than the one before
    ceiling: Duration = Field(60_000, gt=0)  # the longest wait
    # share of each wait that is left to chance, so that clients don't return as one
    jitter: float = Field(0.5, ge=0, le=1)
    # a connection that lived so long makes the next wait `first` again
    stable_after: Duration = Field(60_000, gt=0)


def delays(policy: BackoffConfig, rng: random.Random) -> Iterator[float]:
    """The waits between tries, in seconds, for ever: exponential up to the ceiling, a share of each left to chance."""
    for attempt in count():
        # A factor above 1 would overflow a float after some hundreds of tries; 64 are far beyond any ceiling.
        wait = min(policy.first * policy.factor ** min(attempt, 64), policy.ceiling) / 1000
        yield wait * (1 - policy.jitter * rng.random())


class Reconnection:
    """How long to wait before the next connection, given how long the last one lived.

    A venue that accepts and closes at once is no better than one that refuses: only a connection that lived `stable_after`
    makes the waits short again.
    """

    def __init__(self, policy: BackoffConfig, rng: random.Random) -> None:
        self._policy = policy
        self._rng = rng
        self._delays = delays(policy, rng)

    def after(self, lived: float) -> float:
        """Seconds to wait after a connection that lived `lived` seconds; 0 is one that was never made."""
        if lived * 1000 >= self._policy.stable_after:
            self._delays = delays(self._policy, self._rng)
        return next(self._delays)


class Budget:
    """At most `limit` uses in any `window` seconds, and none while it is closed; all that share a rule share its budget."""

    def __init__(self, limit: int, window: float) -> None:
        self._window = window
        self._used: deque[float] = deque(maxlen=limit)
        self._closed_until = 0.0

    def delay(self, now: float) -> float:
        """Seconds from `now` (of any steady clock) until the next use is allowed; 0 where it is."""
        opens = self._closed_until
        if len(self._used) == self._used.maxlen:
            opens = max(opens, self._used[0] + self._window)
        return max(0.0, opens - now)

    def use(self, now: float) -> None:
        """Count one use."""
        self._used.append(now)

    def close(self, until: float) -> None:
        """Allow none before `until`: what a ban asks for."""
        self._closed_until = max(self._closed_until, until)

    async def take(self) -> None:
        """Wait until a use is allowed, and count it."""
        loop = asyncio.get_running_loop()
        while (wait := self.delay(loop.time())) > 0:
            await asyncio.sleep(wait)
        self.use(loop.time())
