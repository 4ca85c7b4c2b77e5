"""Publishes every decision as it is made, and the agent's state at intervals."""

from __future__ import annotations

import asyncio

from agent.config.services import MqttConfig
from agent.core.events import Decision, Event
from agent.live.interfaces.producer import Emit
from agent.live.interfaces.running_agent import RunningAgent
from agent.live.interfaces.status import Status
from agent.live.services.mqtt.connection import LinkHealth, MqttLink, RetainedPresence
from agent.live.services.mqtt.mqtt_messages import (
    RETAINED,
    AgentHealth,
    Decided,
    Equity,
    Presence,
    SourceHealth,
    Topics,
)
from agent.system.clock import Clock


class Publisher:
    """An observer, and the companion that maintains the connection.

    Messages that the broker is too slow for are dropped, oldest first, and counted.
    """

    name = "mqtt"

    def __init__(self, config: MqttConfig, agent: RunningAgent, clock: Clock) -> None:
        self.topics = Topics(config.prefix)
        # stable, so that a new connection ends the old one, whose last will would otherwise arrive after
        # `online`
        self.link = MqttLink(config, clock, f"{config.prefix}-agent", self._presence)
        self._every = config.state_every / 1000
        self._agent = agent

    @property
    def health(self) -> LinkHealth:
        return self.link.health

    def event(self, seq: int, event: Event) -> None:
        """Ignore events: inputs are available at their sources."""

    def decision(self, seq: int, decision: Decision) -> None:
        topic = self.topics.decision(decision)
        if topic is not None:
            message = Decided(self._agent.run_id, seq, decision)
            self.link.outbox.put(topic, message, retain=type(decision) in RETAINED)

    async def run(self, emit: Emit) -> None:
        """Publish until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._publish_state_periodically())
            await self.link.run(emit)

    async def _publish_state_periodically(self) -> None:
        while True:
            self._publish_state(self._agent.status())
            await asyncio.sleep(self._every)

    def _publish_state(self, status: Status) -> None:
        put = self.link.outbox.put
        put(self.topics.equity, equity_of(status), retain=True, latest=True)
        put(self.topics.health, health_of(status), retain=True, latest=True)

    def _presence(self) -> RetainedPresence:
        run = self._agent.run_id
        return RetainedPresence(
            self.topics.agent, Presence(state="online", run=run), Presence(state="offline", run=run)
        )


def equity_of(status: Status) -> Equity:
    """Make the message about the account."""
    return Equity(
        run=status.run,
        at=status.now,
        equity=status.equity,
        cash=status.cash,
        exposure=sum(abs(one.value) for one in status.positions),
        drawdown=status.drawdown,
        risk=status.risk,
        risk_rule=status.risk_rule,
        positions={one.symbol: one.qty for one in status.positions if one.qty},
    )


def health_of(status: Status) -> AgentHealth:
    """Make the message about the agent. It has no error texts, since these may contain secrets."""
    return AgentHealth(
        run=status.run,
        at=status.now,
        warming_up=status.warming_up,
        model=status.model,
        events=status.events,
        decisions=status.decisions,
        queue_depth=status.queue.depth,
        sources=[
            SourceHealth(row["name"], row["state"], row["last_message_at"], row["errors"], row["failures"])
            for row in status.producers
        ],
    )
