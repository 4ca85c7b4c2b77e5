"""Liveness and readiness of the running agent: restart it if it is dead, trade only while it is ready."""

from __future__ import annotations

from agent.core.durations import format_duration
from agent.live.interfaces.running_agent import RunningAgent
from agent.live.interfaces.status import Status


def why_dead(agent: RunningAgent, stuck_after: int) -> list[str]:
    """Return why the agent should be restarted: an event has waited for `stuck_after` ms. Empty while it is
    alive.
    """
    waited = int(agent.stuck_for * 1000)
    return (
        [f"an event has waited for {format_duration(waited)}: the core hangs"]
        if waited >= stuck_after
        else []
    )


def why_not_ready(agent: RunningAgent) -> list[str]:
    """Return why the agent can't trade now: warm-up, a source that isn't live, store or clock."""
    return problems_of(agent.status())


def problems_of(status: Status) -> list[str]:
    """Return why an agent with this status can't trade; empty if it can."""
    reasons = ["warming up"] if status.warming_up else []
    reasons += [
        f"{row['name']} is {row['state']}"
        for row in status.producers
        if row["vital"] and row["state"] != "live"
    ]
    if not status.storage.writable:
        reasons.append(f"the store can't be written: {status.storage.error}")
    if status.clock.trouble:
        reasons.append(f"clock: {status.clock.detail}")
    return reasons
