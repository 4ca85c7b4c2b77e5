"""A configuration out of a seed: bounds small and large, strategies of all kinds, on paper or at a venue."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, Final

from agent.config import Config, parse
from tests.simulation.prices import SYMBOLS
from tests.simulation.wire import FEEDS

STORAGE: Final = {"power_cut": 0.5, "torn_log": 0.3, "restore": 0.3, "full_disk": 0.002, "failed_fsync": 0.01}
"""The highest probability of a fault of the storage that a seed may draw: the first three of an end of a life, the others of a write."""


def settings(dice: random.Random, folder: Path) -> Config:
    """All that a seed's agent is told."""
    restless = {"every": dice.choice((1, 1, 1, 4)), "largest": dice.choice((0.25, 0.25, 0.6))}
    strategy = dice.choice(
        (
            {"name": "tests.simulation.strategy:Restless", "params": restless},
            {"name": "tests.simulation.strategy:Restless", "params": restless},
            {"name": "tests.simulation.strategy:Restless", "params": {"every": 3, "largest": 0.9}},
            {"name": "sma_cross", "params": {"fast": 1, "slow": 3, "weight": 0.4, "allow_short": True}},
            {
                "name": "sentiment",
                "params": {"position_size": 0.3, "allow_short": True, "stop": 0.01, "take_profit": 0.02},
            },
        )
    )
    return parse(
        {
            "market": {"symbols": SYMBOLS},
            "execution": execution(dice),
            "strategy": strategy,
            "signals": {"half_life": "3m", "window": "10m"},
            "account": {"leverage": dice.choice((1, 3, 20))},
            "risk": {
                "max_position": dice.choice((0.3, 1.0)), "max_order": dice.choice((0.3, 1.0)), "max_leverage": dice.choice((0.5, 1.5)),
                "max_orders_per_minute": dice.choice((1, 3, 60, 60)), "max_daily_loss": dice.choice((0.02, 0.5)),
                "max_drawdown": dice.choice((0.04, 0.9)), "stale_after": dice.choice(("30s", "5m")),
            },
            "paper": {
                "funding_interval": "5m", "funding_rate": "0.001", "max_participation": dice.choice((0.001, 0.1)),
                "limit_fill": dice.choice(("through", "touch")), "latency": dice.choice((0, 250, 90_000)),
            },
            "bybit": {"endpoint": "http://127.0.0.1:9", "warmup_bars": dice.choice((0, 5, 30)), "backfill_timeout": "60s"},
            "news": {"feeds": [{"url": url, "name": url[-7:], "interval": "30s"} for url in FEEDS], "backlog_age": "1h", "retry": {"first": "10s", "ceiling": "1m"}},
            "live": {
                "folder": str(folder), "queue": dice.choice((2, 100, 10_000)), "queue_news": dice.choice((2, 1_000, 1_000)),
                "batch": dice.choice((1, 1, 5, 1_000)), "open_bars_every": dice.choice((0, 20_000)),
                "score_batch": dice.choice((1, 4, 32)), "score_wait": dice.choice((1, 500)),
            },
            "store": {"snapshot_every": dice.choice((0, "5s", "3m"))},
        },
        where="tests/simulation/settings.py",
    )  # fmt: skip


def execution(dice: random.Random) -> dict[str, Any]:
    """Half of the seeds trade at a venue, with a gateway that is more or less patient."""
    venue = {
        "venue": "http://127.0.0.1:9", "max_skew": "1h", "start_within": dice.choice(("60s", "10m")),
        "request_timeout": dice.choice(("1s", "2s", "10s")), "expire_after": dice.choice(("1s", "5s", "30s", "10m")),
        "reconcile_every": dice.choice(("10s", "60s")), "ban_wait": "60s",
        "foreign": dice.choice(("refuse", "refuse", "ignore", "adopt")),
    }  # fmt: skip
    return {"mode": dice.choice(("paper", "testnet")), "testnet": venue}
