"""`tapewire import news`: conversion of any news file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.core.errors import DataError
from agent.data.news import NewsFile
from agent.data.news_import import import_news
from tests.support.command_line import run_command

T0 = 1_704_067_200_000  # 2024-01-01
ROWS = [
    {
        "published_at": T0 + 9_000,
        "headline": "Later &amp; louder",
        "currencies": ["btc", "eth"],
        "first_seen": T0 + 70_000,
        "link": "u",
    },
    {"published_at": T0, "headline": "First", "currencies": None, "first_seen": None, "link": None},
    {"published_at": T0, "headline": "First", "currencies": None, "first_seen": None, "link": None},
    {"published_at": None, "headline": "When?", "currencies": None, "first_seen": None, "link": None},
]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "theirs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def test_an_imported_file_replays_as_the_original_does(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "made" / "news.parquet"
    counts = import_news(source, output)
    assert (counts["rows"], counts["news"], counts["duplicates"], counts["untrusted"]) == (4, 2, 1, 1)
    # the delay applies only to headlines without a stated availability
    for delay in (0, 60_000):
        assert list(NewsFile(output, delay)) == list(NewsFile(source, delay))
    assert import_news(output, output)["news"] == 2  # also if output and input are one file


def test_the_command_reports_its_counts(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "news.parquet"
    result = run_command(["import", "news", str(source), "--output", str(output), "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found == {
        "rows": 4,
        "news": 2,
        "first": T0,
        "last": T0 + 9_000,
        "duplicates": 1,
        "untrusted": 1,
        "untitled": 0,
        "dates": 0,
        "doubtful": "",
        "early": 0,
        "abstained": 0,
        "outside": 0,
        "shared_ids": 0,
        "seen": 1,
        "delayed": 1,
        "output": str(output),
        "notes": [
            "1 headlines without a time, or with one that isn't trusted, left out",
            "1 headlines that are duplicates left out",
            "1 of 2 headlines are known from when they were first seen, the others by publication and "
            "history.feed_delay",
        ],
    }


def test_the_command_prints_that_dates_are_ends_of_days(tmp_path: Path) -> None:
    """The file has one date, 2025-03-03, without an hour, so it is known at the end of that day."""
    source = tmp_path / "theirs.csv"
    source.write_text("date,title\n2025-03-03,Bitcoin falls\n")
    arguments = [
        "import",
        "news",
        str(source),
        "--output",
        str(tmp_path / "news.parquet"),
        "--timezone",
        "UTC",
    ]
    result = run_command(arguments)
    assert result.exit_code == 0, result.output
    assert "  1 headlines with a date but no time: known at the end of that day" in result.output.splitlines()


def test_a_file_without_usable_headlines_leaves_the_output_unchanged(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "news.parquet"
    import_news(source, output)
    before = output.read_bytes()
    source.write_text(json.dumps(ROWS[3]) + "\n")
    with pytest.raises(DataError, match="holds no headline with a trusted time"):
        import_news(source, output)
    assert output.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["news.parquet", "theirs.jsonl"]


@pytest.mark.slow
@pytest.mark.shared
def test_real_headlines_are_imported(shared_data: Path, tmp_path: Path) -> None:
    original = shared_data / "data" / "news" / "crypto-headlines.parquet"
    counts = import_news(original, tmp_path / "news.parquet")
    assert counts["rows"] == 64_704
    assert sum(1 for _ in NewsFile(tmp_path / "news.parquet")) == counts["news"]
