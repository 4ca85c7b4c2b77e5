"""Model cards: round trip, training cut-off, fingerprint, and refusal of cards that cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.core.errors import ModelError
from models.cards import (
    Card,
    CoverageRow,
    DatasetRecord,
    Estimate,
    fingerprint,
    latest_of,
    read_card,
    write_card,
)

YEAR_2019 = 1546300800000


def record(latest: int | None) -> DatasetRecord:
    return DatasetRecord(name="a.csv", format="csv", sha256="0" * 64, rows=3, latest=latest)


def test_a_card_survives_a_round_trip(tmp_path: Path) -> None:
    card = Card(
        base="embedded",
        method="lora",
        datasets=(record(YEAR_2019),),
        temperature=1.5,
        coverage=(CoverageRow(0.7, 0.5, 0.9), CoverageRow(0.99, 0.0, None)),
        metrics={"test": {"accuracy": Estimate(0.8, 0.7, 0.9)}},
        hyper={"rank": 8, "targets": "auto"},
    )
    write_card(card, tmp_path)
    assert read_card(tmp_path) == card


def test_trained_until_is_the_latest_date_of_the_datasets_and_ignores_eventless_ones() -> None:
    assert latest_of([record(YEAR_2019), record(None), record(5)]) == YEAR_2019
    assert latest_of([record(None)]) == 0
    assert Card(base="b", method="m", trained_until=YEAR_2019).trained_until_iso == "2019-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "holds no card.json"),
        (b"{", "damaged"),
        (b'{"method": "lora"}', "missing required field `base`"),
        (b'{"base": "b", "method": "m", "format": 99}', "newer than this version"),
        (b'{"base": "b", "method": "m", "labels": ["up", "down"]}', "labels"),
    ],
)
def test_an_unusable_card_raises_an_error_with_the_reason(
    content: bytes | None, complaint: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "card.json").write_bytes(content)
    with pytest.raises(ModelError, match=complaint):
        read_card(tmp_path)


def test_a_fingerprint_depends_on_contents_and_temperature_but_not_on_file_order(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("weights")
    (tmp_path / "b").write_text("words")
    both = fingerprint([tmp_path / "a", tmp_path / "b"], 1.0)
    assert both == fingerprint([tmp_path / "b", tmp_path / "a"], 1.0)
    assert both != fingerprint([tmp_path / "a", tmp_path / "b"], 1.1)
    (tmp_path / "b").write_text("other words")
    assert both != fingerprint([tmp_path / "a", tmp_path / "b"], 1.0)
