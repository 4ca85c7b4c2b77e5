"""Two questions of an orchestrator. Alive: start it again if not. Ready: is it fit to trade right now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.core.durations import format_duration

if TYPE_CHECKING:
    from agent.live.daemon import Daemon


def why_dead(agent: Daemon, stuck_after: int) -> list[str]:
    """Empty while the core's loop turns: no event has waited for `stuck_after` ms, unless the store can't be written.

    That the question is answered proves the rest.
    """
    if agent.core.storage.failing.is_set():
        return []  # it waits for the store, and says so
    waited = int(agent.queue.longest_wait * 1000)
    return (
        [f"an event has waited for {format_duration(waited)}: the core hangs"]
        if waited >= stuck_after
        else []
    )


def why_not_ready(agent: Daemon) -> list[str]:
    """Empty where the agent is warm, its sources are live and its store takes what it writes."""
    status = agent.status()
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
