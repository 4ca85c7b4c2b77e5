"""What the market says, move by move: the same for every life of a run, however often it is killed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

from agent.config import Config, parse
from agent.core.events import MINUTE_MS, Command, Event, Gap, Kline, News
from models.sentiment.serve.scorer import Score
from tests.simulation.prices import SYMBOLS, headline, running, walk

AUTHOR: Final = "script"
"""Who says the commands that belong to the script; the daemon's own have other authors."""

Burst = tuple[Event, ...]
"""Events that arrive at once. At most one state of a bar in each, or the queue would rightly merge them."""


def settings(folder: str) -> Config:
    """A strategy that trades on every headline, with stops, costs, funding and limits that bite."""
    return parse(
        {
            "market": {"symbols": SYMBOLS},
            "strategy": {
                "name": "sentiment",
                "params": {
                    "position_size": 0.4,
                    "allow_short": True,
                    "stop": 0.01,
                    "take_profit": 0.02,
                    "hold": "12m",
                },
            },
            "signals": {"half_life": "5m", "window": "20m"},
            "risk": {"max_daily_loss": 0.2, "max_drawdown": 0.4, "max_orders_per_minute": 3},
            "paper": {"funding_interval": "30m", "funding_rate": "0.001", "max_participation": 0.02},
            "bybit": {"endpoint": "http://127.0.0.1:9"},
            "news": {"feeds": [{"url": "http://127.0.0.1:9/feed"}]},
            # all that is played is handled
            "live": {"folder": folder, "batch": 3, "score_wait": "1ms", "open_bars_every": 0},
            "store": {"url": f"sqlite:///{folder}/store.db", "snapshot_every": "30ms"},
        },
        where="tests/crash/script.py",
    )


def compose(seed: int, minutes: int) -> list[Burst]:
    """The bursts of `minutes` of market."""
    dice = random.Random(seed)
    bars = [walk(dice, symbol, minutes) for symbol in SYMBOLS]
    bursts: list[Burst] = []
    stories = 0
    for minute in range(minutes):
        closed: list[Kline | Gap] = [path[minute] for path in bars]
        for share in sorted(dice.uniform(0.05, 0.95) for _ in range(dice.randrange(3))):
            bursts.append(tuple(running(path[minute], share) for path in bars))
            if dice.random() < 0.3:
                now = bursts[-1][0].available_at
                fresh = range(stories, stories + dice.randrange(1, 4))
                bursts.append(tuple(News(f"n{n}", now, now, headline(dice, n), feed="script") for n in fresh))
                stories = fresh.stop
        now = closed[0].available_at
        if minute > 30 and dice.random() < 0.02:  # a bar that nobody has
            closed[0] = Gap(
                closed[0].symbol,
                MINUTE_MS,
                closed[0].start,
                closed[0].start + MINUTE_MS,
                now,
                closed[0].start,
            )
        if dice.random() < 0.03:
            action = dice.choice(("pause", "flatten", "halt"))
            bursts.append((Command(action, now, now, by=AUTHOR), *closed))
            bursts.append((Command("resume", now, now, by=AUTHOR),))
        else:
            bursts.append(tuple(closed))
    return bursts


def is_scripted(event: Event) -> bool:
    """Whether the event comes from the script; the others follow from it, or are a life's own."""
    return isinstance(event, Kline | Gap | News) or (isinstance(event, Command) and event.by == AUTHOR)


class Words:
    """A model of a few words."""

    fingerprint = "words"

    def score(self, texts: Sequence[str]) -> list[Score]:
        """Bullish, bearish, or nothing to say of."""
        return [_score(text) for text in texts]


def _score(text: str) -> Score:
    if "soars" in text or "leads" in text:
        return Score(0.05, 0.05, 0.9)
    if "sinks" in text or "follows" in text:
        return Score(0.9, 0.05, 0.05)
    return Score(0.1, 0.8, 0.1)
