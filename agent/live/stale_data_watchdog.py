"""Heartbeats for the core: without data it learns no time, and can't notice that the data are stale."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from math import inf
from typing import Final, Never

from agent.core.trading_engine import TradingEngine
from agent.system.clock import Clock

_POLL: Final = 0.25  # seconds between two checks
_REPEAT: Final = 30.0  # seconds until a heartbeat that changed nothing is repeated


async def watch_for_stale_data(
    engine: TradingEngine, clock: Clock, heartbeat: Callable[[], Awaitable[None]]
) -> Never:
    """Send heartbeats until cancelled, as often as the core needs them.

    A heartbeat is due if a symbol's data have gone stale or are back and the core doesn't know it, or if the
    next step of closing a position is due. `heartbeat` returns once the core has handled it. The core judges
    staleness at its own time; if that is ahead of the clock, a heartbeat can't move it, so this function uses
    the later of both.
    """
    loop = asyncio.get_running_loop()
    idle: set[str] = set()  # symbols whose staleness the last heartbeat didn't change
    idle_at = -inf
    while True:
        await asyncio.sleep(_POLL)
        if engine.risk.warming_up:
            continue
        now = max(clock.now(), engine.market.now)
        outdated = engine.outdated(now)
        if not outdated:
            idle = outdated
        if engine.is_heartbeat_due(now) or (
            outdated and (not outdated <= idle or loop.time() - idle_at >= _REPEAT)
        ):
            await heartbeat()
            idle, idle_at = outdated if engine.outdated(now) == outdated else set(), loop.time()
