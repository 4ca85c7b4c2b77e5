"""Kill points of an agent that trades at an exchange, from journal and intent to fill and commit.

As in `kill_points`, they wrap methods of the product in the process to be killed. During a request the kill
is delayed a little, so that it hits while the exchange handles the request.
"""

from __future__ import annotations

import asyncio
import os
import signal
from functools import wraps
from typing import Any, Final

from agent.core.events import AccountSnapshot, Fill, OrderUpdate
from agent.live.gateway.bybit_port import BybitPort
from agent.live.gateway.order_tracker import OrderTracker
from agent.live.gateway.venue_gateway import VenueGateway
from agent.live.pipeline import Pipeline
from tests.crash import kill_points
from tests.crash.kill_points import KillMoment, wrap_calls

ORDER_DECIDED: Final = "order decided, not recorded"
ORDER_RECORDED: Final = "order recorded, not released"
ORDER_RELEASED: Final = "order released, not sent"
ORDER_IN_FLIGHT: Final = "order in flight"
ORDER_PLACED: Final = "order placed, response not processed"
UPDATE_REPORTED: Final = "acknowledgement reported, not journalled"
CANCEL_IN_FLIGHT: Final = "cancel in flight"
FILL_REPORTED: Final = "fill reported, not journalled"
FILL_JOURNALLED: Final = "fill journalled, not booked"
FILL_BOOKED: Final = "fill booked, not recorded"
INTENTS_LOADED: Final = "earlier intents loaded, venue not queried"
EXECUTIONS_FETCHED: Final = "executions fetched, not reported"
ACCOUNT_JOURNALLED: Final = "account journalled, not handled"

POINTS: Final = {
    ACCOUNT_JOURNALLED: 2,
    UPDATE_REPORTED: 12,
    kill_points.ARRIVED: 20,
    CANCEL_IN_FLIGHT: 1,
    INTENTS_LOADED: 1,
    EXECUTIONS_FETCHED: 3,
    FILL_BOOKED: 16,
    FILL_JOURNALLED: 16,
    FILL_REPORTED: 16,
    kill_points.FOLDED: 1,
    kill_points.FOLDING: 40,
    kill_points.HANDLED: 40,
    kill_points.WRITTEN: 20,
    kill_points.RECORDING: 15,
    kill_points.SAFE: 20,
    ORDER_DECIDED: 12,
    ORDER_PLACED: 12,
    ORDER_RECORDED: 6,
    ORDER_RELEASED: 6,
    ORDER_IN_FLIGHT: 12,
    kill_points.RECORDED: 15,
}
"""Point -> maximum of passes before the kill. Seeds draw from this order."""

_LATER: Final = 0.004  # seconds after which the loopback exchange is handling the request or about to respond


def install(moment: KillMoment) -> None:
    """Kill this process at `moment`, if it names a point."""
    kill_points.install(moment)
    left = moment.nth

    def reach(point: str, *, later: bool = False) -> None:
        nonlocal left
        if point == moment.point:
            left -= 1
            if left == 0 and later:
                asyncio.get_running_loop().call_later(_LATER, _kill_self)
            elif left == 0:
                _kill_self()

    def put(gateway: VenueGateway, event: Any) -> None:
        reach(FILL_REPORTED) if isinstance(event, Fill) else reach(UPDATE_REPORTED) if isinstance(
            event, OrderUpdate
        ) else None

    def handling(pipeline: Pipeline, seq: int, event: Any) -> None:
        reach(FILL_JOURNALLED) if isinstance(event, Fill) else reach(ACCOUNT_JOURNALLED) if isinstance(
            event, AccountSnapshot
        ) else None

    def handled(pipeline: Pipeline, seq: int, event: Any) -> None:
        if isinstance(event, Fill):
            reach(FILL_BOOKED)

    def releasing(gateway: VenueGateway) -> None:
        if gateway._tracker._decided or gateway._commands:
            reach(ORDER_RECORDED)

    def released(gateway: VenueGateway) -> None:
        if gateway._tracker._untracked:
            reach(ORDER_RELEASED)

    wrap_calls(VenueGateway, "decision", after=lambda *_: reach(ORDER_DECIDED))
    wrap_calls(VenueGateway, "release", before=releasing, after=released)
    wrap_calls(OrderTracker, "recover", after=lambda *_: reach(INTENTS_LOADED))
    wrap_calls(VenueGateway, "_put", after=put)
    wrap_calls(Pipeline, "_handle", before=handling, after=handled)
    _wrap_request(
        "create", before=lambda: reach(ORDER_IN_FLIGHT, later=True), after=lambda: reach(ORDER_PLACED)
    )
    _wrap_request("cancel", before=lambda: reach(CANCEL_IN_FLIGHT, later=True), after=lambda: None)
    _wrap_request("executions", before=lambda: None, after=lambda: reach(EXECUTIONS_FETCHED))


def _wrap_request(name: str, *, before: Any, after: Any) -> None:
    original = getattr(BybitPort, name)

    @wraps(original)
    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        before()
        result = await original(*args, **kwargs)
        after()
        return result

    setattr(BybitPort, name, wrapped)


def _kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
