"""`tapewire worker sentiment`: score headlines for agents on other machines."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from agent.cli.command_options import ConfigFile
from agent.cli.console import err
from agent.cli.typer_setup import option
from agent.core.errors import UsageError


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(help="Run a worker for an agent on another machine.", no_args_is_help=True)
    group.command("sentiment")(sentiment)
    app.add_typer(group, name="worker")


def sentiment(
    config: ConfigFile = None,
    broker: Annotated[
        str, option("--broker", "MQTT broker: mqtt://HOST or mqtts://HOST.", "URL", "mqtt.broker")
    ] = "",
    model: Annotated[
        str,
        option(
            "--model", "Exported model, starter, openai:URL#MODEL or ensemble:FOLDER.", "MODEL", "model.path"
        ),
    ] = "",
    threads: Annotated[
        int, option("--threads", "Texts scored at the same time; 0: one per CPU core.", min=0)
    ] = 0,
    name: Annotated[str, option("--name", "Name on the broker.", "NAME", "host and process")] = "",
    batch: Annotated[int, option("--batch", "Maximum number of headlines scored at once.", min=1)] = 32,
) -> None:
    """Score headlines for agents over an MQTT broker until SIGINT or SIGTERM; workers share the load.

    The agent must run with workers.enabled, the same broker, the same prefix and the same model: it rejects
    scores of another model. It should also have the same market.symbols and instruments, by whose names
    assets are found.
    """
    import os
    import socket

    import structlog
    from pydantic import ValidationError

    from agent.cli.console import stop_on_signals
    from agent.config import load
    from agent.config.services import MqttConfig
    from agent.core.symbols import AssetFinder
    from agent.live.log import configure
    from agent.live.output import guard
    from agent.live.services.mqtt.sentiment_worker import SentimentWorker
    from models.sentiment.open_scorer import open_scorer
    from models.sentiment.scorer_facts import close_scorer

    settled = load(config)
    mqtt = settled.mqtt
    if broker:
        try:
            mqtt = MqttConfig.model_validate(mqtt.model_dump() | {"broker": broker})
        except ValidationError as error:
            reason = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise UsageError(f"--broker: {reason}", hint="such as mqtt://127.0.0.1:1883") from None
    guard("stderr")
    configure(settled.log)
    finder = AssetFinder(settled.market.symbols, settled.instruments)
    scorer = open_scorer(model or settled.model.path, settled, finder=finder, threads=threads or None)
    identity = name or f"{socket.gethostname()}-{os.getpid()}"
    worker = SentimentWorker(mqtt, scorer, identity, batch=batch)
    structlog.get_logger(__name__).info("worker", name=identity, model=scorer.fingerprint, broker=mqtt.broker)

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

    try:
        asyncio.run(work())
    finally:
        close_scorer(scorer)
    err.print(f"{worker.scored:,} headlines scored, {worker.repeated:,} sent again")
