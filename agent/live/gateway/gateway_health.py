"""Health of the gateway."""

from __future__ import annotations

from msgspec import field

from agent.live.interfaces.producer import Health


class GatewayHealth(Health):
    """`Health` of the gateway; `messages` are those of the private stream. Counts are since the start."""

    venue: str = ""
    stream: bool = False  # the private stream is connected; otherwise the gateway polls
    reconciled_at: int = 0  # UTC ms
    drift: str = ""  # what differed between ledger and account then
    skew: int = 0  # ms by which the venue's clock is ahead of ours
    intents: dict[str, int] = field(default_factory=dict)  # orders in flight, by state
    ended: dict[str, int] = field(default_factory=dict)  # the others, by final status
    sent: int = 0
    unknown: int = 0  # requests without a response that states the outcome
    resent: int = 0
    existed: int = 0  # requests whose client id the venue knew already
    taken_ids: int = 0  # client ids that another order had at the venue
    lost_executions: int = 0  # of this run, but not in its record
    lost_orders: list[str] = field(default_factory=list)  # open orders of this run that its record lacks
    unknown_executions: list[str] = field(
        default_factory=list
    )  # kinds that are not booked, as the venue names them
    slowed: int = 0  # requests rejected by a rate limit
    fills: int = 0
    foreign_orders: list[str] = field(default_factory=list)
    foreign_positions: dict[str, str] = field(default_factory=dict)
