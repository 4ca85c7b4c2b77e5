"""Run an agent until SIGTERM.

    python -m tests.support.agent_child URL FOLDER NOW ANCHOR SPEED [REVISER WITHIN]

REVISER is the path of a language model that revises the scores within WITHIN.
"""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import closing
from pathlib import Path

from agent.cli.console import stop_on_signals
from agent.live.app import make_agent
from agent.live.log import configure
from agent.live.model_loader import model_loader
from agent.store.database import open_database
from agent.system.clock import ScaledClock
from tests.support.live import SENTIMENT, load_words, settings


async def main(
    url: str, folder: str, now: str, anchor: str, speed: str, reviser: str = "", within: str = "30s"
) -> None:
    model = {"revise_with": reviser, "revise_within": within}
    log = {"format": "json", "level": "info"}
    config = settings(
        url,
        Path(folder),
        strategy=SENTIMENT,
        log=log,
        model=model,
        llm={"fallback": "", "deadline": "1h"},
        news={
            "backlog_age": "2d"
        },  # a process that starts late on a busy machine still has headlines to trade
    )
    configure(config.log)
    # The market's clock: it was `now` (UTC ms) at `anchor` (the machine's time, UTC ms)
    clock = ScaledClock(
        int(now) + round((time.time_ns() // 1_000_000 - int(anchor)) * float(speed)), float(speed)
    )
    with closing(open_database(config.store.url)) as database:
        load_server = model_loader(config, database)
        agent = make_agent(
            config,
            database,
            load_model=lambda path: load_server(path) if path == reviser else load_words(path),
            clock=clock,
        )
        await agent.run(stop_on_signals())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
