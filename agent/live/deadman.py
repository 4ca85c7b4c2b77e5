"""The dead-man switch: where no data arrive the core hears no time, so somebody has to tell it how late it is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Never

from agent.clock import Clock
from agent.engine import Engine

_LOOK: Final = 0.25  # seconds between two looks


async def watch_silence(engine: Engine, clock: Clock, heartbeat: Callable[[], Awaitable[None]]) -> Never:
    """Send a heartbeat whenever a symbol's data have gone stale or are back, and the core doesn't know, or when the next step
    of closing a position is due; until cancelled.

    `heartbeat` returns once the core has handled it: what is stale is for the core to judge, by what it has heard until then.
    """
    while True:
        await asyncio.sleep(_LOOK)
        if engine.risk.warming:
            continue
        now = clock.now()
        stale = any(engine.silent(symbol, now) is not (symbol in engine.risk.stale) for symbol in engine.tapes)
        if stale or engine.flattener.due(now):
            await heartbeat()
