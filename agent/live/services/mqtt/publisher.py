"""What the agent tells the broker: every decision as it is made, and its state at a steady pace."""

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
    """A observer, and the companion that keeps the link up. What the broker is too slow for is dropped, oldest first, and counted."""

    name = "mqtt"

    def __init__(self, config: MqttConfig, agent: RunningAgent, clock: Clock) -> None:
        self.topics = Topics(config.prefix)
        # A stable identifier: a new connection then ends the old one, whose will would else come after our greeting
        self.link = MqttLink(config, clock, f"{config.prefix}-agent", self._standing)
        self._every = config.state_every / 1000
        self._agent = agent

    @property
    def health(self) -> LinkHealth:
        """A snapshot."""
        return self.link.health

    def event(self, seq: int, event: Event) -> None:
        """Inputs are everybody's to read at their sources."""

    def decision(self, seq: int, decision: Decision) -> None:
        """Goes out."""
        topic = self.topics.decision(decision)
        if topic is not None:
            message = Decided(self._agent.run_id, seq, decision)
            self.link.outbox.put(topic, message, retain=type(decision) in RETAINED)

    async def run(self, emit: Emit) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._tick())
            await self.link.run(emit)

    async def _tick(self) -> None:
        while True:
            self._say(self._agent.status())
            await asyncio.sleep(self._every)

    def _say(self, status: Status) -> None:
        put = self.link.outbox.put
        put(self.topics.equity, equity_of(status), retain=True, latest=True)
        put(self.topics.health, health_of(status), retain=True, latest=True)

    def _standing(self) -> RetainedPresence:
        run = self._agent.run_id
        return RetainedPresence(
            self.topics.agent, Presence(state="online", run=run), Presence(state="offline", run=run)
        )


def equity_of(status: Status) -> Equity:
    """The account."""
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
    """How it is. Errors stay in the log: their words may hold what isn't everybody's."""
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
