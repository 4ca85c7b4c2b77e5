"""The running agent, as the page needs it: its picture, its health, and its ear for commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from agent.config import Config
from agent.dashboard.picture import Picture
from agent.dashboard.views import head_of
from agent.live.interfaces.running_agent import RunningAgent

if TYPE_CHECKING:
    from agent.store.runs import Run

COMMANDS: Final = ("pause", "resume", "flatten", "kill")
"""What the page has buttons for."""


class Agent(Protocol):
    """What the server asks of whoever it serves."""

    picture: Picture | None

    def health(self) -> dict[str, Any]:
        """Feeds, queue and latencies; empty before the agent lives."""
        ...

    async def command(self, action: str, args: dict[str, str], by: str) -> dict[str, Any]:
        """Journalled and handled; what it led to."""
        ...


class LiveAgent:
    """A daemon that was not run yet: its picture begins with its run's first event."""

    def __init__(self, daemon: RunningAgent, config: Config) -> None:
        self.picture: Picture | None = None
        self._daemon = daemon
        self._config = config
        daemon.observe_run(self._begin)

    def _begin(self, run: Run) -> Picture:
        self.picture = Picture(head_of(run, self._config), self._config, bars=self._config.dashboard.bars)
        return self.picture

    def health(self) -> dict[str, Any]:
        """A part of the daemon's status."""
        if not self._daemon.started:
            return {}
        status = self._daemon.status()
        kinds = status.queue.kinds.values()
        return {
            "now": status.now,
            "uptime_s": status.uptime_s,
            "model": status.model[:12],
            "sources": status.producers,
            "feeds": status.feeds,
            "queue": {
                "depth": status.queue.depth,
                "high_water": status.queue.high_water,
                "blocked": status.queue.blocked,
                "coalesced": sum(kind.coalesced for kind in kinds),
                "dropped": sum(kind.dropped for kind in kinds),
            },
            "storage": status.storage,
            "listeners": status.listeners,
            "latencies": status.latencies,
            "overdue": {one.symbol: one.overdue_ms for one in status.positions if one.overdue_ms},
        }

    async def command(self, action: str, args: dict[str, str], by: str) -> dict[str, Any]:
        """Through the daemon, like any other."""
        return await self._daemon.command(action, args, by)
