"""The starter's recipe: what is learned, what calibrates and what measures stay apart, also in time."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest

pytest.importorskip("torch")

import torch

from models.sentiment.train.splits import story_key
from tools.build_starter import KNOWN_UNTIL, Material, mean_weights, ms, read_material

pytestmark = pytest.mark.train

LEARNED, CALIBRATING, MEASURING, TOO_LATE = (
    datetime(*day, 9, tzinfo=UTC) for day in ((2023, 8, 5), (2023, 9, 5), (2023, 10, 5), (2023, 11, 5))
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Write small sets in the formats of the public ones."""
    wire = [
        (LEARNED, "Money rotates from Bitcoin into Ethereum", {"BTC": "bearish", "ETH": "bullish"}),
        (CALIBRATING, "Bridge is drained of Ethereum", {"ETH": "bearish"}),
        (MEASURING, "Fund opens to savers", {}),
        (TOO_LATE, "The future is known", {}),
    ]
    for folder in ("sentiment/wire", "sentiment/tfns", "sentiment/fiqa", "news"):
        (tmp_path / folder).mkdir(parents=True)
    pd.DataFrame(
        [
            (f"T{number}", day, "Wire", title, "neutral", json.dumps(assets), "price")
            for number, (day, title, assets) in enumerate(wire)
        ],
        columns=["id", "published_at", "publisher", "title", "label", "assets", "kind"],
    ).to_parquet(tmp_path / "sentiment/wire/labelled.parquet")
    news = [
        (LEARNED, "Miner adds Bitcoin to its fleet"),
        (LEARNED, "Miner adds Bitcoin to its fleet"),
        (LEARNED, "Bridge is drained of Ethereum!"),  # the story of a headline that calibrates
        (CALIBRATING, "Nobody labelled this one"),
        (TOO_LATE, "The future is known to nobody"),
    ]
    pd.DataFrame(news, columns=["published_at", "title"]).to_parquet(
        tmp_path / "news/crypto-headlines-2018-2023.parquet"
    )
    (tmp_path / "sentiment/sentfin.csv").write_text(
        "S No.,Title,Decisions,Words\n"
        "1,Acme rises as Bolt falls,\"{'Acme': 'positive', 'Bolt': 'negative'}\",5\n"
    )
    (tmp_path / "sentiment/tfns/sent_train.csv").write_text(
        "text,label\n" + "".join(f"tweet number {n} of the day,{n % 3}\n" for n in range(60))
    )
    posts = {
        str(n): {
            "sentence": f"post number {n} of the day",
            "info": [{"target": "Acme", "sentiment_score": f"{(n % 3 - 1) / 2}"}],
        }
        for n in range(60)
    }
    (tmp_path / "sentiment/fiqa/task1_post_ABSA_train.json").write_text(json.dumps(posts))
    return tmp_path


@pytest.fixture
def material(data: Path) -> Material:
    return read_material(data)


def texts(material: Material) -> dict[str, list[str]]:
    return {
        "learned": [row.text for rows in material.learned.values() for row in rows],
        "calibrating": [row.text for row in material.calibrating],
        "measuring": [row.text for row in material.measuring],
    }


def test_the_month_of_a_labelled_headline_decides_what_it_is_used_for(material: Material) -> None:
    assert [row.text for row in material.learned["wire"]] == ["Money rotates from Bitcoin into Ethereum"]
    assert texts(material)["calibrating"] == ["Bridge is drained of Ethereum"]
    assert texts(material)["measuring"] == ["Fund opens to savers"]


def test_nothing_that_was_published_later_is_read_or_recorded(material: Material) -> None:
    assert not any("future is known" in text for part in texts(material).values() for text in part)
    assert max(record.latest or 0 for record in material.records) <= ms(KNOWN_UNTIL)


def test_a_headline_without_label_is_learned_once_and_never_the_story_of_a_labelled_one(
    material: Material,
) -> None:
    (only,) = material.learned["headlines"]
    assert (only.text, only.label) == ("Miner adds Bitcoin to its fleet", None)
    assert [(target.asset, target.spans) for target in only.targets] == [("BTC", ((11, 18),))]


def test_no_story_is_both_learned_and_measured(material: Material) -> None:
    learned = {story_key(text) for text in texts(material)["learned"]}
    later = [*material.calibrating, *material.measuring]
    held_out = [row.text for rows in [later, *material.held_out.values()] for row in rows]
    assert not learned & {story_key(text) for text in held_out}
    assert {name: bool(rows) for name, rows in material.held_out.items()} == {
        "tfns": True,
        "fiqa": True,
        "corpus": True,
    }


def test_the_weights_that_ship_are_the_mean_of_the_students_and_counters_stay() -> None:
    students = [
        {"bias": torch.full((3,), value), "steps": torch.tensor(number)}
        for number, value in enumerate((1.0, 2.0, 6.0))
    ]
    mean = mean_weights(students)
    assert mean["bias"].tolist() == [3.0, 3.0, 3.0]
    assert mean["steps"].item() == 0
