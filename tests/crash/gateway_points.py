"""Where a life that trades at an exchange can break off: between journal, intent, request, acknowledgement, fill and commit.

As in `points`, they are put around the product's methods in the process that is to die. Where a request is under way the death comes
a moment later, while the exchange works on it.
"""

from __future__ import annotations

import asyncio
import os
import signal
from functools import wraps
from typing import Any, Final

from agent.core.events import AccountSnapshot, Fill, OrderUpdate
from agent.live.gateway.bybit_port import BybitPort
from agent.live.gateway.report_translator import ReportTranslator
from agent.live.gateway.venue_gateway import Gateway
from agent.live.pipeline import Core
from tests.crash import points
from tests.crash.points import Moment, around

INTENDED: Final = "order decided, not recorded"
DUE: Final = "order recorded, not released"
RELEASED: Final = "order released, not sent"
UNDER_WAY: Final = "order under way"
ANSWERED: Final = "order placed, answer not told"
ACKNOWLEDGED: Final = "acknowledgement told, not journalled"
CANCELLING: Final = "cancel under way"
TOLD: Final = "fill told, not journalled"
BOOKING: Final = "fill journalled, not booked"
BOOKED: Final = "fill booked, not recorded"
RECOVERED: Final = "earlier intents known, venue not asked"
ASKED: Final = "executions asked, not told"
LOOKED: Final = "account journalled, not handled"

POINTS: Final = {
    INTENDED: 12, DUE: 6, RELEASED: 6, UNDER_WAY: 12, ANSWERED: 12, ACKNOWLEDGED: 12, CANCELLING: 1, TOLD: 16, BOOKING: 16, BOOKED: 16,
    RECOVERED: 1, ASKED: 3, LOOKED: 2, points.ARRIVED: 20, points.WRITTEN: 20, points.SAFE: 20, points.HANDLED: 40,
    points.RECORDING: 15, points.RECORDED: 15, points.FOLDING: 40, points.FOLDED: 1,
}  # fmt: skip
"""Every point, and how many passes of it a life is expected to make at most before it is to die there."""

_LATER: Final = 0.004  # seconds; an exchange on loopback has begun, or is about to answer


def install(moment: Moment) -> None:
    """Let this process die at `moment`, if it names a point."""
    points.install(moment)
    left = moment.nth

    def reach(point: str, *, later: bool = False) -> None:
        nonlocal left
        if point == moment.point:
            left -= 1
            if left == 0 and later:
                asyncio.get_running_loop().call_later(_LATER, _die)
            elif left == 0:
                _die()

    def put(reports: ReportTranslator, event: Any) -> None:
        reach(TOLD) if isinstance(event, Fill) else reach(ACKNOWLEDGED) if isinstance(
            event, OrderUpdate
        ) else None

    def handling(core: Core, seq: int, event: Any) -> None:
        reach(BOOKING) if isinstance(event, Fill) else reach(LOOKED) if isinstance(
            event, AccountSnapshot
        ) else None

    def handled(core: Core, seq: int, event: Any) -> None:
        if isinstance(event, Fill):
            reach(BOOKED)

    def releasing(gateway: Gateway) -> None:
        if gateway._waiting:
            reach(DUE)

    def released(gateway: Gateway) -> None:
        if gateway._untended:
            reach(RELEASED)

    around(Gateway, "decision", after=lambda *_: reach(INTENDED))
    around(Gateway, "release", before=releasing, after=released)
    around(Gateway, "_recover", after=lambda *_: reach(RECOVERED))
    around(Gateway, "_put", after=lambda gateway, event: put(gateway._reports, event))
    around(Core, "_handle", before=handling, after=handled)
    _around_request("create", before=lambda: reach(UNDER_WAY, later=True), after=lambda: reach(ANSWERED))
    _around_request("cancel", before=lambda: reach(CANCELLING, later=True), after=lambda: None)
    _around_request("executions", before=lambda: None, after=lambda: reach(ASKED))


def _around_request(name: str, *, before: Any, after: Any) -> None:
    original = getattr(BybitPort, name)

    @wraps(original)
    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        before()
        result = await original(*args, **kwargs)
        after()
        return result

    setattr(BybitPort, name, wrapped)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
