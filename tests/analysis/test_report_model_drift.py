"""The section of a report about the model that scored the run's headlines."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from agent.analysis.report.html import render
from agent.analysis.report.report_loader import load_report_data
from agent.core.events import HOUR_MS
from models.cards import Card, ReferenceShares, write_card
from models.sentiment.serve.drift import CLASS, UNKNOWN_TOKENS, reference_shares
from models.sentiment.serve.headline_score import HeadlineScore
from tests.analysis.stored import record_run
from tests.analysis.test_report import Page

NEVER_SEEN = reference_shares([HeadlineScore(0.1, 0.8, 0.1)] * 200, [0.01] * 200)


def stored_model(folder: Path, card: Card) -> str:
    """Write the card of a model folder; return the folder."""
    (folder / "model").mkdir()
    write_card(card, folder / "model")
    return str(folder / "model")


def test_a_recorded_run_is_compared_with_its_models_training_texts(tmp_path: Path) -> None:
    model = stored_model(tmp_path, Card(base="b", method="m", fingerprint="model", reference=NEVER_SEEN))
    data = load_report_data(record_run(tmp_path, headlines=120, model=model))
    assert data.model_drift is not None
    drift = data.model_drift.drift
    assert (drift.state, drift.headlines) == ("drifted", 120)
    assert drift.of(CLASS).live == (0.5, 0.0, 0.5)
    assert drift.of(UNKNOWN_TOKENS).state == "unknown"  # no event carries them
    text = " ".join(Page(render(data)).text.split())
    assert "The 120 headlines that the model model scored, compared with its training texts: drifted" in text
    assert "neutral 0.0 %100.0 %" in text
    assert msgspec.json.decode(msgspec.json.encode(data.model_drift), type=type(data.model_drift)) == (
        data.model_drift
    )


@pytest.mark.parametrize(
    ("fingerprint", "reference", "reason"),
    [
        ("model", None, "the model's card has no reference shares"),
        ("other", NEVER_SEEN, "holds another model than the one that scored"),
        ("", None, "does not exist"),
    ],
    ids=["a card without a reference", "another model", "no folder"],
)
def test_without_a_reference_the_report_gives_the_reason(
    tmp_path: Path, fingerprint: str, reference: ReferenceShares | None, reason: str
) -> None:
    card = Card(base="b", method="m", fingerprint=fingerprint, reference=reference)
    model = stored_model(tmp_path, card) if fingerprint else str(tmp_path / "deleted")
    data = load_report_data(record_run(tmp_path, headlines=120, model=model))
    assert data.model_drift is not None
    assert data.model_drift.drift.state == "unknown"
    assert reason in data.model_drift.drift.reason
    assert reason in Page(render(data)).text


def test_calls_are_compared_with_the_hourly_closes(tmp_path: Path) -> None:
    """Prices rise each hour; headlines come at half past, two of a story, bearish and bullish by turns."""
    data = load_report_data(record_run(tmp_path, hours=48, headlines=40))
    assert data.model_drift is not None
    moves = data.model_drift.moves
    assert moves.horizon == HOUR_MS
    sides = {side: (one.calls, one.rate) for side, one in moves.sides.items()}
    assert sides == {"all": (20, 0.5), "bullish": (10, 1.0), "bearish": (10, 0.0)}
    assert (moves.unmoved, moves.unpriced, moves.pending) == (0, 0, 0)


def test_a_run_that_scored_nothing_has_no_section(tmp_path: Path) -> None:
    data = load_report_data(record_run(tmp_path))
    assert data.model_drift is None
    assert "Model drift" not in Page(render(data)).text
