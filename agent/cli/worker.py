"""`tapewire worker sentiment`: score headlines for agents, on any machine that reaches the broker."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from agent.cli.console import err
from agent.core.errors import UsageError


def register(app: typer.Typer) -> None:
    """Adds the group."""
    group = typer.Typer(help="Work for an agent on another machine.", no_args_is_help=True)
    group.callback()(_group)  # one verb in it, and it is named
    group.command("sentiment")(sentiment)
    app.add_typer(group, name="worker")


def _group() -> None:
    """Work for an agent on another machine."""


def sentiment(
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Configuration file; its [mqtt] is used.")
    ] = None,
    broker: Annotated[
        str,
        typer.Option("--broker", help="mqtt://HOST or mqtts://HOST; else mqtt.broker.", show_default=False),
    ] = "",
    model: Annotated[
        str,
        typer.Option(
            "--model", help="An exported model's folder, or starter; else model.path.", show_default=False
        ),
    ] = "",
    threads: Annotated[int, typer.Option("--threads", min=0, help="Of the model; 0: all cores.")] = 0,
    name: Annotated[
        str, typer.Option("--name", help="Its own on the broker [host and process].", show_default=False)
    ] = "",
    batch: Annotated[int, typer.Option("--batch", min=1, help="Headlines scored at once, at most.")] = 32,
) -> None:
    """Take headlines off the broker, score them, answer; until SIGINT or SIGTERM. Any number of workers share the work.

    The agent must run with workers.enabled on the same broker and prefix, and with the same model: another one's answers are refused.
    """
    import os
    import socket

    import structlog
    from pydantic import ValidationError

    from agent.cli.run import stop_on_signals
    from agent.config import load
    from agent.config.services import MqttConfig
    from agent.live.log import configure
    from agent.live.output import guard
    from agent.live.services.mqtt.sentiment_worker import SentimentWorker
    from models.sentiment import model_dir
    from models.sentiment.serve.scorer import Scorer

    settled = load(config)
    mqtt = settled.mqtt
    if broker:
        try:
            mqtt = MqttConfig.model_validate(mqtt.model_dump() | {"broker": broker})
        except ValidationError as error:
            reason = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise UsageError(f"--broker: {reason}", hint="e.g. mqtt://127.0.0.1:1883") from None
    guard("stderr")
    configure(settled.log)
    scorer = Scorer.load(model_dir(model or settled.model.path), threads=threads or None)
    called = name or f"{socket.gethostname()}-{os.getpid()}"
    worker = SentimentWorker(mqtt, scorer, called, batch=batch)
    structlog.get_logger(__name__).info("worker", name=called, model=scorer.fingerprint, broker=mqtt.broker)

    async def work() -> None:
        stop = stop_on_signals()
        working = asyncio.create_task(worker.run())
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        if not working.cancelled() and (error := working.exception()) is not None:
            raise error

    asyncio.run(work())
    err.print(f"{worker.scored:,} headlines scored, {worker.repeated:,} answered again", highlight=False)
