"""The market's time: the system clock, unless the venue is a local sandbox that runs faster."""

from __future__ import annotations

import asyncio
import time
from typing import Final

import aiohttp
import msgspec
import structlog

from agent.system.addresses import is_loopback
from agent.system.clock import Clock, ScaledClock, WallClock
from agent.system.http_timeouts import NO_TOTAL
from agent.system.untrusted import JSON_DECODE_ERRORS

_TIMEOUT: Final = 3.0  # seconds for each attempt
_ATTEMPTS: Final = 3  # the fastest one counts
_log: Final = structlog.get_logger(__name__)


class _State(msgspec.Struct):
    """The fields of `/_sandbox/state` that define its time; `now` in UTC ms."""

    now: int
    speed: float


async def venue_clock(endpoint: str) -> Clock:
    """Return the clock of the venue at `endpoint`; anything but a responding sandbox has the system's
    time.
    """
    if not is_loopback(endpoint):
        return WallClock()
    # round trip, response, and the monotonic time for which it holds
    found: tuple[float, _State, float] | None = None
    try:
        async with aiohttp.ClientSession(timeout=NO_TOTAL) as session:
            for _ in range(_ATTEMPTS):
                sent = time.monotonic()
                async with (
                    asyncio.timeout(_TIMEOUT),
                    session.get(f"{endpoint}/_sandbox/state", allow_redirects=False) as response,
                ):
                    response.raise_for_status()
                    state = msgspec.json.decode(await response.read(), type=_State)
                took = time.monotonic() - sent
                if found is None or took < found[0]:
                    found = took, state, sent + took / 2
    except (aiohttp.ClientError, TimeoutError, *JSON_DECODE_ERRORS):
        return WallClock()
    if found is None or found[1].speed == 1:
        return WallClock()
    _, state, at = found
    _log.info("using the sandbox's time", speed=state.speed)
    return ScaledClock(state.now + round((time.monotonic() - at) * 1000 * state.speed), state.speed)
