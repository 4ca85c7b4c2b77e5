"""`tapewire train reader`: labelled headlines become a model folder that the agent loads."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

pytest.importorskip("torch")

from agent.core.errors import DataError, UsageError
from models.cards import read_card
from tests.support.command_line import run_command

pytestmark = pytest.mark.train

UPS, DOWNS = ("surges", "rallies", "wins approval"), ("plunges", "is hacked", "halts withdrawals")
ENDS = ("on heavy volume", "after the report", "as traders watch", "before the weekend", "in early trade")
LABELS = {"bitcoin": "BTC", "ether": "ETH"}


def tapewire(*arguments: str | Path) -> str:
    """Run `tapewire` in this process and return its standard output; its errors are raised."""
    result = run_command(arguments)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Write dated headlines that are good for one asset and bad for another, in random order of time."""
    rows = []
    for winner, loser in (("bitcoin", "ether"), ("ether", "bitcoin")):
        for up in UPS:
            for down in DOWNS:
                for end in ENDS:
                    labels = {LABELS[winner]: "bullish", LABELS[loser]: "bearish"}
                    story = " ".join(f"w{len(rows)}{letter}" for letter in "abcdefgh")  # else near-duplicates
                    title = f"{winner} {up} as {loser} {down} {end} {story}"
                    label = ("bearish", "neutral", "bullish")[len(rows) % 3]
                    rows.append((title, label, json.dumps(labels), "failure" if "hack" in down else "price"))
    frame = pd.DataFrame(rows, columns=["title", "label", "assets", "kind"]).sample(frac=1, random_state=1)
    frame["published_at"] = [datetime(2022, 1, 1, tzinfo=UTC) + timedelta(days=n) for n in range(len(frame))]
    frame.to_parquet(tmp_path / "labelled.parquet")
    return tmp_path / "labelled.parquet"


@pytest.mark.slow
def test_a_reader_is_trained_exported_and_scores_each_asset(
    labelled: Path, tiny_bases: dict[str, Path], tmp_path: Path
) -> None:
    output = tmp_path / "models" / "reader"
    options = (
        "--epochs",
        "12",
        "--batch-size",
        "16",
        "--learning-rate",
        "2e-3",
        "--base",
        tiny_bases["mean"],
    )
    card = json.loads(
        tapewire(
            "train", "reader", "--data", labelled, "--format", "wire", "--output", output, *options, "--json"
        )
    )
    assert card["metrics"]["test_assets"]["accuracy"]["value"] > 0.9
    assert {"test", "test_mixed_assets", "test_kinds"} <= card["metrics"].keys()
    until = datetime(2022, 1, 1, tzinfo=UTC) + timedelta(days=89)
    assert card["trained_until"] == pytest.approx(until.timestamp() * 1000, abs=1)
    assert read_card(output).reference is not None  # for drift
    assert not list(tmp_path.glob("models/*.checkpoint"))
    score = json.loads(
        tapewire("score", "--model", output, "--json", "bitcoin surges as ether plunges in early trade")
    )
    assert score["assets"]["BTC"]["bullish"] > 0.5 > score["assets"]["BTC"]["bearish"]
    assert score["assets"]["ETH"]["bearish"] > 0.5 > score["assets"]["ETH"]["bullish"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"assets": "{}"}, "no headline has a label for an asset"),
        ({"kind": "gossip"}, "unknown kind of news 'gossip'"),
    ],
)
def test_headlines_that_cannot_teach_a_reader_are_refused(
    labelled: Path, tmp_path: Path, change: dict[str, str], message: str
) -> None:
    pd.read_parquet(labelled).assign(**change).to_parquet(labelled)
    with pytest.raises(DataError, match=message):
        tapewire("train", "reader", "--data", labelled, "--format", "wire", "--output", tmp_path / "out")


def test_each_file_has_a_format_or_all_have_one(labelled: Path) -> None:
    files = ("--data", labelled, "--data", labelled, "--data", labelled)
    with pytest.raises(UsageError, match="3 --data but 2 --format"):
        tapewire("train", "reader", *files, "--format", "wire", "--format", "sentfin")
