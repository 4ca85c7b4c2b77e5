"""The archive of headlines: what was seen, once, in a chain that shows later changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from agent.core.errors import DataError, StoreError
from agent.core.events import DAY_MS, MINUTE_MS, News
from agent.data.news import NewsFile
from agent.data.news_archive import NewsArchive, export_archive, export_recorded, read_archive

T0 = 1_790_409_600_000  # 2026-09-26T08:00:00Z


def headline(number: int, seen: int, title: str = "", *, trusted: bool = True) -> News:
    return News(
        f"id-{number}",
        seen - MINUTE_MS if trusted else seen,
        seen,
        title or f"Bitcoin falls {number} %",
        publisher="Wire",
        url=f"https://news.test/{number}",
        currencies=("BTC",),
        feed="wire",
        published_raw="26 Sep 2026",
        trusted_time=trusted,
    )


def record(folder: Path, *news: News) -> list[bool]:
    with NewsArchive(folder) as archive:
        return [archive.append(one) for one in news]


def titles(folder: Path) -> list[str]:
    return [found.title for found, _ in read_archive(folder)]


def test_each_headline_is_written_once_also_over_restarts(tmp_path: Path) -> None:
    first, second = headline(1, T0), headline(2, T0 + 5)
    assert record(tmp_path, first, second, first) == [True, True, False]
    assert record(tmp_path, second, headline(3, T0 + 9)) == [False, True]
    assert titles(tmp_path) == ["Bitcoin falls 1 %", "Bitcoin falls 2 %", "Bitcoin falls 3 %"]


def test_an_id_of_another_title_is_another_headline(tmp_path: Path) -> None:
    """Some feeds reuse the id of an entry for its update."""
    update = headline(1, T0 + 5, "Bitcoin falls no more")
    assert record(tmp_path, headline(1, T0), update) == [True, True]
    assert record(tmp_path, update) == [False]
    ids = [found.id for found, _ in read_archive(tmp_path)]
    assert len(set(ids)) == 2


def test_each_day_has_a_file_that_a_backtest_reads(tmp_path: Path) -> None:
    today, tomorrow = headline(1, T0), headline(2, T0 + DAY_MS)
    record(tmp_path, today, headline(3, T0 + 1, trusted=False), tomorrow)
    assert sorted(path.name for path in tmp_path.glob("*.jsonl")) == [
        "news-2026-09-26.jsonl",
        "news-2026-09-27.jsonl",
    ]
    file = NewsFile(tmp_path / "news-2026-09-26.jsonl")
    (news,) = file
    assert (news.id, news.ts, news.available_at) == (today.id, today.ts, today.available_at)
    assert (news.title, news.currencies) == (today.title, today.currencies)
    assert file.stats.untrusted == 1


def test_a_clock_that_was_set_back_changes_no_order(tmp_path: Path) -> None:
    record(tmp_path, headline(1, T0 + DAY_MS), headline(2, T0))
    assert titles(tmp_path) == ["Bitcoin falls 1 %", "Bitcoin falls 2 %"]


def test_the_exported_file_has_the_archive_and_its_times(tmp_path: Path) -> None:
    shown = [headline(number, T0 + number * DAY_MS) for number in range(3)]
    record(tmp_path / "archive", *shown)
    assert export_archive(tmp_path / "archive", tmp_path / "news.parquet") == 3
    file = NewsFile(tmp_path / "news.parquet")
    assert [(news.id, news.ts, news.available_at) for news in file] == [
        (news.id, news.ts, news.available_at) for news in shown
    ]
    assert file.stats.notes() == ["3 of 3 headlines are known from when they were first seen"]
    hashes = pq.read_table(tmp_path / "news.parquet")["hash"].to_pylist()
    assert hashes == [chained for _, chained in read_archive(tmp_path / "archive")]
    assert export_recorded(shown, tmp_path / "run.parquet") == 3
    assert list(NewsFile(tmp_path / "run.parquet")) == list(file)


def test_an_archive_of_more_headlines_than_a_block_is_exported_whole(tmp_path: Path) -> None:
    shown = (headline(number, T0 + number) for number in range(4_096 + 7))
    assert export_recorded(shown, tmp_path / "news.parquet") == 4_103
    assert pq.read_table(tmp_path / "news.parquet").num_rows == 4_103


def change_a_title(folder: Path) -> None:
    path = folder / "news-2026-09-27.jsonl"
    path.write_text(path.read_text().replace("falls 4", "rises 4"))


def remove_a_line(folder: Path) -> None:
    path = folder / "news-2026-09-26.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))


def swap_two_lines(folder: Path) -> None:
    path = folder / "news-2026-09-26.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[::-1]))


def remove_a_file(folder: Path) -> None:
    (folder / "news-2026-09-26.jsonl").unlink()


def insert_a_line(folder: Path) -> None:
    path = folder / "news-2026-09-27.jsonl"
    path.write_text('{"title":"Bitcoin soars","hash":"' + "0" * 64 + '"}\n' + path.read_text())


def add_a_second_title(folder: Path) -> None:
    """Of two equal keys, readers of JSON take the last."""
    path = folder / "news-2026-09-27.jsonl"
    path.write_text(path.read_text().replace('"}\n', '","title":"Bitcoin soars"}\n'))


@pytest.mark.parametrize(
    "change",
    [change_a_title, remove_a_line, swap_two_lines, remove_a_file, insert_a_line, add_a_second_title],
)
def test_a_later_change_is_refused_with_its_place(tmp_path: Path, change: Callable[[Path], None]) -> None:
    record(tmp_path, *(headline(number, T0 + number // 3 * DAY_MS) for number in range(6)))
    change(tmp_path)
    with pytest.raises(DataError, match=r"news-2026-09-2\d\.jsonl: line \d does not continue"):
        export_archive(tmp_path, tmp_path / "news.parquet")
    assert not (tmp_path / "news.parquet").exists()


def test_an_unfinished_last_line_is_left_out_and_recorded_again(tmp_path: Path) -> None:
    record(tmp_path, headline(1, T0), headline(2, T0 + 5))
    path = tmp_path / "news-2026-09-26.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert titles(tmp_path) == ["Bitcoin falls 1 %"]
    with NewsArchive(tmp_path) as archive:
        assert (archive.was_cut, archive.known) == (True, 1)
        assert archive.append(headline(2, T0 + 5))
    assert path.read_bytes() == whole


def test_a_damaged_archive_is_refused_and_unlocked(tmp_path: Path) -> None:
    record(tmp_path, headline(1, T0))
    path = tmp_path / "news-2026-09-26.jsonl"
    whole = path.read_bytes()
    path.write_bytes(b"no headline\n" + whole)
    with pytest.raises(DataError, match="line 1 does not continue"):
        NewsArchive(tmp_path)
    path.write_bytes(whole)
    assert record(tmp_path, headline(2, T0 + 5)) == [True]


def test_an_archive_has_one_writer(tmp_path: Path) -> None:
    with NewsArchive(tmp_path), pytest.raises(StoreError, match="another process records to"):
        NewsArchive(tmp_path)
    with NewsArchive(tmp_path):
        pass


def test_an_empty_archive_is_an_error_with_the_command_that_fills_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no recorded headline") as refused:
        export_archive(tmp_path, tmp_path / "news.parquet")
    assert "tapewire record news" in str(refused.value.hint)
