"""News files: headlines sorted by availability."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.errors import DataError
from agent.core.events import DAY_MS
from agent.data.news import NewsFile, tickers

T0 = 1_704_067_200_000  # 2024-01-01
TEN = T0 + 10 * 3_600_000
ROWS: list[dict[str, Any]] = [
    {
        "published_at": "2024-01-01T00:00:05Z",
        "title": "Bitcoin <b>rises</b>",
        "description": "On &amp; on",
        "publisher": "Wire",
        "currencies": "btc, ETH",
        "url": "http://wire/1",
        "votes_positive": "9",
    },
    {
        "published_at": "2024-01-01T00:00:01Z",
        "title": "Ether falls",
        "description": None,
        "publisher": "Tape",
        "currencies": None,
        "url": None,
        "votes_positive": "0",
    },
]


def jsonl(folder: Path, rows: list[dict[str, Any]], name: str = "news.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def as_csv(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "news.csv"
    quoted = [",".join('"' + str(value or "") + '"' for value in row.values()) for row in rows]
    path.write_text("\n".join((",".join(rows[0]), *quoted)))
    return path


def as_parquet(folder: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), folder / "news.parquet")
    return folder / "news.parquet"


@pytest.mark.parametrize("write", [jsonl, as_csv, as_parquet])
def test_every_format_has_the_same_events(tmp_path: Path, write: Any) -> None:
    ether, bitcoin = NewsFile(write(tmp_path, ROWS), feed_delay=90_000)
    assert (bitcoin.title, bitcoin.summary, bitcoin.publisher, bitcoin.url) == (
        "Bitcoin rises",
        "On & on",
        "Wire",
        "http://wire/1",
    )
    assert (bitcoin.ts, bitcoin.available_at, bitcoin.currencies) == (T0 + 5_000, T0 + 95_000, ("BTC", "ETH"))
    assert (ether.title, ether.summary, ether.currencies, ether.available_at) == (
        "Ether falls",
        "",
        (),
        T0 + 91_000,
    )
    assert len({ether.id, bitcoin.id}) == 2


def test_the_stated_availability_is_used_but_never_before_publication(tmp_path: Path) -> None:
    rows = [
        {"published_at": T0, "title": "late", "first_seen": T0 + 600_000},
        {"published_at": T0 + 1_000, "title": "clock ahead", "first_seen": T0 - 5_000},
        {"published_at": T0 + 2_000, "title": "not recorded", "first_seen": None},
    ]
    seen = [
        (news.title, news.available_at - T0) for news in NewsFile(jsonl(tmp_path, rows), feed_delay=60_000)
    ]
    assert seen == [("clock ahead", 1_000), ("not recorded", 62_000), ("late", 600_000)]


def test_unusable_rows_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [
        {"published_at": TEN, "title": "one", "publisher": "P", "trusted_time": True},
        {"published_at": TEN, "title": "one", "publisher": "P", "trusted_time": True},
        {"published_at": TEN, "title": "one", "publisher": "Q", "trusted_time": True},
        {"published_at": None, "title": "when?", "publisher": "P", "trusted_time": True},
        {"published_at": TEN, "title": "guessed", "publisher": "P", "trusted_time": False},
        {"published_at": TEN, "title": " <br> ", "publisher": "P", "trusted_time": True},
        {"published_at": TEN + 1, "title": "two", "publisher": "P", "trusted_time": None},
    ]
    source = NewsFile(jsonl(tmp_path, rows))
    assert [news.title for news in source] == ["one", "one", "two"]
    stats = source.stats
    assert (stats.rows, stats.news, stats.duplicates, stats.untrusted, stats.untitled) == (7, 3, 1, 2, 1)
    assert (stats.first, stats.last) == (TEN, TEN + 1)


@pytest.mark.parametrize(
    ("stated", "trusted"),
    [
        ("true", True),
        ("1.0", True),
        ("", True),
        ("nan", True),
        ("False", False),
        ("0.0", False),
        ("no", False),
        ("guess", False),
    ],
)
def test_a_time_is_trusted_if_the_file_marks_it_or_has_no_mark(
    tmp_path: Path, stated: str, trusted: bool
) -> None:
    """pandas writes flags as 1.0 and 0.0 if some are missing."""
    (tmp_path / "news.csv").write_text(f"published_at,title,trusted_time\n{TEN},Bitcoin falls,{stated}\n")
    file = NewsFile(tmp_path / "news.csv")
    assert (len(list(file)), file.stats.untrusted) == (trusted, not trusted)


def test_headlines_first_seen_before_their_publication_are_noted(tmp_path: Path) -> None:
    """The second was seen a second before its publication, so it is known at its publication."""
    rows = [
        {"published_at": TEN + n, "title": f"Headline {n}", "first_seen": TEN + n - early}
        for n, early in ((1, 0), (2, 1_000))
    ]
    file = NewsFile(jsonl(tmp_path, rows))
    assert [news.available_at - TEN for news in file] == [1, 2]
    assert file.stats.notes() == [
        "1 headlines first seen before their publication: known at publication",
        "2 of 2 headlines are known from when they were first seen",
    ]


def test_a_file_that_states_some_times_notes_their_share(tmp_path: Path) -> None:
    """Of three headlines, the second's time was not recorded: it is known a minute after its publication."""
    rows = [
        {"published_at": TEN + n, "title": f"Headline {n}", "first_seen": None if n == 2 else TEN + n + 5}
        for n in (1, 2, 3)
    ]
    file = NewsFile(jsonl(tmp_path, rows))
    assert [news.available_at - TEN for news in file] == [6, 8, 2 + 60_000]
    assert file.stats.notes() == [
        "2 of 3 headlines are known from when they were first seen, the others by publication and "
        "history.feed_delay"
    ]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=30), st.integers(0, 60), st.integers(0, 60))
def test_any_file_is_sorted_and_cut_to_the_window(
    tmp_path_factory: pytest.TempPathFactory, seconds: list[int], start: int, end: int
) -> None:
    rows = [
        {"published_at": TEN + 1_000 * second, "title": f"headline {number}"}
        for number, second in enumerate(seconds)
    ]
    path = jsonl(tmp_path_factory.mktemp("news"), rows)
    source = NewsFile(path, feed_delay=5_000, start=TEN + 1_000 * start, end=TEN + 1_000 * end)
    expected = sorted(
        (second + 5, number) for number, second in enumerate(seconds) if start <= second + 5 < end
    )
    assert [((news.available_at - TEN) // 1_000, int(news.title.split()[1])) for news in source] == expected
    assert source.stats.outside == len(rows) - len(expected)
    assert (
        f"{source.stats.outside} headlines known before or after the window left out" in source.stats.notes()
    ) == (len(expected) < len(rows))


@pytest.mark.parametrize(
    ("name", "content", "fragments"),
    [
        ("n.csv", b"", ["is empty"]),
        ("n.csv", b"published_at,title\n", ["holds no row"]),
        ("n.csv", b"published_at,titel\n1704067200,x\n", ["no column title or headline", "is it 'titel'?"]),
        ("n.csv", b"title\nx\n", ["no column published_at"]),
        (
            "n.csv",
            b"published_at,title\n1704067200,ok\n1704067201,B\xf6rse\n",
            ["is not UTF-8", "row 2, column title"],
        ),
        (
            "n.csv",
            b"published_at,title\n2024-01-01 10:00:00,x\n",
            ["row 1, column published_at", "naive", 'timezone="UTC"'],
        ),
        (
            "n.csv",
            b"published_at,title\n1704067200,x\n1704067200000,y\n",
            ["row 2", "in milliseconds, the rows before are in s"],
        ),
        (
            "n.jsonl",
            b'{"published_at": 1704067200, "title": "x"}\n{"published_at": 17040',
            ["line 2 is not a JSON object"],
        ),
        ("n.jsonl", b'["x"]\n', ["line 1 is not a JSON object"]),
        ("n.jsonl", b'{"title": "\xe9"}\n', ["is not UTF-8: line 1"]),
        (
            "n.jsonl",
            b'{"published_at": 1704067200, "title": "x"}\n{"published_at": "soon"}\n',
            ["published_at mixes"],
        ),
        ("n.parquet", b"PAR1 and no more", ["can't be read"]),
    ],
)
def test_the_error_for_a_bad_file_names_fault_place_and_remedy(
    tmp_path: Path, name: str, content: bytes, fragments: list[str]
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        list(NewsFile(path))
    assert [fragment for fragment in fragments if fragment not in str(error.value)] == [], str(error.value)


def test_parquet_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    times = pa.array([datetime(2024, 1, 1, tzinfo=UTC)])
    pq.write_table(
        pa.table({"published_at": times, "title": pa.array([b"B\xf6rse"])}), tmp_path / "n.parquet"
    )
    with pytest.raises(DataError, match="is not UTF-8: column title"):
        list(NewsFile(tmp_path / "n.parquet"))


@pytest.mark.slow
@pytest.mark.shared
def test_real_headlines_are_read_completely(shared_data: Path) -> None:
    source = NewsFile(shared_data / "data" / "news" / "crypto-headlines.parquet")
    available = [news.available_at for news in source]
    assert available == sorted(available)
    assert source.stats.rows == 64_704
    assert (
        source.stats.news + source.stats.duplicates + source.stats.untrusted + source.stats.untitled == 64_704
    )
    assert source.stats.duplicates < 700


# -- dates, shared ids, lists of tickers ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("published", "zone", "known"),
    [
        ("2025-03-03", "UTC", "2025-03-03T23:59:59.999Z"),
        ("2025-03-03", "America/New_York", "2025-03-04T04:59:59.999Z"),  # midnight there is 05:00 UTC
        # a day of 23 hours, as clocks go forward
        ("2025-03-09", "America/New_York", "2025-03-10T03:59:59.999Z"),
        # occurs twice: the later time
        ("2025-11-02 01:30:00", "America/New_York", "2025-11-02T06:30:00.000Z"),
        # does not occur: the time after the clock change
        ("2025-03-09 02:30:00", "America/New_York", "2025-03-09T07:00:00.000Z"),
        ("2025-03-03 10:00:00", "UTC", "2025-03-03T10:00:00.000Z"),
    ],
)
def test_a_date_without_a_time_is_known_at_the_end_of_its_day(
    tmp_path: Path, published: str, zone: str, known: str
) -> None:
    (tmp_path / "news.csv").write_text(f"date,title\n{published},Bitcoin falls\n")
    file = NewsFile(tmp_path / "news.csv", feed_delay=0, timezone=zone)
    (news,) = file
    assert news.available_at == news.ts
    assert pd.Timestamp(news.ts, unit="ms", tz="UTC") == pd.Timestamp(known)
    assert file.stats.dates == (len(published) == 10)


def test_a_file_of_midnights_only_is_a_file_of_dates(tmp_path: Path) -> None:
    days = pd.date_range("2025-03-03", periods=6, tz="UTC")
    frame = pd.DataFrame({"published_at": days, "title": [f"Headline {n}" for n in range(6)]})
    frame.to_parquet(tmp_path / "news.parquet")
    file = NewsFile(tmp_path / "news.parquet", feed_delay=0)
    assert [news.available_at for news in file] == [day.value // 1_000_000 + DAY_MS - 1 for day in days]
    assert file.stats.notes() == ["6 headlines with a date but no time: known at the end of that day"]


def moments_of(folder: Path, moments: list[str]) -> NewsFile:
    frame = pd.DataFrame(
        {
            "published_at": pd.to_datetime(moments, utc=True),
            "title": [f"Headline {n}" for n in range(len(moments))],
        }
    )
    frame.to_parquet(folder / "news.parquet")
    return NewsFile(folder / "news.parquet", feed_delay=0)


def known_at(file: NewsFile) -> list[str]:
    return [pd.Timestamp(news.available_at, unit="ms").isoformat() for news in file]


@pytest.mark.parametrize(
    ("midnights", "timed", "dates"), [(5, 1, 5), (8, 2, 8), (7, 2, 0), (4, 1, 0), (4, 0, 0)]
)
def test_midnights_are_dates_if_four_fifths_of_a_file_and_at_least_five_are(
    tmp_path: Path, midnights: int, timed: int, dates: int
) -> None:
    """5 of 6 and 8 of 10 are at least 80 %; 7 of 9 are 78 %, and 4 are fewer than five."""
    file = moments_of(
        tmp_path,
        [f"2025-03-{day:02}T00:00:00Z" for day in range(1, midnights + 1)]
        + [f"2025-03-{day:02}T10:00:00Z" for day in range(20, 20 + timed)],
    )
    at = "T23:59:59.999000" if dates else "T00:00:00"
    assert known_at(file) == [f"2025-03-{day:02}{at}" for day in range(1, midnights + 1)] + [
        f"2025-03-{day:02}T10:00:00" for day in range(20, 20 + timed)
    ]
    assert file.stats.dates == dates
    assert bool(file.stats.notes()) == bool(dates)


@pytest.mark.parametrize(
    ("moments", "note"),
    [
        # New York in winter
        ([f"2025-01-0{n}T05:00:00Z" for n in range(1, 7)], "6 of 6 headlines stand at 05:00 UTC"),
        (
            [f"2025-03-{n:02}T05:00:00Z" for n in (7, 8, 9)]
            + [f"2025-03-{n}T04:00:00Z" for n in (10, 11, 12)],
            "6 of 6 headlines stand at 04:00 or 05:00 UTC",
        ),  # clocks went forward on 9 March
        # India
        (
            [f"2025-01-0{n}T18:30:00Z" for n in range(1, 6)] + ["2025-01-09T10:00:00Z"],
            "5 of 6 headlines stand at 18:30 UTC",
        ),
        ([f"2025-01-0{n}T05:00:0{n}Z" for n in range(1, 7)], ""),  # with seconds: times
        ([f"2025-01-0{n}T0{n}:00:00Z" for n in range(1, 7)], ""),
        ([f"2025-01-0{n}T05:00:00Z" for n in range(1, 5)], ""),  # fewer than five
    ],
)
def test_times_that_may_be_dates_of_another_zone_are_noted(
    tmp_path: Path, moments: list[str], note: str
) -> None:
    file = moments_of(tmp_path, moments)
    assert len(list(file)) == len(moments)
    assert file.stats.notes() == (
        [f"{note}: if these are dates of another zone, they are known a day too early; state its timezone"]
        if note
        else []
    )


def test_midnights_of_the_stated_zone_are_dates(tmp_path: Path) -> None:
    """05:00 UTC is midnight in New York in January; the day ends at 04:59:59.999 UTC of the next."""
    moments_of(tmp_path, [f"2025-01-0{n}T05:00:00Z" for n in range(1, 7)])
    file = NewsFile(tmp_path / "news.parquet", feed_delay=0, timezone="America/New_York")
    assert known_at(file) == [f"2025-01-0{n + 1}T04:59:59.999000" for n in range(1, 7)]
    assert file.stats.notes() == ["6 headlines with a date but no time: known at the end of that day"]


def test_midnights_of_utc_are_noted_if_another_zone_is_stated(tmp_path: Path) -> None:
    """00:00 UTC is 19:00 in New York, not midnight, so the times are unchanged and noted."""
    moments_of(tmp_path, [f"2025-01-0{n}T00:00:00Z" for n in range(1, 7)])
    file = NewsFile(tmp_path / "news.parquet", feed_delay=0, timezone="America/New_York")
    assert known_at(file) == [f"2025-01-0{n}T00:00:00" for n in range(1, 7)]
    assert file.stats.notes() == [
        "6 of 6 headlines stand at 00:00 UTC: if these are dates of another zone, "
        "they are known a day too early; state its timezone"
    ]


def test_dates_with_one_digit_months_and_days_are_dates(tmp_path: Path) -> None:
    """All rows are dates, except the last, which has a time."""
    rows = ["2025-3-4", "2025-3-14", "2025-12-5", "2025-01-2", "2025-1-2 09:30:00"]
    (tmp_path / "news.csv").write_text(
        "date,title\n" + "".join(f"{at},Headline {n}\n" for n, at in enumerate(rows))
    )
    file = NewsFile(tmp_path / "news.csv", feed_delay=0, timezone="UTC")
    assert known_at(file) == [
        "2025-01-02T09:30:00",
        "2025-01-02T23:59:59.999000",
        "2025-03-04T23:59:59.999000",
        "2025-03-14T23:59:59.999000",
        "2025-12-05T23:59:59.999000",
    ]
    assert file.stats.dates == 4


@pytest.mark.parametrize("bad", ["2025-02-30", "2025-13-01", "2025-2-30"])
def test_a_date_that_does_not_exist_is_refused_with_its_row(tmp_path: Path, bad: str) -> None:
    (tmp_path / "news.csv").write_text(f"date,title\n2025-02-28,Bitcoin falls\n{bad},Bitcoin rises\n")
    with pytest.raises(DataError, match=r"row 2, column date: '2025-\d\d-\d\d' is not a time"):
        list(NewsFile(tmp_path / "news.csv", timezone="UTC"))


@pytest.mark.parametrize("column", ["url", "id"])
@pytest.mark.parametrize("value", ["https://www.example.com/news", "nan", "7"])
def test_headlines_with_a_shared_address_are_distinguished_by_title(
    tmp_path: Path, column: str, value: str
) -> None:
    rows = [
        ("00:00", "Bitcoin falls"),
        ("00:01", "Ether falls"),
        ("00:02", "Bitcoin falls"),
        ("00:03", "Solana falls"),
    ]
    (tmp_path / "news.csv").write_text(
        f"published_at,title,{column}\n"
        + "".join(f"2025-03-03T{at}:00Z,{title},{value}\n" for at, title in rows)
    )
    file = NewsFile(tmp_path / "news.csv")
    found = list(file)
    assert len({news.id for news in found}) == len(found)
    if value == "nan":  # no id: publication and title are the identity
        assert [news.title for news in found] == [title for _, title in rows]
    else:
        assert [news.title for news in found] == ["Bitcoin falls", "Ether falls", "Solana falls"]
        assert (file.stats.duplicates, file.stats.shared_ids) == (1, 2)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("['BTC']", ("BTC",)),
        ('["BTC", "ETH"]', ("BTC", "ETH")),
        ("BTC", ("BTC",)),
        ("btc;eth", ("BTC", "ETH")),
        ("{BTC,ETH}", ("BTC", "ETH")),
        ("$BTC #ETH", ("BTC", "ETH")),
        ("[]", ()),
        ("nan", ()),
        ("", ()),
        (None, ()),
        (["BTC", None, " eth "], ("BTC", "ETH")),
        ("('BTC',)", ("BTC",)),
    ],
)
def test_tickers_are_found_in_lists_of_any_notation(
    text: str | list[str | None] | None, expected: tuple[str, ...]
) -> None:
    assert tickers(text) == expected


@pytest.mark.parametrize("text", ["nan", "NaN", "None", "null", "NaT", "<NA>"])
@pytest.mark.parametrize("write", [jsonl, as_csv, as_parquet])
def test_a_title_that_means_missing_is_left_out(tmp_path: Path, write: Any, text: str) -> None:
    rows = [
        {"published_at": "2024-01-01T00:00:00Z", "title": text, "summary": "x"},
        {"published_at": "2024-01-01T00:00:01Z", "title": "Nanotech falls", "summary": text},
    ]
    source = NewsFile(write(tmp_path, rows))
    assert [(news.title, news.summary) for news in source] == [("Nanotech falls", "")]
    assert source.stats.untitled == 1
    assert source.stats.notes() == ["1 headlines without a title left out"]


PANIC = [
    {"code": "BTC", "title": "Bitcoin", "slug": "bitcoin"},
    {"code": "ETH", "title": "Ether's own", "slug": "ethereum"},
]


@pytest.mark.parametrize("column", ["currencies", "tickers"])
@pytest.mark.parametrize(
    ("write", "value", "other"),
    [
        (jsonl, PANIC, None),
        (jsonl, PANIC, []),
        (jsonl, json.dumps(PANIC), ""),
        (jsonl, str(PANIC), None),
        (as_parquet, PANIC, None),
        (as_parquet, PANIC, []),
        (as_parquet, json.dumps(PANIC), None),
        (as_parquet, str(PANIC), ""),
    ],
)
def test_tickers_are_found_in_lists_of_objects(
    tmp_path: Path, column: str, write: Any, value: Any, other: Any
) -> None:
    rows = [
        {"published_at": T0, "title": "neither", column: other},
        {"published_at": T0 + 1, "title": "both", column: value},
        {
            "published_at": T0 + 2,
            "title": "one",
            column: value[:1] if isinstance(value, list) else value[: value.index("}") + 1] + "]",
        },
    ]
    assert [news.currencies for news in NewsFile(write(tmp_path, rows))] == [(), ("BTC", "ETH"), ("BTC",)]


def test_tickers_are_found_in_lists_in_csv_files_and_large_lists(tmp_path: Path) -> None:
    pd.DataFrame(
        {"published_at": [T0, T0 + 1], "title": ["a", "b"], "currencies": [json.dumps(PANIC), str(PANIC)]}
    ).to_csv(tmp_path / "n.csv")
    assert [news.currencies for news in NewsFile(tmp_path / "n.csv")] == [("BTC", "ETH"), ("BTC", "ETH")]
    views = pa.table(
        {
            "published_at": [T0],
            "title": pa.array(["a"], pa.string_view()),
            "currencies": pa.array([["BTC"]], pa.list_(pa.string_view())),
        }
    )
    pq.write_table(views, tmp_path / "views.parquet")
    assert [(news.title, news.currencies) for news in NewsFile(tmp_path / "views.parquet")] == [
        ("a", ("BTC",))
    ]
    for name, values in (("objects", [PANIC, None]), ("texts", [["BTC", "ETH"], None])):
        kind = pa.large_list(pa.array(values[:1]).type.value_type)
        table = pa.table(
            {"published_at": [T0, T0 + 1], "title": ["a", "b"], "currencies": pa.array(values, kind)}
        )
        pq.write_table(table, tmp_path / f"{name}.parquet")
        assert [news.currencies for news in NewsFile(tmp_path / f"{name}.parquet")] == [("BTC", "ETH"), ()]


def test_objects_without_a_ticker_are_refused(tmp_path: Path) -> None:
    path = jsonl(tmp_path, [{"published_at": T0, "title": "a", "currencies": [{"name": "Bitcoin"}]}])
    with pytest.raises(DataError, match="column currencies holds list"):
        list(NewsFile(path))


@pytest.mark.parametrize("value", ["0.0", "False", "no", " 0 "])
def test_every_notation_of_an_untrusted_time_is_recognised(tmp_path: Path, value: str) -> None:
    source = NewsFile(jsonl(tmp_path, [{"published_at": T0, "title": "a", "trusted_time": value}]))
    assert (list(source), source.stats.untrusted) == ([], 1)
