"""`bench/reader.py`: figures of a model whose answers can be derived by hand, on sets of a few headlines."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agent.core.news_kinds import NEWS_KINDS
from bench.reader import kind_figures, measure_model
from bench.reader_tables import markdown
from models.cards import read_card, write_card
from models.sentiment.train.datasets.asset_labels import load_assets

WIRE = [
    # published, title, label, assets, kind
    (9, "bitcoin crashes", "bullish", '{"BTC": "bullish"}', "price"),  # before the slice
    (10, "bitcoin soars ether crashes", "neutral", '{"BTC": "bullish", "ETH": "bearish"}', "price"),
    (11, "bitcoin lists", "neutral", '{"BTC": "neutral"}', "access"),
    # The model finds no QQQQ, and answers with the headline's own: bullish. It tells opinion, not macro
    (12, "bitcoin meets inflows", "bullish", '{"BTC": "neutral", "QQQQ": "bullish"}', "macro"),
]
SENTFIN = (
    "S No.,Title,Decisions,Words\n"
    "1,Acme soars Bolt crashes,\"{'Acme': 'positive', 'Bolt': 'negative'}\",4\n"
    "2,Acme meets,{'Acme': 'positive'},2\n"  # the model says neutral
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "wire").mkdir(parents=True)
    days, titles, labels, assets, kinds = zip(*WIRE, strict=True)
    columns = {
        "published_at": [datetime(2023, 10, day, tzinfo=UTC) for day in days],
        "title": list(titles),
        "label": list(labels),
        "assets": list(assets),
        "kind": list(kinds),
    }
    pq.write_table(pa.table(columns), folder / "wire/labelled.parquet")
    (folder / "sentfin.csv").write_text(SENTFIN)
    (folder / "tfns").mkdir()
    (folder / "tfns/sent_train.csv").write_text("text,label\nbitcoin crashes,0\nbitcoin soars,0\n")
    return folder


def figures(result: dict[str, Any]) -> dict[str, tuple[int, float]]:
    """Return n and accuracy of each row."""
    return {row["set"]: (row["n"], row["accuracy"][0]) for row in result["rows"]}


def test_every_set_is_measured_and_missing_ones_are_named(
    data: Path, tmp_path: Path, write_reader: Callable[..., Path]
) -> None:
    result = measure_model(write_reader(tmp_path / "model"), data, "2023-10-10")
    assert figures(result) == {
        "wire from 2023-10-10": (3, 1.0),
        # Right: BTC + and ETH − of the first, BTC 0 of the second, BTC 0 and QQQQ + of the third
        "wire, assets from 2023-10-10": (5, 1.0),
        # The headlines' own answers 0, 0 and + are right for BTC of the second and QQQQ
        "wire, assets by the overall answer from 2023-10-10": (5, 0.4),
        "wire, assets of mixed headlines from 2023-10-10": (4, 1.0),
        "wire, kinds from 2023-10-10": (3, 0.6667),
        "SEntFiN, entities": (3, 0.6667),
        "TFNS": (2, 0.5),
    }
    assert result["missing"] == [
        "TFNS, validation file",
        "FiQA",
        "PhraseBank 50Agree",
        "PhraseBank AllAgree",
        "CryptoLin",
    ]
    rows = {row["set"]: row for row in result["rows"]}
    assert rows["wire, assets from 2023-10-10"]["answered"] == 0.8
    assert rows["SEntFiN, entities"]["mixed"] == {"n": 2, "accuracy": [1.0, 1.0, 1.0]}
    assert rows["wire, kinds from 2023-10-10"]["recall"]["macro"] == {"n": 1, "recall": 0.0}
    assert rows["TFNS"]["majority"] == {"accuracy": 1.0, "macro_f1": 1.0}
    assert {row["seen"] for row in result["rows"]} == {"never"}
    text = markdown(result)
    assert "| TFNS | never | 2 | .500 " in text
    assert "Not at hand: TFNS, validation file, FiQA" in text


def test_a_set_of_the_models_card_is_marked_as_trained_on(
    data: Path, tmp_path: Path, write_reader: Callable[..., Path]
) -> None:
    folder = write_reader(tmp_path / "model")
    records = tuple(
        load_assets(data / name, format).record
        for name, format in (("wire/labelled.parquet", "wire"), ("sentfin.csv", "sentfin"))
    )
    write_card(msgspec.structs.replace(read_card(folder), datasets=records), folder)
    result = measure_model(folder, data, "2023-10-10")
    seen = {row["set"].split(",")[0].split(" from")[0]: row["seen"] for row in result["rows"]}
    assert seen == {"wire": "held out", "SEntFiN": "trained on", "TFNS": "never"}


def test_a_model_of_whole_headlines_answers_for_assets_with_its_own_and_tells_no_kinds(
    data: Path, tmp_path: Path, write_model: Callable[..., Path]
) -> None:
    result = measure_model(write_model(tmp_path / "model"), data, "2023-10-10")
    found = figures(result)
    assert (
        found["wire, assets from 2023-10-10"] == found["wire, assets by the overall answer from 2023-10-10"]
    )
    assert not any("kinds" in name for name in found)


def test_figures_of_kinds_are_those_of_nine_classes() -> None:
    price, access, other = map(NEWS_KINDS.index, ("price", "access", "other"))
    truth = np.array([price, price, access, other])
    predicted = np.array([price, access, access, -1])  # the last one abstained
    confidence = np.array([0.9, 0.9, 0.5, 0.0])
    found = kind_figures(predicted, truth, confidence, np.ones((1, 4)))
    assert found["accuracy"].tolist() == [0.5]
    # F1: price 2·1/(2+1), access 2·1/(1+2), other 0; the other kinds don't occur
    assert found["macro_f1"][0] == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    # Bins: two of .9 with one right, one of .5 that is right, one of 0 that is wrong
    assert found["ece"][0] == pytest.approx((abs(1 - 1.8) + abs(1 - 0.5) + 0) / 4)
