"""What a service manager hears of the agent: sd_notify(3), a datagram to the socket that it names. Nowhere else is anything sent.

The watchdog is fed by the answer to a question, not by a timer alone: as long as the event loop turns and the core takes events off the
queue. A core that hangs starves it, and systemd starts the agent again.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping
from typing import Final, Never

import structlog

from agent.live.interfaces.probes import why_dead
from agent.live.interfaces.running_agent import RunningAgent

_LOOK: Final = 1.0  # seconds between two looks, or less where the watchdog asks for it
_log: Final = structlog.get_logger(__name__)


class ServiceManager:
    """The one that started this process, if it wants to be told; `watchdog` is how often, in seconds, 0 where it doesn't care."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address  # an abstract socket
        mine = environment.get("WATCHDOG_PID", "") in ("", str(os.getpid()))
        microseconds = environment.get("WATCHDOG_USEC", "0")
        self.watchdog = int(microseconds) / 1e6 if mine and microseconds.isdecimal() else 0.0

    @property
    def listens(self) -> bool:
        """Whether there is one."""
        return bool(self._address)

    def tell(self, **state: str) -> None:
        """E.g. `READY="1"`. A manager that went away is no reason to stop."""
        if not self._address:
            return
        text = "\n".join(f"{key}={value}" for key, value in state.items())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
                out.setblocking(False)
                out.sendto(text.encode(), self._address)
        except OSError as error:
            _log.warning("the service manager can't be told", reason=str(error))


async def report(manager: ServiceManager, agent: RunningAgent) -> Never:
    """Until cancelled: READY once the agent can be spoken to, WATCHDOG while its core lives, STATUS for people."""
    told_ready, last = False, ""
    look = min(_LOOK, manager.watchdog / 3) if manager.watchdog else _LOOK
    stuck = int(max(manager.watchdog, 10.0) * 1000)
    try:
        while True:
            await asyncio.sleep(look)
            if not agent.started:
                manager.tell(WATCHDOG="1")  # still starting, which systemd's TimeoutStartSec is for
                continue
            if not told_ready:
                told_ready = True
                manager.tell(READY="1")
            dead = why_dead(agent, stuck)
            if dead:
                _log.error("the watchdog isn't fed", reason=dead[0])
            else:
                manager.tell(WATCHDOG="1")
            words = _words(agent)
            if words != last:
                last = words
                manager.tell(STATUS=words)
    finally:
        manager.tell(STOPPING="1", STATUS="stopping")


def _words(agent: RunningAgent) -> str:
    status = agent.status()
    if not status.storage.writable:
        return f"nothing is traded: {status.storage.error}"
    warming = "warming up, " if status.warming_up else ""
    return f"{warming}{status.strategy}, equity {status.equity:,.2f}, risk {status.risk.value}"
