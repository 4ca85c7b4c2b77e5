"""The agent's time: synchronised with the venue at the start, then monitored, with an alarm if sources
disagree.
"""

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
_RETRY: Final = 0.5  # seconds between two attempts at the start
_MEASUREMENTS: Final = 2  # at the start: the first one's round trip includes making the connection
_POLL: Final = 1.0  # seconds between two checks
_ALARM_INTERVAL: Final = 5.0  # seconds between two alarms
_MOST_AHEAD: Final = 60_000  # ms by which a run's time may be ahead of the clock
_log: Final = structlog.get_logger(__name__)


class Timekeeper:
    """Synchronises a `DisciplinedClock`; any other clock, such as a sandbox's, is used unchanged."""

    def __init__(self, clock: Clock, config: Config) -> None:
        self._clock = clock if isinstance(clock, DisciplinedClock) else None
        self._config = config

    async def begin(self) -> None:
        """Measure the venue's time before the first event. If the venue doesn't respond, use the system clock
        for now.
        """
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
                            await history.sync_clock()
                            measured += 1
                        except VenueError as error:
                            reason = error.message
                            await asyncio.sleep(_RETRY)
            except TimeoutError:
                if not measured:
                    _log.warning("the venue's time is unknown: the system clock is used", reason=reason)

    def latest(self) -> int | None:
        """Return the UTC ms that the core's time must not pass now; None while the time is not confirmed."""
        return sys.maxsize if self._clock is None else self._clock.latest(self._config.bybit.max_ahead)

    def status(self, memory: ResumePoint) -> ClockStatus:
        """Compare the sources of time with each other and with the run's time."""
        if self._clock is None:
            return ClockStatus()
        status = self._clock.check()
        ahead = memory.now - self._clock.now()
        if ahead <= _MOST_AHEAD:
            return status
        offset = describe_offset(ahead)
        problem = f"the run's time is {offset} the agent's: entries are rejected as stale until then"
        hint = "`tapewire run --new` begins another run"
        return replace(status, trouble="run", detail="; ".join(filter(None, (problem, hint, status.detail))))

    async def watch(self, memory: ResumePoint, alarm: Callable[[str], Awaitable[None]]) -> Never:
        """Raise an alarm when a source deviates, when all agree again, and when the time is stepped; until
        cancelled.
        """
        loop = asyncio.get_running_loop()
        before, alarmed_at = ClockStatus(steps=self.status(memory).steps), -_ALARM_INTERVAL
        while True:
            status = self.status(memory)
            stepped = status.steps != before.steps
            if (status.trouble != before.trouble or stepped) and loop.time() - alarmed_at >= _ALARM_INTERVAL:
                changes = ["the agent's time was stepped to the venue's"] if stepped else []
                changes.append(status.detail or "the clocks agree")
                before, alarmed_at = status, loop.time()
                detail = "; ".join(changes)
                log = _log.warning if status.trouble or stepped else _log.info
                log(
                    "clock",
                    trouble=status.trouble,
                    detail=detail,
                    system_ms=status.system_ms,
                    venue_ms=status.venue_ms,
                )
                await alarm(detail)
            await asyncio.sleep(_POLL)
