"""`tapewire worker sentiment`: score headlines for agents on other machines."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli.command_options import ConfigFile
from agent.cli.console import err
from agent.cli.typer_setup import option
from agent.core.errors import UsageError

if TYPE_CHECKING:
    from agent.data.sentiment import NamedScorer


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
            "--model",
            "Exported or trained model, starter, openai:URL#MODEL or ensemble:FOLDER.",
            "MODEL",
            "model.path",
        ),
    ] = "",
    stands_for: Annotated[
        Path | None,
        option(
            "--stands-for",
            "Export of the trained --model, which the agent runs: answer in its name.",
            "FOLDER",
            "answer as another model",
        ),
    ] = None,
    precision: Annotated[
        str, option("--precision", "Of a trained --model: auto, fp32, bf16 or 4bit.", "NAME")
    ] = "auto",
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

    A trained model, such as a language model with an adapter, runs in torch: in bfloat16 or 4 bits on a GPU.
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
    from models.cards import CARD_NAME
    from models.sentiment import is_local, model_dir
    from models.sentiment.open_scorer import open_scorer
    from models.sentiment.scorer_facts import close_scorer
    from models.sentiment.serve.scorer import MODEL_NAME

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
    path = model or settled.model.path
    folder = model_dir(path) if is_local(path) else None
    scorer: NamedScorer
    if folder is not None and (folder / CARD_NAME).is_file() and not (folder / MODEL_NAME).is_file():
        scorer = _torch_scorer(folder, stands_for, precision)
    else:
        if stands_for is not None:
            raise UsageError(f"{path} is served as itself", hint="leave --stands-for away")
        scorer = open_scorer(path, settled, finder=finder, threads=threads or None)
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


def _torch_scorer(folder: Path, stands_for: Path | None, precision: str) -> NamedScorer:
    """Return a scorer that runs a trained folder in torch, which is imported here alone."""
    from agent.cli.model_options import needs_training_libraries

    with needs_training_libraries():
        from models.sentiment.train import silence_warnings

        silence_warnings()
        from models.sentiment.train.torch_scorer import StandIn, TorchScorer

    scorer = TorchScorer.load(folder, precision=precision)  # type: ignore[arg-type]  # it checks the name
    err.print(f"{folder}: torch, {scorer.precision}")
    if stands_for is None:
        return scorer
    stand_in = StandIn(scorer, stands_for)
    err.print(f"{stand_in.agreement:.1%} of the reference headlines have the export's label")
    return stand_in
