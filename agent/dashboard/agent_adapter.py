"""Adapter between the daemon and the dashboard: state, health, commands."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Protocol

from agent.api.change_feed import ChangeFeed
from agent.config import Config
from agent.dashboard.dashboard_state import DashboardState
from agent.dashboard.page_rows import run_header
from agent.dashboard.replay_views import live_twin_row
from agent.live.interfaces.running_agent import RunningAgent
from agent.live.interfaces.status import Status

if TYPE_CHECKING:
    from agent.store.runs import Run

COMMANDS: Final = ("pause", "resume", "flatten", "kill", "use-strategy", "set-strategy")
"""Commands that have a button on the page."""


class AgentAdapter(Protocol):
    """A running agent as the dashboard server uses it. `state` is None until the agent's run begins."""

    state: DashboardState | None
    changes: ChangeFeed

    def status(self) -> Status | None:
        """Return the whole status; None before the agent's run begins."""
        ...

    def health(self) -> dict[str, Any]:
        """Return feeds, queue and latencies; empty before the agent's run begins."""
        ...

    async def command(self, action: str, args: dict[str, str], by: str) -> dict[str, Any]:
        """Have a command journalled and executed, and return its result."""
        ...


class DaemonAdapter:
    """Adapter to a daemon that has not been started yet, so that the state includes its run's first event."""

    def __init__(self, daemon: RunningAgent, config: Config) -> None:
        self.state: DashboardState | None = None
        self._daemon = daemon
        self._config = config
        self.changes = ChangeFeed(self._first_positions, config.api.stream_backlog)
        daemon.observe_run(self._begin)
        daemon.observe(self.changes)

    def _begin(self, run: Run) -> DashboardState:
        self.state = DashboardState(
            run_header(run, self._config), self._config, bars=self._config.dashboard.bars
        )
        return self.state

    def _first_positions(self) -> tuple[str, dict[str, Decimal]]:
        return self._daemon.run_id, {} if self.state is None else self.state.positions()

    def status(self) -> Status | None:
        return self._daemon.status() if self._daemon.started else None

    def health(self) -> dict[str, Any]:
        """Return the part of the daemon's status that the page shows."""
        if not self._daemon.started:
            return {}
        status = self._daemon.status()
        kinds = status.queue.kinds.values()
        return {
            "now": status.now,
            "uptime_s": status.uptime_s,
            "model": status.model[:12],
            "revising_model": status.revising_model[:12],
            "model_drift": status.model_drift,
            "twin": None if status.twin is None else live_twin_row(status.twin),
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
        """Pass the command to the daemon, like commands from any other source."""
        return await self._daemon.command(action, args, by)
