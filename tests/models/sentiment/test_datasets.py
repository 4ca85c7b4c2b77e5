"""Dataset formats: parsing of each official format, and errors that name the file and the row."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agent.core.errors import DataError, UsageError
from models.sentiment.train.datasets import Options, formats, load, year_end

FIQA = {
    "1": {
        "sentence": "Acme soars, Bolt sinks",
        "info": [
            {"target": "ACME", "sentiment_score": "0.8"},
            {"target": "BOLT", "sentiment_score": "-0.5"},
        ],
    },
    "2": {"sentence": "Acme is flat", "info": [{"target": "ACME", "sentiment_score": "0.05"}]},
}
SEMEVAL = [
    {"title": "Acme wins a contract", "company": "Acme", "sentiment": 0.6},
    {"spans": ["short it", "weak chart"], "cashtag": "$BOLT", "sentiment score": "-0.4"},
]
TABLE = "headline,mood\nFund buys more coins,positive\nExchange loses keys,negative\n"

READABLE = [
    (
        "phrasebank",
        "a.txt",
        "Kaup päättyi , says M\xe4kel\xe4 .@neutral\nProfit rose@positive\n".encode("latin-1"),
        Options(),
        [("Kaup päättyi , says Mäkelä", "neutral"), ("Profit rose", "bullish")],
    ),
    (
        "fiqa",
        "a.json",
        json.dumps(FIQA).encode(),
        Options(),
        [("Acme soars, Bolt sinks", "bullish"), ("Acme is flat", "neutral")],
    ),
    (
        "fiqa",
        "a.json",
        json.dumps(FIQA).encode(),
        Options(per_target=True),
        [
            ("ACME: Acme soars, Bolt sinks", "bullish"),
            ("BOLT: Acme soars, Bolt sinks", "bearish"),
            ("ACME: Acme is flat", "neutral"),
        ],
    ),
    (
        "fiqa",
        "a.csv",
        b"sentence,target,sentiment_score\nBolt sinks,BOLT,-0.2\n",
        Options(),
        [("Bolt sinks", "bearish")],
    ),
    (
        "semeval",
        "a.json",
        json.dumps(SEMEVAL).encode(),
        Options(),
        [("Acme wins a contract", "bullish"), ("short it. weak chart", "bearish")],
    ),
    (
        "tfns",
        "a.csv",
        b'text,label\n"down, again https://t.co/x",0\nup,1\nflat,2\n',
        Options(),
        [("down, again", "bearish"), ("up", "bullish"), ("flat", "neutral")],
    ),
    (
        "cryptolin",
        "a.csv",
        b"date,text,label\n2020-05-01,Wallet maker hires,neutral\n",
        Options(),
        [("Wallet maker hires", "neutral")],
    ),
    (
        "csv",
        "a.csv",
        TABLE.encode(),
        Options(text_column="headline", label_column="mood"),
        [("Fund buys more coins", "bullish"), ("Exchange loses keys", "bearish")],
    ),
    ("csv", "a.csv", b"\xef\xbb\xbftext,label\nup we go,positive\n", Options(), [("up we go", "bullish")]),
    ("csv", "a.tsv", b"text\tlabel\nup, up\tpositive\n", Options(), [("up, up", "bullish")]),
    (
        "jsonl",
        "a.jsonl",
        b'{"text": "up", "label": "positive"}\n\n{"text": "down", "label": "negative"}\n',
        Options(),
        [("up", "bullish"), ("down", "bearish")],
    ),
]


@pytest.mark.parametrize(
    ("format", "name", "content", "options", "expected"), READABLE, ids=lambda value: str(value)[:20]
)
def test_a_format_is_parsed_into_texts_and_labels(
    format: str, name: str, content: bytes, options: Options, expected: list[tuple[str, str]], tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    found = [(example.text, example.label) for example in load(tmp_path / name, format, options).examples]
    assert found == expected


def test_a_date_column_of_a_parquet_file_sets_timestamps_and_the_latest_date(tmp_path: Path) -> None:
    noon, midnight = datetime(2024, 1, 1, 12, tzinfo=UTC), datetime(2024, 1, 2, tzinfo=UTC)
    table = pa.table({"text": ["up", "down"], "label": ["bullish", "bearish"], "at": [noon, midnight]})
    pq.write_table(table, tmp_path / "a.parquet")
    found = load(tmp_path / "a.parquet", "parquet", Options(date_column="at"))
    assert found.dated
    assert found.examples[0].ts == int(noon.timestamp() * 1000)
    assert found.record.latest == int(midnight.timestamp() * 1000) + 1
    assert found.record.basis == "dated rows"


BROKEN = [
    ("phrasebank", "a.txt", b"no label here\n", Options(), r"a\.txt:1: no `@label`"),
    ("phrasebank", "a.txt", "x@neutral\n".encode("utf-16"), Options(), "UTF-16"),
    ("fiqa", "a.json", b'{"1": {"sentence": "x"}}', Options(), "not FiQA"),
    (
        "fiqa",
        "a.json",
        b'{"1": {"sentence": "x", "info": [{"sentiment_score": "7"}]}}',
        Options(),
        "score '7'",
    ),
    ("tfns", "a.csv", b"text,label\nx,3\n", Options(), r"a\.csv:2: unknown label '3'"),
    (
        "csv",
        "a.csv",
        b"headlin,label\nx,positive\n",
        Options(text_column="headline"),
        "no column 'headline'.*did you mean headlin",
    ),
    ("csv", "a.csv", b"text,label\nx,great\n", Options(), r"a\.csv:2: unknown label 'great'"),
    ("csv", "a.csv", b"text,label\n ,positive\n", Options(), r"a\.csv:2: empty text.*--skip-empty"),
    ("csv", "a.csv", b"text,label\nx,y,positive\n", Options(), r"a\.csv:2: more fields"),
    ("csv", "a.csv", b"text,label\n", Options(), "no labelled text"),
    ("csv", "a.csv", b"text,label\nk\xe4\xe4p,positive\n", Options(), "byte 12 is not utf-8.*--encoding"),
    (
        "csv",
        "a.csv",
        b"date,text,label\nyesterday,x,positive\n",
        Options(date_column="date"),
        "date 'yesterday'",
    ),
    ("jsonl", "a.jsonl", b'{"text": "x", "label": "positive"}\n{"text"\n', Options(), r"a\.jsonl:2"),
    ("parquet", "a.parquet", b"not parquet at all", Options(), "not parquet"),
]


@pytest.mark.parametrize(
    ("format", "name", "content", "options", "complaint"), BROKEN, ids=lambda value: str(value)[:20]
)
def test_an_unreadable_file_raises_an_error_with_the_cause(
    format: str, name: str, content: bytes, options: Options, complaint: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=complaint):
        load(tmp_path / name, format, options)


def test_a_missing_file_and_an_unknown_format_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        load(tmp_path / "a.csv", "csv")
    with pytest.raises(UsageError, match="did you mean phrasebank"):
        load(tmp_path / "a.csv", "phrase_bank")


def test_skip_empty_drops_empty_texts_and_bare_links(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\n,positive\nhttps://example.org/x,neutral\nup,positive\n")
    assert len(load(tmp_path / "a.csv", "csv", Options(skip_empty=True)).examples) == 1


@pytest.mark.parametrize(
    ("format", "options", "latest", "basis"),
    [
        ("tfns", Options(), year_end(2022), "published 2022"),
        ("csv", Options(latest=5), 5, "declared"),
        ("csv", Options(eventless=True), None, "eventless (checked)"),
    ],
)
def test_the_latest_date_comes_from_the_format_or_the_options(
    format: str, options: Options, latest: int, basis: str, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_text("text,label\nup,bullish\n")
    record = load(tmp_path / "a.csv", format, options).record
    assert (record.latest, record.basis) == (latest, basis)


def test_an_undated_set_gets_the_day_of_training_as_latest_date(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\nup,bullish\n")
    record = load(tmp_path / "a.csv", "csv").record
    assert record.latest is not None
    assert record.latest > year_end(2024)
    assert record.basis == "undated: day of training"


def test_every_format_is_registered() -> None:
    assert set(formats()) == {
        *("phrasebank", "fiqa", "semeval", "tfns", "csv", "jsonl", "parquet", "cryptolin", "wire", "sentfin")
    }


@pytest.mark.shared
@pytest.mark.parametrize(
    ("format", "file", "rows", "most"),
    [
        ("phrasebank", "phrasebank/Sentences_50Agree.txt", 3870, "neutral"),
        ("tfns", "tfns/sent_train.csv", 9537, "neutral"),
        ("fiqa", "fiqa/task1_post_ABSA_train.json", 675, "bullish"),
        ("cryptolin", "cryptolin-train.csv", 1877, "bullish"),
    ],
)
def test_an_official_set_has_the_expected_size_and_majority_class(
    format: str, file: str, rows: int, most: str, shared_data: Path
) -> None:
    found = load(shared_data / "data" / "sentiment" / file, format)
    assert len(found.examples) == rows
    assert Counter(example.label for example in found.examples).most_common(1)[0][0] == most
