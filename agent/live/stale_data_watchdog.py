"""The dead-man switch: if no data arrive the core learns no time, so a heartbeat has to bring it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from math import inf
from typing import Final, Never

from agent.core.engine import Engine
from agent.system.clock import Clock

_LOOK: Final = 0.25  # seconds between two looks
_AGAIN: Final = 30.0  # seconds until a heartbeat that changed nothing is repeated


async def watch_for_stale_data(
    engine: Engine, clock: Clock, heartbeat: Callable[[], Awaitable[None]]
) -> Never:
    """Send a heartbeat when a symbol's data have gone stale or are back and the core doesn't know, or when the next step of closing
    a position is due; until cancelled.

    `heartbeat` returns once the core has handled it: what is stale is judged by the core, at its own time. If that time is ahead of the
    clock, a heartbeat can't move it, so it is the time that is judged by here too.
    """
    loop = asyncio.get_running_loop()
    idle: set[str] = set()  # symbols about which the last heartbeat changed nothing
    idle_at = -inf
    while True:
        await asyncio.sleep(_LOOK)
        if engine.risk.warming_up:
            continue
        now = max(clock.now(), engine.market.now)
        wrong = {
            symbol
            for symbol in engine.states
            if engine.is_stale(symbol, now) is not (symbol in engine.risk.stale)
        }
        if not wrong:
            idle = wrong
        if engine.flattener.due(now) or (wrong and (not wrong <= idle or loop.time() - idle_at >= _AGAIN)):
            before = set(engine.risk.stale)
            await heartbeat()
            idle, idle_at = wrong if engine.risk.stale == before else set(), loop.time()
