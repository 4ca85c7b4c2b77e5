"""The line to the venue: silent while the venue asks for silence, with the right time, and patient with questions."""

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
    """Asks the port. All who ask share its silence and its measure of the venue's clock."""

    def __init__(
        self, port: VenuePort, config: TestnetConfig, clock: Clock, health: GatewayHealth, rng: random.Random
    ) -> None:
        self.port = port
        self.config = config
        self.clock = clock
        self.health = health
        self.held: Callable[[], bool] = _never
        """Whether no order may be sent: the kill switch works at the venue, and the core does not know yet."""
        self._rng = rng
        self._silent_until = 0.0
        self._measuring = asyncio.Lock()
        self._measured = 0  # how often

    async def calm(self) -> None:
        """Wait while nothing may be asked."""
        loop = asyncio.get_running_loop()
        while (wait := self._silent_until - loop.time()) > 0:
            await asyncio.sleep(wait)

    async def ask(self, question: Callable[[], Awaitable[_T]]) -> _T:
        """Ask what changes nothing, or may be done twice, until it is answered. Raises Refused and AuthenticationError."""
        for wait in delays(self.config.retry, self._rng):
            await self.calm()
            measured = self._measured
            try:
                return await question()
            except (OutcomeUnknown, RateLimited, ClockSkewError) as error:
                await self.mend(error, measured)
                if not isinstance(error, RateLimited):
                    await asyncio.sleep(wait)
        raise AssertionError("unreachable")  # the waits go on for ever

    async def mend(self, error: PortError, measured: int | None = None) -> None:
        """Do what an error asks for before the next try: wait, or set the clock right."""
        self.health.failed(error.message, self.clock.now())
        if isinstance(error, RateLimited):
            self.health.slowed += 1
            if error.banned:
                _log.error("the venue wants silence", seconds=round(error.wait, 1), reason=error.message)
                self._silent_until = max(self._silent_until, asyncio.get_running_loop().time() + error.wait)
            else:
                # those who wait come back one by one
                await asyncio.sleep(error.wait * (1 + self._rng.random()))
        elif isinstance(error, ClockSkewError):
            try:
                await self.measure(measured)
            except (OutcomeUnknown, RateLimited, ClockSkewError):  # the next try will tell
                await asyncio.sleep(self.config.retry.first / 1000)

    async def measure(self, measured: int | None = None) -> int:
        """Set the clock by the venue's; the difference in ms. Raises SafetyError beyond `max_skew`, PortError without an answer.

        `measured` is how often it was measured when the error came that asks for it: of many that come at once one is enough.
        """
        async with self._measuring:
            if measured is not None and measured != self._measured:
                return self.health.skew
            disciplined = self.clock if isinstance(self.clock, DisciplinedClock) else None
            sent = 0.0 if disciplined is None else disciplined.steady()
            before = self.clock.now()
            theirs = await self.port.server_time()
            if disciplined is not None:
                disciplined.measured(theirs, sent)
                # as the clock is now, whatever corrected it
                before = round(self.clock.now() - (disciplined.steady() - sent))
            after = self.clock.now()
            skew = theirs - (before + after) // 2
            if abs(skew) <= (after - before + 1) // 2:  # no more than the measure's own error
                skew = 0
            if abs(skew) > self.config.max_skew:
                raise SafetyError(
                    f"this machine's clock is {abs(skew)} ms {'behind' if skew > 0 else 'ahead of'} the venue's",
                    hint="synchronise it by NTP; execution.testnet.max_skew is what is corrected",
                )
            self.port.correct_clock(skew)
            self.health.skew = skew
            self._measured += 1
            return skew

    @property
    def measured(self) -> int:
        """How often the clock was set."""
        return self._measured


def _never() -> bool:
    return False
