"""How the rims open the fusion model: for a backtest, for the running agent, and again for `verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from agent.config import Config
from agent.core.errors import ConfigError, DataError, UsageError
from agent.store.runs import FUSION_VERSION, Run
from strategies import strategy_class

if TYPE_CHECKING:
    from models.fusion.serve.predictor import FusionPredictor


def open_predictor(config: Config) -> FusionPredictor | None:
    """The configured model; None where none is named.

    Raises ModelError as loading does, ConfigError where the strategy waits for predictions that nobody makes.
    """
    if not config.fusion.path:
        if strategy_class(config.strategy.name).overrides("on_prediction"):
            raise ConfigError(
                f"strategy {config.strategy.name} trades on predictions, and no model makes any",
                hint="fusion.path or --fusion names a folder made by `tapewire train fusion`",
            )
        return None
    from models.fusion.serve.predictor import FusionPredictor

    return FusionPredictor.load(Path(config.fusion.path).expanduser())


def reopen_predictor(config: Config, run: Run) -> FusionPredictor | None:
    """The model that `run` was decided with. Raises UsageError where it isn't there any more, DataError where it is another one."""
    recorded = run.versions.get(FUSION_VERSION)
    if recorded is None:
        return None
    folder = Path(config.fusion.path).expanduser()
    if not folder.is_dir():
        raise UsageError(
            f"{folder}, the fusion model of this run, is not there",
            hint="its predictions can't be made again without it",
        )
    predictor = open_predictor(config)
    if predictor is None or predictor.fingerprint != recorded:
        raise DataError(
            f"{folder} holds another fusion model than the one that this run was decided with",
            hint=f"it needs the one with fingerprint {recorded[:16]}…",
        )
    return predictor


def wants_headlines(config: Config) -> bool:
    """Whether the strategy or the fusion model needs news at all."""
    strategy = strategy_class(config.strategy.name)
    if strategy.overrides("on_news", "on_sentiment", "on_signal", "on_signal_expired"):
        return True
    if not config.fusion.path:
        return strategy.overrides("on_prediction")  # of a model that is yet to be trained
    predictor = open_predictor(config)
    return predictor is not None and predictor.reads_text


def check_scorer(predictor: FusionPredictor | None, scorer: str) -> None:
    """Raises ConfigError unless the fusion model understands the words of the sentiment model with the fingerprint `scorer`."""
    if predictor is not None and predictor.reads_text and predictor.scorer != scorer:
        raise ConfigError(
            f"the fusion model {predictor.fingerprint[:12]}… was trained on what sentiment model {predictor.scorer[:12]}… reads, "
            f"not on {scorer[:12]}…",
            hint="name that one in model.path, or train the fusion model again",
        )
