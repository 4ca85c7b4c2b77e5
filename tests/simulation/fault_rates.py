"""Probabilities of faults. Every seed has its own mixture, and many seeds leave most faults out."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, fields
from typing import Any


def _sparse_probability(rng: random.Random, most: float) -> float:
    """Return zero in two of three cases: faults hide each other if all of them happen at once."""
    return rng.choice((0.0, 0.0, most * rng.random()))


def _rate(maximum: float) -> float:
    """Declare a probability that is zero by default, with the maximum that a seed may draw."""
    rate: float = field(default=0.0, metadata={"maximum": maximum})
    return rate


@dataclass
class FaultRates:
    """Probabilities by name."""

    # per message of the stream
    drop: float = _rate(0.2)
    delay: float = _rate(0.3)
    duplicate: float = _rate(0.3)
    reorder: float = _rate(0.3)
    corrupt: float = _rate(0.1)
    lose_connection: float = _rate(0.05)
    silent: float = _rate(0.02)
    # per message of the stream: its price is far off, or it is a closed bar of the future
    spike: float = _rate(0.2)
    ahead: float = _rate(0.05)
    # the machine's clocks: steps of the system clock, drift of monotonic time, suspension
    clock_step: float = _rate(1.0)
    clock_drift: float = _rate(1.0)
    suspend: float = _rate(1.0)
    # per connection
    refuse: float = _rate(0.5)
    ban: float = _rate(0.1)
    # per bar: the venue withholds it
    withhold: float = _rate(0.1)
    # per request for history
    rest_timeout: float = _rate(0.3)
    rest_error: float = _rate(0.3)
    rest_limit: float = _rate(0.1)
    rest_corrupt: float = _rate(0.2)
    rest_slow: float = _rate(0.9)
    # per poll of a feed
    feed_timeout: float = _rate(0.3)
    feed_error: float = _rate(0.3)
    feed_cut: float = _rate(0.3)
    feed_damage: float = _rate(0.3)
    feed_doubled: float = _rate(0.5)
    # per private request: lost, late, response lost, error response, rate limit
    private_lost: float = _rate(0.2)
    private_late: float = _rate(0.5)
    private_response_lost: float = _rate(0.3)
    private_error: float = _rate(0.2)
    private_limit: float = _rate(0.2)
    # per private stream and per message in it
    private_refuse: float = _rate(0.5)
    private_lose: float = _rate(0.1)
    private_silent: float = _rate(0.05)
    private_drop: float = _rate(0.3)
    private_duplicate: float = _rate(0.3)
    private_delay: float = _rate(0.3)
    # the venue: lag of its views, rejections, partial fills
    lag: float = _rate(1.0)
    venue_refuses: float = _rate(0.3)
    venue_partial: float = _rate(0.9)
    # model, store and machine
    model_fails: float = _rate(0.4)
    model_slow: float = _rate(0.5)
    store_fails: float = _rate(0.01)
    dies_in_store: float = _rate(0.01)
    dies_at_gap: float = _rate(0.9)
    freeze: float = _rate(0.0005)

    @classmethod
    def draw(cls, rng: random.Random) -> FaultRates:
        """Draw a seed's mixture."""
        return cls(**{f.name: _sparse_probability(rng, f.metadata["maximum"]) for f in fields(cls)})

    def clear(self) -> None:
        """End all faults."""
        for rate in fields(self):
            setattr(self, rate.name, 0.0)

    def __rich_repr__(self) -> Any:
        for rate in fields(self):
            if value := getattr(self, rate.name):
                yield rate.name, round(value, 4)


@dataclass(frozen=True)
class Outage:
    """No traffic gets through from `begin` to `end` (loop time)."""

    begin: float
    end: float
