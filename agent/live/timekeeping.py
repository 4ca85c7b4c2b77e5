"""The agent's time at the start of a life and during it: confirmed by the venue, watched, and an alarm if the sources disagree."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Final, Never

import structlog
from msgspec.structs import replace

from agent.config import Config
from agent.config.bybit import REQUEST_WINDOW
from agent.core.errors import VenueError
from agent.live.market_data.backfill import KlineHistory
from agent.live.resume import ResumePoint
from agent.system.backoff import Budget
from agent.system.clock import Clock
from agent.system.clock_discipline import ClockStatus, DisciplinedClock, describe_offset

_START_WITHIN: Final = 5.0  # seconds that a start waits for the venue's time
_RETRY: Final = 0.5  # seconds between two tries then
_MEASUREMENTS: Final = 2  # at the start: the first one's round trip includes making the connection
_LOOK: Final = 1.0  # seconds between two checks
_APART: Final = 5.0  # seconds between two alarms
_FAR: Final = 60_000  # ms by which a run's time may be ahead of the clock
_log: Final = structlog.get_logger(__name__)


class Timekeeper:
    """Keeps a `DisciplinedClock`; any other clock, such as a sandbox's, is used unchanged."""

    def __init__(self, clock: Clock, config: Config) -> None:
        self._clock = clock if isinstance(clock, DisciplinedClock) else None
        self._config = config

    async def begin(self) -> None:
        """Measure the venue's time before anything is stamped. If the venue doesn't respond in time, trust the system clock for now."""
        if self._clock is None:
            return
        market, bybit = self._config.market, self._config.bybit
        async with KlineHistory(
            bybit, market.category, self._clock, Budget(bybit.max_requests, REQUEST_WINDOW)
        ) as history:
            reason = "no answer in time"
            measured = 0
            try:
                async with asyncio.timeout(_START_WITHIN):
                    while measured < _MEASUREMENTS:
                        try:
                            await history.measure()
                            measured += 1
                        except VenueError as error:
                            reason = error.message
                            await asyncio.sleep(_RETRY)
            except TimeoutError:
                if not measured:
                    _log.warning("the venue's time is not known: the system clock is believed", reason=reason)

    def latest(self) -> int | None:
        """UTC ms that the core's time must not pass now; None while the time is not confirmed."""
        return sys.maxsize if self._clock is None else self._clock.latest(self._config.bybit.max_ahead)

    def status(self, memory: ResumePoint) -> ClockStatus:
        """Compare the sources, and the run's time with them."""
        if self._clock is None:
            return ClockStatus()
        status = self._clock.check()
        ahead = memory.now - self._clock.now()
        if ahead <= _FAR:
            return status
        words = f"the run's time is {describe_offset(ahead)} the agent's: its entries are refused as stale until then"
        hint = "`tapewire run --new` begins another run"
        return replace(status, trouble="run", detail="; ".join(filter(None, (words, hint, status.detail))))

    async def watch(self, memory: ResumePoint, alarm: Callable[[str], Awaitable[None]]) -> Never:
        """Until cancelled, raise an alarm if another source is wrong, if all agree again, and if the time was moved."""
        loop = asyncio.get_running_loop()
        before, told_at = ClockStatus(steps=self.status(memory).steps), -_APART
        while True:
            status = self.status(memory)
            moved = status.steps != before.steps
            if (status.trouble != before.trouble or moved) and loop.time() - told_at >= _APART:
                words = ["the agent's time was moved to the venue's"] if moved else []
                words.append(status.detail or "the clocks agree")
                before, told_at = status, loop.time()
                detail = "; ".join(words)
                log = _log.warning if status.trouble or moved else _log.info
                log(
                    "clock",
                    trouble=status.trouble,
                    detail=detail,
                    system_ms=status.system_ms,
                    venue_ms=status.venue_ms,
                )
                await alarm(detail)
            await asyncio.sleep(_LOOK)
