"""Requests to the venue: paused while it bans us, on a synchronised clock, retried if that is safe."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from agent.config.execution import TestnetConfig
from agent.core.errors import SafetyError
from agent.live.gateway.gateway_health import GatewayHealth
from agent.live.gateway.venue_port import ClockSkewError, OutcomeUnknown, PortError, RateLimited, VenuePort
from agent.system.backoff import delays
from agent.system.clock import Clock
from agent.system.clock_discipline import DisciplinedClock

_T = TypeVar("_T")
_log = structlog.get_logger(__name__)


class ThrottledClient:
    """A `VenuePort` with the policy that it lacks.

    All requests share one ban and one measurement of the venue's clock.
    """

    def __init__(
        self, port: VenuePort, config: TestnetConfig, clock: Clock, health: GatewayHealth, rng: random.Random
    ) -> None:
        self.port = port
        self.config = config
        self.clock = clock
        self.health = health
        self.clock_syncs = 0
        """How often the clock was synchronised."""
        self._rng = rng
        self._banned_until = 0.0  # of the event loop's clock
        self._syncing = asyncio.Lock()

    def venue_time(self) -> int:
        """Return the venue's time now, by the last measurement, UTC ms."""
        return self.clock.now() + self.health.skew

    async def wait_if_banned(self) -> None:
        """Wait until a ban of this address is over."""
        loop = asyncio.get_running_loop()
        while (wait := self._banned_until - loop.time()) > 0:
            await asyncio.sleep(wait)

    async def retry(self, request: Callable[[], Awaitable[_T]]) -> _T:
        """Repeat a request until it gets a response. The request must be harmless if it is carried out twice.

        Raises OrderRejected and AuthenticationError.
        """
        for wait in delays(self.config.retry, self._rng):
            await self.wait_if_banned()
            syncs = self.clock_syncs
            try:
                return await request()
            except (OutcomeUnknown, RateLimited, ClockSkewError) as error:
                await self.handle_error(error, syncs)
                if not isinstance(error, RateLimited):
                    await asyncio.sleep(wait)
        raise AssertionError("unreachable")  # the delays never end

    async def handle_error(self, error: PortError, syncs: int | None = None) -> None:
        """Do what an error requires before the next attempt: wait, or synchronise the clock.

        `syncs` is the value of `clock_syncs` when the request was sent.
        """
        self.health.failed(error.message, self.clock.now())
        if isinstance(error, RateLimited):
            self.health.slowed += 1
            if error.banned:
                _log.error("banned by the venue", seconds=round(error.wait, 1), reason=error.message)
                self._banned_until = max(self._banned_until, asyncio.get_running_loop().time() + error.wait)
            else:  # a random wait, so that waiting requests do not return all at once
                await asyncio.sleep(error.wait * (1 + self._rng.random()))
        elif isinstance(error, ClockSkewError):
            try:
                await self.sync_clock(syncs)
            except (OutcomeUnknown, RateLimited, ClockSkewError):  # the next attempt tries again
                await asyncio.sleep(self.config.retry.first / 1000)

    async def sync_clock(self, syncs: int | None = None) -> int:
        """Measure the venue's clock and stamp requests by it; return the difference in ms.

        If `syncs` differs from `clock_syncs`, another request has synchronised the clock since, and nothing
        is measured. Raises SafetyError if the difference exceeds `max_skew`, PortError if the venue does not
        respond.
        """
        async with self._syncing:
            if syncs is not None and syncs != self.clock_syncs:
                return self.health.skew
            disciplined = self.clock if isinstance(self.clock, DisciplinedClock) else None
            sent = 0.0 if disciplined is None else disciplined.steady()
            before = self.clock.now()
            theirs = await self.port.server_time()
            if disciplined is not None:
                disciplined.add_measurement(theirs, sent)
                # the request's time by the clock as it is now, which others may have corrected meanwhile
                before = round(self.clock.now() - (disciplined.steady() - sent))
            after = self.clock.now()
            skew = theirs - (before + after) // 2
            if abs(skew) <= (after - before + 1) // 2:  # within the measurement's own error
                skew = 0
            if abs(skew) > self.config.max_skew:
                relation = "behind" if skew > 0 else "ahead of"
                raise SafetyError(
                    f"this machine's clock is {abs(skew)} ms {relation} the venue's",
                    hint="synchronise it by NTP; execution.testnet.max_skew is what is corrected",
                )
            self.port.correct_clock(skew)
            self.health.skew = skew
            self.clock_syncs += 1
            return skew
