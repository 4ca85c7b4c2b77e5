"""The scripted market: the same for every process of a run, however often it is killed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from decimal import Decimal
from typing import Final

from agent.config import Config, parse
from agent.core.events import MINUTE_MS, Command, Event, Gap, Kline, News
from agent.core.settings import SleeveConfig, StrategyConfig
from models.sentiment.serve.headline_score import HeadlineScore
from tests.simulation.generated_data import SYMBOLS, headline, random_walk, running_bar

AUTHOR: Final = "script"
"""Author of the script's commands; the daemon's own commands have other authors."""

Burst = tuple[Event, ...]
"""Events that arrive together, with at most one state of a bar, since the queue merges several."""


_SLEEVES: Final = (
    {"name": "trend", "strategy": {"name": "sma_cross", "params": {"fast": 2, "slow": 5}}, "share": "0.4"},
    {"name": "news", "strategy": {"name": "sentiment", "params": {"position_size": 0.4}}, "share": "0.3"},
    {"name": "brief", "strategy": {"name": "sma_cross", "params": {"fast": 3, "slow": 7}}, "share": "0.3"},
)
_LATE: Final = SleeveConfig(
    name="late",
    strategy=StrategyConfig(name="sma_cross", params={"fast": 1, "slow": 4, "allow_short": True}),
    share=Decimal("0.1"),
)


def scripted_config(folder: str, *, sleeves: bool = False) -> Config:
    """Return a configuration whose strategy trades on every headline, with stops, costs, funding and tight
    limits. With `sleeves` three strategies share the account.
    """
    return parse(
        {
            "sleeves": _SLEEVES if sleeves else (),
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
            "live": {
                "folder": folder,
                "batch": 3,
                "score_wait": "1ms",
                "open_bars_every": 0,
            },  # every event is handled
            "store": {"url": f"sqlite:///{folder}/store.db", "snapshot_every": "30ms"},
        },
        where="tests/crash/market_script.py",
    )


def compose_script(seed: int, minutes: int, *, sleeves: bool = False) -> list[Burst]:
    """Return the bursts of `minutes` of market, with commands for single sleeves if there are any."""
    bursts = _compose(seed, minutes)
    if not sleeves:
        return bursts
    rng = random.Random(f"sleeves of {seed}")
    commands: list[tuple[str, dict[str, str]]] = [
        ("pause", {"sleeve": "trend"}),
        ("resume", {"sleeve": "trend"}),
        ("remove-sleeve", {"sleeve": "brief"}),
        ("add-sleeve", {"sleeve": "late", "definition": _LATE.model_dump_json()}),
        ("flatten", {"sleeve": "late"}),
        ("halt", {"sleeve": "news"}),
    ]
    places = sorted(rng.sample(range(len(bursts)), len(commands)))
    for number, (place, (action, args)) in enumerate(zip(places, commands, strict=True)):
        now = bursts[place + number][-1].available_at
        bursts.insert(place + number + 1, (Command(action, now, now, args, AUTHOR),))
    return bursts


def _compose(seed: int, minutes: int) -> list[Burst]:
    rng = random.Random(seed)
    bars = [random_walk(rng, symbol, minutes) for symbol in SYMBOLS]
    bursts: list[Burst] = []
    stories = 0
    for minute in range(minutes):
        closed: list[Kline | Gap] = [path[minute] for path in bars]
        for share in sorted(rng.uniform(0.05, 0.95) for _ in range(rng.randrange(3))):
            bursts.append(tuple(running_bar(path[minute], share) for path in bars))
            if rng.random() < 0.3:
                now = bursts[-1][0].available_at
                fresh = range(stories, stories + rng.randrange(1, 4))
                bursts.append(tuple(News(f"n{n}", now, now, headline(rng, n), feed="script") for n in fresh))
                stories = fresh.stop
        now = closed[0].available_at
        if minute > 30 and rng.random() < 0.02:  # a bar that is unavailable
            closed[0] = Gap(
                closed[0].symbol,
                MINUTE_MS,
                closed[0].start,
                closed[0].start + MINUTE_MS,
                now,
                closed[0].start,
            )
        if rng.random() < 0.03:
            action = rng.choice(("pause", "flatten", "halt"))
            bursts.append((Command(action, now, now, by=AUTHOR), *closed))
            bursts.append((Command("resume", now, now, by=AUTHOR),))
        else:
            bursts.append(tuple(closed))
    return bursts


def is_scripted(event: Event) -> bool:
    """Return whether an event comes from the script rather than from the agent."""
    return isinstance(event, Kline | Gap | News) or (isinstance(event, Command) and event.by == AUTHOR)


class KeywordModel:
    """A sentiment model based on a few keywords."""

    fingerprint = "words"

    def score(self, texts: Sequence[str]) -> list[HeadlineScore]:
        return [_score(text) for text in texts]


def _score(text: str) -> HeadlineScore:
    if "soars" in text or "leads" in text:
        return HeadlineScore(0.05, 0.05, 0.9)
    if "sinks" in text or "follows" in text:
        return HeadlineScore(0.9, 0.05, 0.05)
    return HeadlineScore(0.1, 0.8, 0.1)
