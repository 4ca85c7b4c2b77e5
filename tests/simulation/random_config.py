"""Random configurations: small and large bounds, strategies of all kinds, paper and venue."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, Final

from agent.config import Config, parse
from tests.simulation.generated_data import SYMBOLS
from tests.simulation.simulated_feeds import FEEDS

STORAGE: Final = {"power_cut": 0.5, "torn_log": 0.3, "restore": 0.3, "full_disk": 0.002, "failed_fsync": 0.01}
"""Maximum probability of each storage fault: the first three per end of a life, the others per write."""


def random_config(rng: random.Random, folder: Path) -> Config:
    """Draw the configuration of a seed's agent."""
    restless = {"every": rng.choice((1, 1, 1, 4)), "largest": rng.choice((0.25, 0.25, 0.6))}
    strategy = rng.choice(
        (
            {"name": "tests.simulation.restless_strategy:RestlessStrategy", "params": restless},
            {"name": "tests.simulation.restless_strategy:RestlessStrategy", "params": restless},
            {
                "name": "tests.simulation.restless_strategy:RestlessStrategy",
                "params": {"every": 3, "largest": 0.9, "rich": True},
            },
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
            "execution": random_execution(rng),
            "strategy": strategy,
            "signals": {"half_life": "3m", "window": "10m"},
            "account": {"leverage": rng.choice((1, 3, 20))},
            "risk": {
                "max_position": rng.choice((0.3, 1.0)),
                "max_order": rng.choice((0.3, 1.0)),
                "max_leverage": rng.choice((0.5, 1.5)),
                "max_orders_per_minute": rng.choice((1, 3, 60, 60)),
                "max_daily_loss": rng.choice((0.02, 0.5)),
                "max_drawdown": rng.choice((0.04, 0.9)),
                "stale_after": rng.choice(("30s", "5m")),
            },
            "paper": {
                "funding_interval": "5m",
                "funding_rate": "0.001",
                "max_participation": rng.choice((0.001, 0.1)),
                "limit_fill": rng.choice(("through", "touch")),
                "latency": rng.choice((0, 250, 90_000)),
            },
            "bybit": {
                "endpoint": "http://127.0.0.1:9",
                "warmup_bars": rng.choice((0, 5, 30)),
                "backfill_timeout": "60s",
            },
            "news": {
                "feeds": [{"url": url, "name": url[-7:], "interval": "30s"} for url in FEEDS],
                "backlog_age": "1h",
                "retry": {"first": "10s", "ceiling": "1m"},
            },
            "live": {
                "folder": str(folder),
                "queue": rng.choice((2, 100, 10_000)),
                "queue_news": rng.choice((2, 1_000, 1_000)),
                "batch": rng.choice((1, 1, 5, 1_000)),
                "open_bars_every": rng.choice((0, 20_000)),
                "score_batch": rng.choice((1, 4, 32)),
                "score_wait": rng.choice((1, 500)),
            },
            "store": {"snapshot_every": rng.choice((0, "5s", "3m"))},
        },
        where="tests/simulation/random_config.py",
    )


def random_execution(rng: random.Random) -> dict[str, Any]:
    """Draw paper or venue execution, and the timeouts of the gateway."""
    venue = {
        "venue": "http://127.0.0.1:9",
        "max_skew": "1h",
        "start_within": rng.choice(("60s", "10m")),
        "request_timeout": rng.choice(("1s", "2s", "10s")),
        "expire_after": rng.choice(("1s", "5s", "30s", "10m")),
        "reconcile_every": rng.choice(("10s", "60s")),
        "ban_wait": "60s",
        "foreign": rng.choice(("refuse", "refuse", "ignore", "adopt")),
    }
    return {"mode": rng.choice(("paper", "testnet")), "testnet": venue}
