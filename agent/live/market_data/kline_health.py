"""How the kline producer is."""

from __future__ import annotations

import msgspec

from agent.live.interfaces.producer import Health


class KlineHealth(Health):
    """`Health` of klines; bars and messages are counted over all connections."""

    missing: int = 0  # bars in the gaps
    backfilled: int = 0  # bars taken from the history
    corrupt: int = 0  # messages that can't be read, bars that can't be
    unknown: int = 0  # messages of no known kind
    stale: int = 0  # states of an open bar that came after newer ones
    ahead: int = 0  # bars and messages from the future; they are refused
    withheld: int = 0  # states and bars with a price outside the band, held back until it is confirmed
    # ms from the venue's stamp of the last message to its arrival; negative where this clock is behind
    lag: int = 0
    rejected: set[str] = msgspec.field(default_factory=set)  # topics that the venue refuses
