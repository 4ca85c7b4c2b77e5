"""The sentiment model of a recorded run: drift of its scores, and the price moves after them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from agent.analysis.daily import Closes
from agent.analysis.realised_moves import directional_call, moves_of_run
from agent.analysis.report.report_data import ModelDrift
from agent.analysis.report.revisions import first_answers
from agent.analysis.report.scored_headlines import ScoredHeadline
from agent.config import Config
from agent.core.errors import ModelError
from agent.core.events import Sentiment
from agent.store.database import Database
from agent.store.queries import read_rows
from models.cards import Card, ReferenceShares, read_card
from models.sentiment import ENSEMBLE, SERVER, model_dir
from models.sentiment.ensemble.ensemble_file import Ensemble, read_ensemble
from models.sentiment.serve.drift import NO_REFERENCE, SentimentWindow


def model_drift_of(
    database: Database,
    run_id: str,
    config: Config,
    scored: Iterable[ScoredHeadline],
    closes: Mapping[str, Closes],
) -> ModelDrift | None:
    """Judge the model of a run, by its first scores; None if nothing was scored. `scored` has one call per
    story and symbol.
    """
    window = SentimentWindow(None)
    for sentiment in first_answers(read_rows(database, run_id, Sentiment)):
        window.add(sentiment, model=sentiment.model)
    if not len(window):
        return None
    calls = (directional_call(one.sentiment, one.symbol) for one in scored)
    moves = moves_of_run(
        (call for call in calls if call is not None),
        closes,
        config.market.interval,
        config.monitoring.move_horizon,
    )
    return ModelDrift(window.compare(*_reference(config, window.model)), moves)


def _reference(config: Config, fingerprint: str) -> tuple[ReferenceShares | None, str]:
    """Return the reference of the model with this fingerprint, or None and the reason."""
    if not fingerprint:
        return None, "the scores name no model"
    path = config.model.path
    if path.startswith(SERVER):
        return None, "a language model has no reference"
    try:
        found: Card | Ensemble
        if path.startswith(ENSEMBLE):
            found = read_ensemble(Path(path.removeprefix(ENSEMBLE)).expanduser())
        else:
            found = read_card(model_dir(path))
    except ModelError as error:
        return None, error.message
    if found.fingerprint != fingerprint:
        return None, f"{path} holds another model than the one that scored"
    return found.reference, NO_REFERENCE
