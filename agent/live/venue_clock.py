"""The market's time: the machine's, unless the venue is a sandbox on this machine that plays faster."""

from __future__ import annotations

import time
from typing import Final

import aiohttp
import msgspec
import structlog

from agent.system.addresses import is_loopback
from agent.system.clock import Clock, ScaledClock, WallClock
from agent.system.untrusted import JSON_DECODE_ERRORS

_PATIENCE: Final = aiohttp.ClientTimeout(total=3)
_LOOKS: Final = 3  # of which the one that took least counts
_log: Final = structlog.get_logger(__name__)


class _State(msgspec.Struct):
    """What of `/_sandbox/state` says how its time runs; `now` in UTC ms."""

    now: int
    speed: float


async def venue_clock(endpoint: str) -> Clock:
    """The clock that agrees with the venue at `endpoint`. Whoever isn't a sandbox, or doesn't answer, is taken to live in our time."""
    if not is_loopback(endpoint):
        return WallClock()
    # how long it took, the answer, and when (monotonic) it was true
    found: tuple[float, _State, float] | None = None
    try:
        async with aiohttp.ClientSession(timeout=_PATIENCE) as session:
            for _ in range(_LOOKS):
                asked = time.monotonic()
                async with session.get(f"{endpoint}/_sandbox/state", allow_redirects=False) as answer:
                    answer.raise_for_status()
                    state = msgspec.json.decode(await answer.read(), type=_State)
                took = time.monotonic() - asked
                if found is None or took < found[0]:
                    found = took, state, asked + took / 2
    except (aiohttp.ClientError, TimeoutError, *JSON_DECODE_ERRORS):
        return WallClock()
    if found is None or found[1].speed == 1:
        return WallClock()
    _, state, at = found
    _log.info("the venue's time is taken", speed=state.speed)
    return ScaledClock(state.now + round((time.monotonic() - at) * 1000 * state.speed), state.speed)
