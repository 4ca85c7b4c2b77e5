"""Sets with labels for each asset: the labelled wire and SEntFiN."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agent.core.errors import DataError, UsageError
from models.sentiment.train.datasets import load, year_end
from models.sentiment.train.datasets.asset_labels import (
    AssetTarget,
    EntityFinder,
    load_assets,
    parse_decisions,
)

NOON = datetime(2023, 5, 1, 12, tzinfo=UTC)


def wire(folder: Path, title: str, assets: str, *, label: str = "neutral", kind: str = "price") -> Path:
    path = folder / "wire.parquet"
    rows = {"published_at": [NOON], "title": [title], "label": [label], "assets": [assets], "kind": [kind]}
    pq.write_table(pa.table(rows), path)
    return path


def sentfin(folder: Path, *rows: str) -> Path:
    path = folder / "sentfin.csv"
    path.write_text("\n".join(("S No.,Title,Decisions,Words", *rows)) + "\n", "utf-8")
    return path


def test_a_headline_of_the_wire_has_its_kind_and_a_label_and_places_for_each_asset(tmp_path: Path) -> None:
    path = wire(tmp_path, "Money rotates from Bitcoin into #ETH", '{"BTC": "bearish", "ETH": "bullish"}')
    found = load_assets(path, "wire")
    (example,) = found.examples
    assert example.text == "Money rotates from Bitcoin into ETH"  # cleaned: the places are those of this text
    assert (example.label, example.kind, example.mixed) == ("neutral", "price", True)
    assert example.ts == int(NOON.timestamp() * 1000)
    assert example.targets == (
        AssetTarget("BTC", ((19, 26),), "bearish"),
        AssetTarget("ETH", ((32, 35),), "bullish"),
    )
    assert (found.record.rows, found.record.basis) == (1, "dated rows")
    assert found.record.latest == example.ts + 1


@pytest.mark.parametrize(
    ("title", "assets", "targets"),
    [
        ("Polygon slips", '{"MATIC": "bearish"}', {"POL": "bearish"}),
        ("MATIC becomes POL", '{"MATIC": "neutral", "POL": "neutral"}', {"POL": "neutral"}),
        ("MATIC out, POL in", '{"MATIC": "bearish", "POL": "bullish"}', {}),  # contradictory: no label
        ("Markets wait", "", {}),
    ],
)
def test_a_renamed_asset_has_one_name(
    title: str, assets: str, targets: dict[str, str], tmp_path: Path
) -> None:
    (example,) = load_assets(wire(tmp_path, title, assets), "wire").examples
    assert {target.asset: target.label for target in example.targets} == targets


def test_an_asset_whose_name_is_not_found_keeps_its_label_without_a_place(tmp_path: Path) -> None:
    (example,) = load_assets(
        wire(tmp_path, "An unheard-of thing falls", '{"QQQQ": "bearish"}'), "wire"
    ).examples
    assert example.targets == (AssetTarget("QQQQ", (), "bearish"),)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"kind": "prices"}, "row 1: unknown kind of news 'prices'.*did you mean price"),
        ({"label": "up"}, "row 1: unknown label 'up'"),
        ({"assets": '{"BTC": "up"}'}, "row 1: unknown label 'up'"),
        ({"assets": "BTC"}, "row 1: assets 'BTC'"),
    ],
)
def test_an_unreadable_row_of_the_wire_is_named(
    change: dict[str, str], complaint: str, tmp_path: Path
) -> None:
    path = wire(tmp_path, **({"title": "Bitcoin falls", "assets": ""} | change))
    with pytest.raises(DataError, match=complaint):
        load_assets(path, "wire")


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("{'MMTC': 'neutral'}", {"MMTC": "neutral"}),
        (
            "{'Sebi': 'neutral', 'Osian's Art Fund': 'negative'}",
            {"Sebi": "neutral", "Osian's Art Fund": "bearish"},
        ),
        ("""{"Moody's": 'positive'}""", {"Moody's": "bullish"}),
        ("{'A, B': 'positive', 'C': 'neutral'}", {"A, B": "bullish", "C": "neutral"}),
        ("{'Moody's': 'neutral', 'S&P': 'positive'}", {"Moody's": "neutral", "S&P": "bullish"}),
    ],
)
def test_decisions_are_read_with_unescaped_quotes_in_names(text: str, labels: dict[str, str]) -> None:
    assert parse_decisions(text) == labels


@pytest.mark.parametrize("text", ["", "{}", "{'A': 'neutral'", "{'A': }", "{'A': 'neutral', 'B'}", "['A']"])
def test_decisions_that_are_no_labels_by_name_are_refused(text: str) -> None:
    with pytest.raises(DataError, match=r"a\.csv:2: decisions"):
        parse_decisions(text, "a.csv:2")


@pytest.mark.parametrize(
    ("title", "decisions", "places"),
    [
        ("MMTC Q2 net loss", "{'MMTC': 'negative'}", {"MMTC": ((0, 4),)}),
        # Every place of a name; a name inside a longer one isn't its own
        (
            "HDFC Bank up as HDFC and HDFC Bank merge",
            "{'HDFC': 'neutral', 'HDFC Bank': 'positive'}",
            {"HDFC": ((16, 20),), "HDFC Bank": ((0, 9), (25, 34))},
        ),
        # The set's labels were substituted inside names
        ("IIFL Holdings surges", "{'IIFL neutralings': 'positive'}", {"IIFL Holdings": ((0, 13),)}),
        ("FTSE Russell opens", "{'FTSE Rusnegative': 'neutral'}", {"FTSE Russell": ((0, 12),)}),
        # A whole word rather than a part of another; a part if there is nothing else
        ("Niftys hold, Nifty up", "{'Nifty': 'positive'}", {"Nifty": ((13, 18),)}),
        ("RILs Q1 show", "{'RIL': 'positive'}", {"RIL": ((0, 3),)}),
        ("Nothing here", "{'ACC': 'positive'}", {"ACC": ()}),
    ],
)
def test_entities_are_found_by_their_names(
    title: str, decisions: str, places: dict[str, tuple[tuple[int, int], ...]], tmp_path: Path
) -> None:
    (example,) = load_assets(sentfin(tmp_path, f'1,"{title}","{decisions}",3'), "sentfin").examples
    assert {target.asset: target.spans for target in example.targets} == places


def test_a_headline_of_sentfin_has_a_label_of_its_own_only_if_its_entities_agree(tmp_path: Path) -> None:
    path = sentfin(
        tmp_path,
        "1,A up,{'A': 'positive'},2",
        "2,\"A and B up\",\"{'A': 'positive', 'B': 'positive'}\",4",
        "3,\"A up and B down\",\"{'A': 'positive', 'B': 'negative'}\",5",
    )
    found = load_assets(path, "sentfin")
    assert [example.label for example in found.examples] == ["bullish", "bullish", None]
    assert [example.mixed for example in found.examples] == [False, False, True]
    assert (found.record.latest, found.record.basis) == (year_end(2021), "published 2021")
    assert [example.text for example in load(path, "sentfin").examples] == ["A up", "A and B up"]


def test_the_entity_finder_returns_the_places_of_the_set_and_of_no_other_text(tmp_path: Path) -> None:
    examples = load_assets(sentfin(tmp_path, "1,A up,{'A': 'positive'},2"), "sentfin").examples
    finder = EntityFinder(examples)
    assert finder.find("A up") == {"A": ((0, 1),)}
    assert finder.find("A down") == {}


def test_a_format_without_labels_of_assets_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'tfns' has no labels of assets"):
        load_assets(tmp_path / "a.csv", "tfns")
    with pytest.raises(DataError, match="is not a file"):
        load_assets(tmp_path / "a.csv", "sentfin")


@pytest.mark.slow
@pytest.mark.shared
def test_the_labelled_wire_has_the_expected_size(shared_data: Path) -> None:
    path = shared_data / "data/sentiment/wire/labelled.parquet"
    examples = load_assets(path, "wire").examples
    assert len(examples) == len(load(path, "wire").examples) == 8000
    labels = Counter(target.label for example in examples for target in example.targets)
    assert sum(labels.values()) == 11_324  # of 11,325: MATIC and POL of one headline are one
    assert labels.most_common(1)[0][0] == "bullish"


@pytest.mark.slow
@pytest.mark.shared
def test_all_of_sentfin_is_read(shared_data: Path) -> None:
    examples = load_assets(shared_data / "data/sentiment/sentfin.csv", "sentfin").examples
    targets = [target for example in examples for target in example.targets]
    assert len(examples) == 10_753
    assert len(targets) == 14_405
    assert all(target.spans for target in targets)
