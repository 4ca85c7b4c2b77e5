"""What goes wrong in a seed, and how likely it is each time: every seed has its own mixture, and many leave most faults out."""

from __future__ import annotations

import random
from dataclasses import dataclass, fields
from typing import Any, Final


def _often(dice: random.Random, most: float) -> float:
    """Zero in two seeds of three: faults hide each other where all happen at once."""
    return dice.choice((0.0, 0.0, most * dice.random()))


_FAULTS: Final = {
    # of a message of the stream
    "drop": 0.2, "delay": 0.3, "duplicate": 0.3, "reorder": 0.3, "corrupt": 0.1, "lose_connection": 0.05, "deaf": 0.02,
    # of a message of the stream: its price is far off, or it is a closed bar of the future
    "spike": 0.2, "ahead": 0.05,
    # of the machine's clocks: the system clock is stepped, steady time drifts, all stands still as in a suspension
    "clock_step": 1.0, "clock_drift": 1.0, "suspend": 1.0,
    # of a connection
    "refuse": 0.5, "ban": 0.1,
    # of a bar: nobody has it
    "withhold": 0.1,
    # of a request for history
    "rest_timeout": 0.3, "rest_error": 0.3, "rest_limit": 0.1, "rest_corrupt": 0.2, "rest_slow": 0.9,
    # of a poll of a feed
    "feed_timeout": 0.3, "feed_error": 0.3, "feed_cut": 0.3, "feed_damage": 0.3, "feed_doubled": 0.5,
    # of a private request: it is lost, comes late, or its answer is lost, is an error, or asks for patience
    "private_lost": 0.2, "private_late": 0.5, "private_mute": 0.3, "private_error": 0.2, "private_limit": 0.2,
    # of the private stream and of a message in it
    "private_refuse": 0.5, "private_lose": 0.1, "private_deaf": 0.05, "private_drop": 0.3, "private_duplicate": 0.3, "private_delay": 0.3,
    # of the venue itself: how far its views are behind, and how little it has to offer
    "lag": 1.0, "venue_refuses": 0.3, "venue_partial": 0.9,
    # of the model, the store and the machine
    "model_fails": 0.4, "model_slow": 0.5, "store_fails": 0.01, "dies_in_store": 0.01, "dies_at_gap": 0.9, "freeze": 0.0005,
}  # fmt: skip
"""The highest probability that a seed may draw."""


@dataclass
class Weather:
    """Probabilities by name, and the rest of a seed's lot. `clear` ends all faults."""

    drop: float = 0.0
    delay: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    corrupt: float = 0.0
    lose_connection: float = 0.0
    deaf: float = 0.0
    spike: float = 0.0
    ahead: float = 0.0
    clock_step: float = 0.0
    clock_drift: float = 0.0
    suspend: float = 0.0
    refuse: float = 0.0
    ban: float = 0.0
    withhold: float = 0.0
    rest_timeout: float = 0.0
    rest_error: float = 0.0
    rest_limit: float = 0.0
    rest_corrupt: float = 0.0
    rest_slow: float = 0.0
    feed_timeout: float = 0.0
    feed_error: float = 0.0
    feed_cut: float = 0.0
    feed_damage: float = 0.0
    feed_doubled: float = 0.0
    private_lost: float = 0.0
    private_late: float = 0.0
    private_mute: float = 0.0
    private_error: float = 0.0
    private_limit: float = 0.0
    private_refuse: float = 0.0
    private_lose: float = 0.0
    private_deaf: float = 0.0
    private_drop: float = 0.0
    private_duplicate: float = 0.0
    private_delay: float = 0.0
    lag: float = 0.0
    venue_refuses: float = 0.0
    venue_partial: float = 0.0
    model_fails: float = 0.0
    model_slow: float = 0.0
    store_fails: float = 0.0
    dies_in_store: float = 0.0
    dies_at_gap: float = 0.0
    freeze: float = 0.0

    @classmethod
    def draw(cls, dice: random.Random) -> Weather:
        """A seed's mixture."""
        return cls(**{name: _often(dice, most) for name, most in _FAULTS.items()})

    def clear(self) -> None:
        """Nothing goes wrong any more."""
        for field in fields(self):
            setattr(self, field.name, 0.0)

    def __rich_repr__(self) -> Any:
        for field in fields(self):
            if value := getattr(self, field.name):
                yield field.name, round(value, 4)


@dataclass(frozen=True)
class Blackout:
    """From `begin` to `end`, seconds of the loop's time, nothing comes through at all."""

    begin: float
    end: float
