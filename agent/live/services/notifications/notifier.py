"""What of a running agent a person wants to hear of, wherever they are."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import structlog

from agent.config.services import NotifyConfig
from agent.core.events import DAY_MS, Command, Decision, Event, Fill, FillKind, RiskEvent, RiskState
from agent.core.risk import FLATTEN, OLDER_RECORD, TAKEN_ID
from agent.live.interfaces.producer import Emit, Health
from agent.live.interfaces.running_agent import RunningAgent
from agent.live.interfaces.status import Status
from agent.live.services.notifications.apprise_sender import AppriseSender
from agent.live.services.notifications.batcher import Notification, NotificationBatcher
from agent.system.clock import Clock, iso
from agent.system.secret import Secret

_LOOK: Final = 1.0  # seconds between two looks at the agent
_FAREWELL: Final = 5.0  # seconds for the last message
_IDLE: Final = ("disabled", "stopped")  # sources that nobody expects anything of
_ALARMS: Final = (FLATTEN, OLDER_RECORD, TAKEN_ID)
"""Rules that need a person, whatever the state."""
_log: Final = structlog.get_logger(__name__)


class NotifyHealth(Health):
    """`Health` of the notifications; messages are those that were delivered, at one address at least."""

    failed_deliveries: int = 0


class Notifier:
    """A observer, and the companion that looks after what isn't an event: sources, storage, the day. It never holds anybody up."""

    name = "notify"

    def __init__(
        self, config: NotifyConfig, urls: Sequence[Secret], agent: RunningAgent, clock: Clock
    ) -> None:
        self._config = config
        self._agent = agent
        self._clock = clock
        self._mailbox = NotificationBatcher(config)
        self._courier = AppriseSender(urls, config.timeout / 1000)
        self._health = NotifyHealth(self.name)
        self._down: dict[str, float] = {}  # source -> since when (event loop's clock) it hasn't been live
        self._told_down: set[str] = set()
        self._stored = True
        self._day = -1
        self._open_equity = 0.0
        self._fills = 0
        self._fees = 0.0

    @property
    def health(self) -> NotifyHealth:
        """A snapshot."""
        return self._health

    # -- what happens ------------------------------------------------------------------------------------------------

    def event(self, seq: int, event: Event) -> None:
        """A person's words are worth telling to the others."""
        if isinstance(event, Command) and event.action in ("kill", "halt", "pause", "resume", "flatten"):
            self._add_risk(f"{event.action} by {event.by or 'somebody'}", urgent=event.action == "kill")

    def decision(self, seq: int, decision: Decision) -> None:
        """Fills, and what risk decides."""
        if isinstance(decision, Fill) and decision.kind is not FillKind.FEE:
            self._fills += 1
            self._fees += float(decision.fee)
            self._mailbox.add(
                "fills",
                f"{decision.side.value} {decision.qty} {decision.symbol} at {decision.price}",
                self._now(),
            )
        elif isinstance(decision, RiskEvent):
            where = f" in {decision.symbol}" if decision.symbol else ""
            line = f"risk is {decision.state.value} by {decision.rule}{where}: {decision.detail}".rstrip(": ")
            if decision.rule in ("drift", "unreconciled"):
                self._mailbox.add("gateway", line, self._now(), urgent=True)
            else:
                self._add_risk(line, urgent=decision.state is RiskState.HALTED or decision.rule in _ALARMS)

    def _add_risk(self, line: str, *, urgent: bool) -> None:
        self._mailbox.add("risk", line, self._now(), urgent=urgent)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    # -- what is ---------------------------------------------------------------------------------------------------

    async def run(self, emit: Emit) -> None:
        """Look, and send what is due, until cancelled; then say that it ends."""
        self._health.state = "live"
        status = self._agent.status()
        self._mailbox.add(
            "lifecycle",
            f"run {status.run} is live: {status.strategy}, equity {status.equity:,.2f}",
            self._now(),
        )
        try:
            while True:
                self._look(self._agent.status())
                await self._send(self._mailbox.due(self._now()))
                await asyncio.sleep(_LOOK)
        finally:
            self._health.state = "stopped"
            status = self._agent.status()
            self._mailbox.add(
                "lifecycle", f"run {status.run} ended: equity {status.equity:,.2f}", self._now()
            )
            with suppress(TimeoutError):
                async with asyncio.timeout(_FAREWELL):
                    await asyncio.shield(self._send(self._mailbox.due(self._now(), closing=True)))
            self._courier.close()

    def _look(self, status: Status) -> None:
        now = self._now()
        self._look_at_sources(
            {row["name"]: row["state"] for row in status.producers if row["name"] != self.name}, now
        )
        if status.storage.writable is not self._stored:
            self._stored = status.storage.writable
            line = (
                "the store can be written again"
                if self._stored
                else f"nothing is traded: {status.storage.error}"
            )
            self._mailbox.add("storage", line, now, urgent=not self._stored)
        if status.warming_up:
            return
        day = self._clock.now() // DAY_MS
        if day != self._day:
            if self._day >= 0:
                change = status.equity - self._open_equity
                self._mailbox.add(
                    "summary",
                    f"{iso(self._day * DAY_MS)[:10]}: equity {status.equity:,.2f} ({change:+,.2f}), {self._fills:,} fills, "
                    f"fees {self._fees:,.2f}, risk {status.risk.value}",
                    now,
                )
            self._day, self._open_equity, self._fills, self._fees = day, status.equity, 0, 0.0

    def _look_at_sources(self, states: dict[str, str], now: float) -> None:
        for name, state in states.items():
            if state == "live":
                self._down.pop(name, None)
                if name in self._told_down:
                    self._told_down.remove(name)
                    self._mailbox.add("feeds", f"{name} is back", now)
            elif state not in _IDLE:
                since = self._down.setdefault(name, now)
                if name not in self._told_down and now - since >= self._config.feed_down_after / 1000:
                    self._told_down.add(name)
                    self._mailbox.add(
                        "feeds", f"{name} is down: {state} for {now - since:,.0f} s", now, urgent=True
                    )

    async def _send(self, letter: Notification | None) -> None:
        if letter is None:
            return
        loop = asyncio.get_running_loop()
        deliveries = await loop.run_in_executor(self._courier.thread, self._courier.deliver, letter)
        self._health.messages += any(one.delivered for one in deliveries)
        for one in deliveries:
            if not one.delivered:
                self._health.failed_deliveries += 1
                self._health.failed(f"{one.service} took nothing", self._clock.now())
                _log.warning("not delivered", service=one.service, title=letter.title)
