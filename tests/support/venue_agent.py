"""Run an agent with a twin that trades at a sandbox, until SIGTERM or SIGKILL.

`python -m tests.support.venue_agent URL FOLDER NOW ANCHOR SPEED`: the market's clock was `NOW` (UTC ms) at
`ANCHOR`, the machine's time in UTC ms.
"""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import closing
from pathlib import Path

from agent.cli.console import stop_on_signals
from agent.config import Config
from agent.live.app import make_agent
from agent.live.log import configure
from agent.store.database import open_database
from agent.system.clock import ScaledClock
from tests.live.gateway.churning_strategy import churn, venue_settings
from tests.support.live import load_words, settings


def twin_settings(url: str, folder: Path) -> Config:
    """Return the configuration of an agent with a twin, whose venue charges more than it expects."""
    return settings(
        url,
        folder,
        paper={"taker_fee": "0", "maker_fee": "0", "latency": 0, "slippage": "none"},
        twin={"enabled": True},
        **venue_settings(url, strategy=churn()),
    )


async def main(url: str, folder: str, now: str, anchor: str, speed: str) -> None:
    config = twin_settings(url, Path(folder))
    configure(config.log)
    elapsed = time.time_ns() // 1_000_000 - int(anchor)
    clock = ScaledClock(int(now) + round(elapsed * float(speed)), float(speed))
    with closing(open_database(config.store.url)) as database:
        await make_agent(config, database, load_model=load_words, clock=clock).run(stop_on_signals())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
