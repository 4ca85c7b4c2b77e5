"""Selects what happens in the agent that its operator should know."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import structlog
from msgspec import UNSET

from agent.config.services import NotifyConfig
from agent.core.events import (
    DAY_MS,
    Command,
    Decision,
    Event,
    Fill,
    FillKind,
    Notice,
    RiskEvent,
    RiskState,
    StrategyChange,
)
from agent.core.risk import FLATTEN, OLDER_RECORD, TAKEN_ID
from agent.core.strategy_version import label_of
from agent.live.interfaces.producer import Emit, Health
from agent.live.interfaces.running_agent import RunningAgent
from agent.live.interfaces.status import Status
from agent.live.services.notifications.apprise_sender import AppriseSender
from agent.live.services.notifications.batcher import Notification, NotificationBatcher
from agent.system.clock import Clock, iso
from agent.system.secret import Secret

_POLL: Final = 1.0  # seconds between two checks of the agent
_CLOSE_TIMEOUT: Final = 5.0  # seconds for the last notification
_IDLE: Final = ("disabled", "stopped")  # states of a source that are not a failure
_ALARMS: Final = (FLATTEN, OLDER_RECORD, TAKEN_ID)
"""Rules that need an operator in any state."""
_log: Final = structlog.get_logger(__name__)


class NotifyHealth(Health):
    """`Health` of the notifications; messages are those delivered to at least one address."""

    failed_deliveries: int = 0


class Notifier:
    """An observer of commands, fills and risk, and a companion that polls sources, storage and the day's
    equity.

    It never blocks the core.
    """

    name = "notify"

    def __init__(
        self, config: NotifyConfig, urls: Sequence[Secret], agent: RunningAgent, clock: Clock
    ) -> None:
        self._config = config
        self._agent = agent
        self._clock = clock
        self._batcher = NotificationBatcher(config)
        self._sender = AppriseSender(urls, config.timeout / 1000)
        self._health = NotifyHealth(self.name)
        self._down: dict[str, float] = {}  # source -> event loop's time since which it isn't live
        self._reported_down: set[str] = set()
        self._stored = True
        self._day = -1
        self._open_equity = 0.0
        self._fills = 0
        self._fees = 0.0

    @property
    def health(self) -> NotifyHealth:
        return self._health

    # -- events and decisions -------------------------------------------------------------------------

    def event(self, seq: int, event: Event) -> None:
        """Report operators' commands."""
        if isinstance(event, Command) and event.action in ("kill", "halt", "pause", "resume", "flatten"):
            self._add_risk(f"{event.action} by {event.by or 'unknown'}", urgent=event.action == "kill")

    def decision(self, seq: int, decision: Decision) -> None:
        """Report fills, changes of risk and of the strategy, and its messages."""
        if isinstance(decision, Fill) and decision.kind is not FillKind.FEE:
            self._fills += 1
            self._fees += float(decision.fee)
            own = "" if decision.sleeve is UNSET else f"{decision.sleeve}: "
            inside = " internally" if decision.kind is FillKind.INTERNAL else ""
            self._batcher.add(
                "fills",
                f"{own}{decision.side.value} {decision.qty} {decision.symbol} at {decision.price}{inside}",
                self._now(),
            )
        elif isinstance(decision, RiskEvent):
            where = f" in {decision.symbol}" if decision.symbol else ""
            whose = "risk" if decision.sleeve is UNSET else f"risk of sleeve {decision.sleeve}"
            line = f"{whose} is {decision.state.value} by {decision.rule}{where}: {decision.detail}"
            line = line.rstrip(": ")
            if decision.rule in ("drift", "unreconciled"):
                self._batcher.add("gateway", line, self._now(), urgent=True)
            else:
                self._add_risk(line, urgent=decision.state is RiskState.HALTED or decision.rule in _ALARMS)

        elif isinstance(decision, Notice):
            line = decision.text if decision.level == "info" else f"{decision.level}: {decision.text}"
            line = line if decision.sleeve is UNSET else f"{decision.sleeve}: {line}"
            self._batcher.add("strategy", line, self._now(), urgent=decision.level == "error")
        elif isinstance(decision, StrategyChange):
            name = f"{label_of(decision.strategy, decision.class_name)} {decision.sha256[:12]}".rstrip()
            self._add_risk(f"strategy {name} decides, by {decision.by or 'unknown'}", urgent=False)

    def _add_risk(self, line: str, *, urgent: bool) -> None:
        self._batcher.add("risk", line, self._now(), urgent=urgent)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    # -- polling --------------------------------------------------------------------------------------

    async def run(self, emit: Emit) -> None:
        """Poll the agent and send what is due until cancelled, then report the end."""
        self._health.state = "live"
        status = self._agent.status()
        self._batcher.add(
            "lifecycle",
            f"run {status.run} is live: {status.strategy}, equity {status.equity:,.2f}",
            self._now(),
        )
        try:
            while True:
                self._check_agent(self._agent.status())
                await self._send(self._batcher.due(self._now()))
                await asyncio.sleep(_POLL)
        finally:
            self._health.state = "stopped"
            status = self._agent.status()
            self._batcher.add(
                "lifecycle", f"run {status.run} ended: equity {status.equity:,.2f}", self._now()
            )
            with suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_TIMEOUT):
                    await asyncio.shield(self._send(self._batcher.due(self._now(), closing=True)))
            self._sender.close()

    def _check_agent(self, status: Status) -> None:
        now = self._now()
        self._check_sources(
            {row["name"]: row["state"] for row in status.producers if row["name"] != self.name}, now
        )
        if status.storage.writable is not self._stored:
            self._stored = status.storage.writable
            line = (
                "the store can be written again"
                if self._stored
                else f"nothing is traded: {status.storage.error}"
            )
            self._batcher.add("storage", line, now, urgent=not self._stored)
        if status.warming_up:
            return
        day = self._clock.now() // DAY_MS
        if day != self._day:
            if self._day >= 0:
                change = status.equity - self._open_equity
                self._batcher.add(
                    "summary",
                    f"{iso(self._day * DAY_MS)[:10]}: equity {status.equity:,.2f} ({change:+,.2f}), "
                    f"{self._fills:,} fills, "
                    f"fees {self._fees:,.2f}, risk {status.risk.value}",
                    now,
                )
            self._day, self._open_equity, self._fills, self._fees = day, status.equity, 0, 0.0

    def _check_sources(self, states: dict[str, str], now: float) -> None:
        for name, state in states.items():
            if state == "live":
                self._down.pop(name, None)
                if name in self._reported_down:
                    self._reported_down.remove(name)
                    self._batcher.add("feeds", f"{name} is back", now)
            elif state not in _IDLE:
                since = self._down.setdefault(name, now)
                if name not in self._reported_down and now - since >= self._config.feed_down_after / 1000:
                    self._reported_down.add(name)
                    self._batcher.add(
                        "feeds", f"{name} is down: {state} for {now - since:,.0f} s", now, urgent=True
                    )

    async def _send(self, notification: Notification | None) -> None:
        if notification is None:
            return
        loop = asyncio.get_running_loop()
        deliveries = await loop.run_in_executor(self._sender.thread, self._sender.send, notification)
        self._health.messages += any(one.delivered for one in deliveries)
        for one in deliveries:
            if not one.delivered:
                self._health.failed_deliveries += 1
                self._health.failed(f"{one.service}: not delivered", self._clock.now())
                _log.warning("not delivered", service=one.service, title=notification.title)
