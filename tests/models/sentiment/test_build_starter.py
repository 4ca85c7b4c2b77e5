"""The starter's recipe: training, calibration and held-out data stay separate."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest

pytest.importorskip("torch")

from agent.core.errors import DataError
from models.sentiment.train.datasets import Example
from models.sentiment.train.splits import Fractions, make_split
from tools import build_starter
from tools.build_starter import CORPUS_REPEATS, headline_key, load_headlines, mix, varied

pytestmark = pytest.mark.train

EARLY, CALIBRATING, TOO_LATE = (
    datetime(*day, 9, tzinfo=UTC) for day in ((2023, 11, 5), (2023, 12, 20), (2024, 2, 1))
)


@pytest.fixture
def news(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rows = [
        (EARLY, "Miner adds to its fleet"),
        (EARLY, "Bridge is drained"),
        (CALIBRATING, "Bridge is drained!"),  # the same story as an earlier headline
        (CALIBRATING, "Fund opens to savers"),
        (CALIBRATING, "Nobody labelled this one"),
        (TOO_LATE, "The future is known"),
    ]
    pd.DataFrame(rows, columns=["published_at", "title"]).to_parquet(tmp_path / "news.parquet")
    labels = tmp_path / "labels.csv"
    picked = {"Bridge is drained!": "bearish", "Fund opens to savers": "bullish"}
    labels.write_text(
        "sha256,label\n" + "".join(f"{headline_key(text)},{label}\n" for text, label in picked.items()),
        "utf-8",
    )
    monkeypatch.setattr(build_starter, "HEADLINE_LABELS", labels)
    return tmp_path / "news.parquet"


def test_no_story_is_used_for_both_training_and_calibration(news: Path) -> None:
    unlabelled, labelled, record = load_headlines(news)
    assert unlabelled == ["Miner adds to its fleet"]
    assert {(example.text, example.label) for example in labelled} == {
        ("Bridge is drained!", "bearish"),
        ("Fund opens to savers", "bullish"),
    }
    assert record.latest == int(datetime(2024, 1, 1, tzinfo=UTC).timestamp() * 1000)


def test_a_headline_file_that_lacks_a_labelled_headline_is_refused(news: Path) -> None:
    pd.read_parquet(news).query("title != 'Fund opens to savers'").to_parquet(news)
    with pytest.raises(DataError, match="lacks 1 of the headlines"):
        load_headlines(news)


def test_the_shipped_labels_contain_hashes_instead_of_text() -> None:
    lines = build_starter.HEADLINE_LABELS.read_text("utf-8").splitlines()
    assert len(lines) == 241
    assert all(len(key) == 16 and int(key, 16) >= 0 for key, _ in (line.split(",") for line in lines[1:]))


def test_small_sets_are_repeated_and_held_out_parts_are_not_trained_on(
    headlines: tuple[Example, ...],
) -> None:
    fractions = Fractions(0.1, 0.1, 0.1)
    splits = {
        "tfns": make_split(headlines[:60], fractions),
        "fiqa": make_split(headlines[60:90], fractions),
        "corpus": make_split(headlines[90:], fractions),
    }
    mixed = mix(splits)
    shown = [example.text for example in mixed.train]
    assert {shown.count(example.text) for example in splits["corpus"].train} == {CORPUS_REPEATS}
    assert {shown.count(example.text) for example in splits["tfns"].train} == {1}
    assert not set(shown) & {example.text for example in (*mixed.validation, *mixed.calibration, *mixed.test)}


def test_variations_are_reproducible_and_add_only_names_of_coins() -> None:
    texts = ["Bitcoin falls as the fund sells its last holdings", "Bank opens"] * 20
    variations = varied(texts, seed=1)
    assert variations == varied(texts, seed=1) != texts
    coins = set(build_starter._COINS)
    for text, variation in zip(texts, variations, strict=True):
        assert variation
        assert set(variation.lower().split()) - coins <= set(text.lower().split())
