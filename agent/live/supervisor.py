"""The supervision boundary: a producer that fails is restarted, and doesn't affect the others."""

from __future__ import annotations

import asyncio
import random
from typing import Final, Never

import msgspec
import structlog

from agent.live.interfaces.producer import Emit, Producer, shown
from agent.system.backoff import BackoffConfig, Reconnection
from agent.system.clock import Clock

_log: Final = structlog.get_logger(__name__)


class Supervision(msgspec.Struct):
    """Starts and failures of a producer; times are UTC ms, 0 for never."""

    name: str
    vital: bool = True  # the agent can't trade without it; companions are not vital
    starts: int = 0
    failures: int = 0
    last_failure: str = ""
    last_failure_at: int = 0


async def supervise(
    producer: Producer,
    emit: Emit,
    policy: BackoffConfig,
    clock: Clock,
    supervision: Supervision,
    rng: random.Random,
) -> Never:
    """Run `producer` until cancelled; if it fails or ends, restart it after a wait."""
    loop = asyncio.get_running_loop()
    restart = Reconnection(policy, rng)
    while True:
        supervision.starts += 1
        began = loop.time()
        try:
            await producer.run(emit)
            reason, trace = "ended", None
        except Exception as error:  # noqa: BLE001 - the supervision boundary
            reason, trace = f"{type(error).__name__}: {shown(error)}", error
        wait = restart.after(loop.time() - began)
        supervision.failures += 1
        supervision.last_failure, supervision.last_failure_at = reason, clock.now()
        _log.error(
            "producer failed",
            producer=producer.name,
            reason=reason,
            restart_in_s=round(wait, 3),
            exc_info=trace,
        )
        await asyncio.sleep(wait)
