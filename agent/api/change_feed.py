"""Changes at the running agent for /api/v1/events: the latest ones in memory, and the streams that send them.

The core only appends to a bounded list. Each stream has a position in it, and a client whose position has
been dropped reads too slowly: its stream is closed and counted.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final

import msgspec
from aiohttp import web
from msgspec import UNSET

from agent.api.api_messages import AgentChange, ChangeKind, StreamReset
from agent.core.events import (
    Command,
    Decision,
    Event,
    Fill,
    FillKind,
    News,
    Order,
    OrderUpdate,
    RiskEvent,
    Sentiment,
    Signal,
    StrategyChange,
)
from agent.core.risk import NOTES, WARM_UP
from agent.core.strategy_version import label_of
from agent.data.text import one_line

INTERVAL: Final = 0.1
"""Seconds between two looks at the changes, as the page's live connection has."""

SEND_TIMEOUT: Final = 10.0
"""Seconds after which a client that doesn't read is disconnected."""

_CHECK_EVERY: Final = 10  # looks between two checks that the client is still authorized
_COMMENT_EVERY: Final = 150  # looks between two comments on an idle stream, which proxies would close
_AT_ONCE: Final = 100  # changes in one write
_RETRY_MS: Final = 2_000  # after which a browser's EventSource reconnects
_INTERNAL_COMMANDS: Final = ("heartbeat", "life", "warm-up", "warm-up-done", "alarm")


class ChangeFeed:
    """Observer of this life of the agent that keeps the last `backlog` changes.

    `begin` returns the run and its signed positions; it is called with the first event.
    """

    def __init__(self, begin: Callable[[], tuple[str, Mapping[str, Decimal]]], backlog: int) -> None:
        self.total = 0
        """Changes so far, also those that are no longer kept."""
        self._begin = begin
        self._kept: deque[AgentChange] = deque(maxlen=backlog)
        self._run = ""
        self._positions: dict[str, Decimal] = {}
        self._event = self._number = 0  # of the last change: its event, and its number within the event

    def event(self, seq: int, event: Event) -> None:
        if not self._run:
            self._run, positions = self._begin()
            self._positions = dict(positions)
        match event:
            case News():
                self._add(seq, "news", event.available_at, event.id)
            case Sentiment():
                self._add(seq, "score", event.available_at, event.news_id)
            case Command() if event.action not in _INTERNAL_COMMANDS:
                by = f" by {event.by}" if event.by else ""
                self._add(seq, "state", event.available_at, detail=one_line(f"{event.action}{by}", 200))

    def decision(self, seq: int, decision: Decision) -> None:
        match decision:
            case Order():
                self._add(seq, "order", decision.ts, decision.id, decision.symbol)
            case OrderUpdate():
                status = decision.status.value
                self._add(seq, "order-update", decision.ts, decision.order_id, decision.symbol, status)
            case Fill():
                self._add(seq, "fill", decision.ts, decision.id, decision.symbol)
                if decision.kind is not FillKind.INTERNAL:
                    self._on_fill(seq, decision)
            case Signal():
                detail = decision.direction.value
                self._add(seq, "signal", decision.ts, symbol=decision.symbol, detail=detail)
            case RiskEvent() if not decision.symbol and decision.rule not in (*NOTES, WARM_UP):
                sleeve = "" if decision.sleeve is UNSET else f"{decision.sleeve}: "
                detail = f"{sleeve}{decision.state.value} {decision.rule}"
                self._add(seq, "state", decision.ts, detail=detail)
            case StrategyChange():
                name = one_line(label_of(decision.strategy, decision.class_name), 200)
                self._add(seq, "strategy", decision.ts, detail=name)

    def _on_fill(self, seq: int, fill: Fill) -> None:
        """Add a closed round trip: the position became flat or changed its side."""
        before = self._positions.get(fill.symbol, Decimal(0))
        after = self._positions[fill.symbol] = before + fill.qty * fill.side.sign
        if before and before * after <= 0:
            self._add(seq, "trade", fill.ts, fill.order_id, fill.symbol)

    def _add(
        self, seq: int, kind: ChangeKind, ts: int, id_: str = "", symbol: str = "", detail: str = ""
    ) -> None:
        self._number = self._number + 1 if seq == self._event else 1
        self._event = seq
        key = f"{self._run}:{seq}.{self._number}"
        self._kept.append(AgentChange(key, kind, self._run, seq, ts, id_, symbol, detail))
        self.total += 1

    def after(self, position: int, most: int) -> list[AgentChange] | None:
        """Return up to `most` changes after the first `position` ones; None if some are no longer kept."""
        first = self.total - len(self._kept)
        if position < first:
            return None
        begin = position - first
        return [self._kept[number] for number in range(begin, min(begin + most, len(self._kept)))]

    def position_of(self, key: str) -> int | None:
        """Return the position after the change with this key; None if it isn't kept."""
        first = self.total - len(self._kept)
        for number, change in enumerate(self._kept):
            if change.key == key:
                return first + number + 1
        return None


class ChangeStream:
    """A connection that receives changes until it ends, or `is_authorized` returns False.

    `on_slow` is called if it is closed because its client reads too slowly.
    """

    def __init__(
        self,
        feed: ChangeFeed,
        request: web.Request,
        is_authorized: Callable[[], bool],
        on_slow: Callable[[], None],
    ) -> None:
        self._feed = feed
        self._request = request
        self._is_authorized = is_authorized
        self._on_slow = on_slow

    async def serve(self) -> web.StreamResponse:
        """Send changes after the one that Last-Event-ID names, else those from now on."""
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"}
        )
        await response.prepare(self._request)
        last = self._request.headers.get("Last-Event-ID", "")
        resumed = self._feed.position_of(last) if last else self._feed.total
        position = self._feed.total if resumed is None else resumed
        head = f"retry: {_RETRY_MS}\n\n"
        if resumed is None:
            reset = StreamReset("the message that Last-Event-ID names is no longer kept, or of another run")
            head += _message("reset", reset)
        if await self._send(response, head):
            await self._send_changes(response, position)
        return response

    def abort(self) -> None:
        """Disconnect at once, without sending what is buffered."""
        if self._request.transport is not None:
            self._request.transport.abort()

    async def _send_changes(self, response: web.StreamResponse, position: int) -> None:
        looks = idle = 0
        while True:
            looks += 1
            if looks % _CHECK_EVERY == 0 and not self._is_authorized():
                return
            changes = self._feed.after(position, _AT_ONCE)
            if changes is None:
                self._drop()
                return
            position += len(changes)
            text = "".join(_message(change.kind, change, change.key) for change in changes)
            idle = 0 if text else idle + 1
            if idle == _COMMENT_EVERY:
                text, idle = ": idle\n\n", 0
            if text and not await self._send(response, text):
                return
            if len(changes) < _AT_ONCE:
                await asyncio.sleep(INTERVAL)
            if self._request.transport is None or self._request.transport.is_closing():
                return

    async def _send(self, response: web.StreamResponse, text: str) -> bool:
        try:
            async with asyncio.timeout(SEND_TIMEOUT):
                await response.write(text.encode())
        except TimeoutError:
            self._drop()
            return False
        except ConnectionError:
            return False
        return True

    def _drop(self) -> None:
        self._on_slow()
        self.abort()


def _message(kind: str, data: Any, key: str = "") -> str:
    id_ = f"id: {key}\n" if key else ""
    return f"{id_}event: {kind}\ndata: {msgspec.json.encode(data).decode()}\n\n"
