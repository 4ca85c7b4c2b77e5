"""Loading of the fusion model for a backtest, the live agent and `verify`."""

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
    """Load the configured model; None if `fusion.path` is empty.

    Raises ModelError as loading does, ConfigError if the strategy needs predictions and no model is
    configured.
    """
    if not config.fusion.path:
        for one in config.strategies().values():
            if strategy_class(one.name).overrides("on_prediction"):
                raise ConfigError(
                    f"strategy {one.name} trades on predictions, but no model is configured",
                    hint="set fusion.path or --fusion to a folder made by `tapewire train fusion`",
                )
        return None
    from models.fusion.serve.predictor import FusionPredictor

    return FusionPredictor.load(Path(config.fusion.path).expanduser())


def reopen_predictor(config: Config, run: Run) -> FusionPredictor | None:
    """Load the model that `run` used; None if it used none.

    Raises UsageError if the folder is missing, DataError if it holds another model.
    """
    recorded = run.versions.get(FUSION_VERSION)
    if recorded is None:
        return None
    folder = Path(config.fusion.path).expanduser()
    if not folder.is_dir():
        missing = f"{folder}, the fusion model of this run, does not exist"
        raise UsageError(missing, hint="its predictions can't be made again without it")
    predictor = open_predictor(config)
    if predictor is None or predictor.fingerprint != recorded:
        hint = f"the run needs the model with fingerprint {recorded[:16]}…"
        raise DataError(f"{folder} holds another fusion model than the one that this run used", hint=hint)
    return predictor


def wants_headlines(config: Config) -> bool:
    """Return whether a strategy or the fusion model needs news."""
    kinds = [strategy_class(one.name) for one in config.strategies().values()]
    news = ("on_news", "on_sentiment", "on_signal", "on_signal_expired")
    if any(kind.overrides(*news) for kind in kinds):
        return True
    if not config.fusion.path:
        # of a model that is not trained yet
        return any(kind.overrides("on_prediction") for kind in kinds)
    predictor = open_predictor(config)
    return predictor is not None and predictor.reads_text


def check_scorer(predictor: FusionPredictor | None, scorer: str) -> None:
    """Raise ConfigError if the fusion model was trained with another scorer than that of hash `scorer`."""
    if predictor is not None and predictor.reads_text and predictor.scorer != scorer:
        own, other = predictor.fingerprint[:12], predictor.scorer[:12]
        raise ConfigError(
            f"the fusion model {own}… was trained with sentiment model {other}…, not with {scorer[:12]}…",
            hint="set model.path to that model, or train the fusion model again",
        )
