"""Notifies the service manager by sd_notify(3), a datagram to the socket that it names.

The watchdog is fed only while the event loop runs and the core takes events off the queue. If the core hangs,
systemd restarts the agent.
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

_POLL: Final = 1.0  # seconds between two notifications, or less if the watchdog needs it
_log: Final = structlog.get_logger(__name__)


class ServiceManager:
    """The service manager that started this process, if any.

    `watchdog` is the interval in seconds in which it expects to be notified; 0 if it has no watchdog.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address  # an abstract socket
        for_us = environment.get("WATCHDOG_PID", "") in ("", str(os.getpid()))
        microseconds = environment.get("WATCHDOG_USEC", "0")
        self.watchdog = int(microseconds) / 1e6 if for_us and microseconds.isdecimal() else 0.0

    @property
    def present(self) -> bool:
        """True if the process was started by a service manager."""
        return bool(self._address)

    def notify(self, **state: str) -> None:
        """Send a state, such as `READY="1"`; a failure is only logged."""
        if not self._address:
            return
        text = "\n".join(f"{key}={value}" for key, value in state.items())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
                out.setblocking(False)
                out.sendto(text.encode(), self._address)
        except OSError as error:
            _log.warning("the service manager can't be notified", reason=str(error))


async def notify_service_manager(manager: ServiceManager, agent: RunningAgent) -> Never:
    """Notify until cancelled: READY once the agent accepts commands, WATCHDOG while its core runs, STATUS as
    text.
    """
    ready_sent, last = False, ""
    interval = min(_POLL, manager.watchdog / 3) if manager.watchdog else _POLL
    stuck = int(max(manager.watchdog, 10.0) * 1000)
    try:
        while True:
            await asyncio.sleep(interval)
            if not agent.started:
                manager.notify(WATCHDOG="1")  # systemd's TimeoutStartSec limits the start
                continue
            if not ready_sent:
                ready_sent = True
                manager.notify(READY="1")
            dead = why_dead(agent, stuck)
            if dead:
                _log.error("the watchdog isn't fed", reason=dead[0])
            else:
                manager.notify(WATCHDOG="1")
            line = _status_line(agent)
            if line != last:
                last = line
                manager.notify(STATUS=line)
    finally:
        manager.notify(STOPPING="1", STATUS="stopping")


def _status_line(agent: RunningAgent) -> str:
    status = agent.status()
    if not status.storage.writable:
        return f"nothing is traded: {status.storage.error}"
    warming = "warming up, " if status.warming_up else ""
    return f"{warming}{status.strategy}, equity {status.equity:,.2f}, risk {status.risk.value}"
