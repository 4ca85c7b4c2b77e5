"""How the gateway is."""

from __future__ import annotations

import msgspec

from agent.live.interfaces.producer import Health


class GatewayHealth(Health):
    """`Health` of the private side; `messages` are those of the private stream."""

    venue: str = ""
    stream: bool = False  # the private stream is there; else everything is asked for
    reconciled_at: int = 0  # UTC ms
    drift: str = ""  # what ledger and account differed in then
    skew: int = 0  # ms that the venue's clock is ahead of ours
    intents: dict[str, int] = msgspec.field(default_factory=dict)  # open ones by state
    ended: dict[str, int] = msgspec.field(default_factory=dict)  # the others by status
    sent: int = 0
    unknown: int = 0  # requests whose outcome was not known at first
    resent: int = 0
    existed: int = 0  # resends that the venue knew already
    taken_ids: int = 0  # ids that were another order's there
    lost_executions: int = 0  # of this run, and not in its record
    lost_orders: list[str] = msgspec.field(default_factory=list)  # the same of open orders
    unknown_executions: list[str] = msgspec.field(
        default_factory=list
    )  # kinds that were met and not booked, as the venue names them
    slowed: int = 0  # refusals for too many requests
    fills: int = 0
    foreign_orders: list[str] = msgspec.field(default_factory=list)
    foreign_positions: dict[str, str] = msgspec.field(default_factory=dict)
