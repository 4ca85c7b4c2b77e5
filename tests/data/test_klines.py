"""Kline files: events of valid files, errors of invalid ones."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime, timedelta, timezone
from math import isnan
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.errors import DataError, UsageError
from agent.core.events import DAY_MS, MINUTE_MS, Gap, Kline
from agent.data import columns
from agent.data.columns import content_hash
from agent.data.klines import KlineFile

T0 = 1_704_067_200_000  # 2024-01-01
HEADER = "open_time,open,high,low,close,volume"


def line(minute: float, prices: str = "10,12,9,11", volume: str = "5") -> str:
    return f"{T0 + int(minute * MINUTE_MS)},{prices},{volume}"


def text(*lines: str, header: str = HEADER) -> str:
    return "\n".join((header, *lines)) + "\n"


def written(folder: Path, content: str | bytes, name: str = "BTCUSDT-1m.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def parquet(
    folder: Path, times: pa.Array, name: str = "BTCUSDT-1m.parquet", group: int = 1_000_000, **more: Any
) -> Path:
    ones = [10.0] * len(times)
    table = pa.table(
        {"open_time": times, "open": ones, "high": ones, "low": ones, "close": ones, "volume": ones, **more}
    )
    pq.write_table(table, folder / name, row_group_size=group)
    return folder / name


def starts(source: KlineFile) -> list[int]:
    """Return the open times in minutes since T0."""
    return [(event.start - T0) // MINUTE_MS for event in source if isinstance(event, Kline)]


def test_a_row_becomes_a_confirmed_kline_available_at_its_close(tmp_path: Path) -> None:
    path = written(tmp_path, text(line(0), line(1, "11,13,10,12", "0"), line(2)))
    source = KlineFile(path)
    first, second, _ = source
    assert first == Kline(
        "BTCUSDT", MINUTE_MS, T0, T0 + MINUTE_MS, T0 + MINUTE_MS, 10.0, 12.0, 9.0, 11.0, 5.0, confirm=True
    ) or isnan(first.turnover)
    assert (second.start, second.available_at, second.close, second.volume) == (
        T0 + MINUTE_MS,
        T0 + 2 * MINUTE_MS,
        12.0,
        0.0,
    )
    assert (source.stats.rows, source.stats.first, source.stats.last) == (3, T0, T0 + 2 * MINUTE_MS)
    assert len(list(source)) == 3  # a second iteration starts from the beginning


@pytest.mark.parametrize(
    ("first", "second", "unit"),
    [
        (T0 // 1000, T0 // 1000 + 60, "seconds"),
        (T0, T0 + MINUTE_MS, "milliseconds"),
        (T0 * 1000, (T0 + MINUTE_MS) * 1000, "microseconds"),
        (T0 * 10**6, (T0 + MINUTE_MS) * 10**6, "nanoseconds"),
        (f"{T0 / 1000:.1f}", f"{T0 / 1000 + 60:.1f}", "seconds"),
        ("2024-01-01T00:00:00Z", "2024-01-01T00:01:00Z", "datetimes"),
        ("2024-01-01 00:00:00+00:00", "2024-01-01 00:01:00.000+00:00", "datetimes"),
        ("2024-01-01T05:30:00+05:30", "2024-01-01T05:31:00+05:30", "datetimes"),
    ],
)
def test_times_of_every_usual_form_are_read(tmp_path: Path, first: object, second: object, unit: str) -> None:
    source = KlineFile(written(tmp_path, text(f"{first},1,1,1,1,1", f"{second},1,1,1,1,1")))
    assert starts(source) == [0, 1]
    assert (source.time_unit, source.interval) == (unit, MINUTE_MS)


@pytest.mark.parametrize(
    "times",
    [
        pa.array([T0, T0 + MINUTE_MS], pa.timestamp("ms", tz="UTC")),
        pa.array([T0 * 1000, (T0 + MINUTE_MS) * 1000], pa.timestamp("us", tz="Europe/Berlin")),
        pa.array([datetime(2024, 1, 1, 1, m, tzinfo=timezone(timedelta(hours=1))) for m in (0, 1)]),
        pa.array([float(T0), float(T0 + MINUTE_MS)]),
        pa.array([T0 // 1000, T0 // 1000 + 60], pa.int32()),
        pa.array(["2024-01-01T00:00:00Z", "2024-01-01T00:01:00Z"], pa.large_string()).dictionary_encode(),
    ],
    ids=str,
)
def test_parquet_times_of_any_type_are_equal(tmp_path: Path, times: pa.Array) -> None:
    assert starts(KlineFile(parquet(tmp_path, times))) == [0, 1]


@pytest.mark.parametrize("name", ["ts", "timestamp", "Time", "DATE", "Open Time", "openTime"])
def test_column_names_are_matched_regardless_of_case_and_spaces(tmp_path: Path, name: str) -> None:
    path = written(
        tmp_path,
        text(line(0) + ",3.5", line(1) + ",7", header=f"{name},OPEN,High, low ,Close,Volume,Turnover"),
    )
    assert [event.turnover for event in KlineFile(path) if isinstance(event, Kline)] == [3.5, 7.0]


def test_binances_gzipped_files_and_files_without_header_are_read(tmp_path: Path) -> None:
    rows = "".join(
        f"{T0 + i * MINUTE_MS},10,12,9,11,5,{T0 + i * MINUTE_MS + 59_999},55.5,7,2,22,0\n" for i in range(3)
    )
    source = KlineFile(written(tmp_path, gzip.compress(rows.encode()), "ETHUSDT-1m-2024-01.csv.gz"))
    assert source.symbol == "ETHUSDT"
    assert [(event.start, event.turnover) for event in source if isinstance(event, Kline)] == [
        (T0 + i * MINUTE_MS, 55.5) for i in range(3)
    ]


@pytest.mark.parametrize(
    ("name", "argument", "symbol"),
    [
        ("BTCUSDT-1m.parquet", None, "BTCUSDT"),
        ("ethusdt_5m.csv", None, "ETHUSDT"),
        ("SPY.csv", None, "SPY"),
        ("prices.csv", "BTCUSDT", "BTCUSDT"),
    ],
)
def test_the_symbol_is_the_callers_or_the_file_names(
    tmp_path: Path, name: str, argument: str | None, symbol: str
) -> None:
    path = tmp_path / name
    if name.endswith("csv"):
        written(tmp_path, text(line(0), line(1)), name)
    else:
        parquet(tmp_path, pa.array([T0, T0 + MINUTE_MS]), name)
    assert KlineFile(path, argument).symbol == symbol


def test_a_command_line_argument_may_state_the_symbol() -> None:
    assert KlineFile.parse_argument("btcusdt=data/prices.csv") == (Path("data/prices.csv"), "BTCUSDT")
    assert KlineFile.parse_argument("data/a=b/prices.csv") == (Path("data/a=b/prices.csv"), None)
    assert KlineFile.parse_argument("./BTCUSDT=1.csv") == (Path("./BTCUSDT=1.csv"), None)
    with pytest.raises(UsageError, match="has no kline file"):
        KlineFile.parse_argument("BTCUSDT=")


ARGUMENTS = (
    "BTC/USDT:USDT: BTCUSDT | btc/usdt: BTCUSDT | BTC-USDT-SWAP: BTCUSDT | BYBIT:BTCUSDT.P: BTCUSDT | "
    "BRK.B: BRK.B | brk-b: BRK-B | ^GSPC: ^GSPC | ES1!: ES1! | BTC/USDT:USDT-240628: BTCUSDT-240628"
)
"""Pairs `text: symbol`."""


@pytest.mark.parametrize(("written_as", "symbol"), [pair.split(": ") for pair in ARGUMENTS.split(" | ")])
def test_the_symbol_of_an_argument_may_have_any_notation(written_as: str, symbol: str) -> None:
    assert KlineFile.parse_argument(f"{written_as}=data/a=b.csv") == (Path("data/a=b.csv"), symbol)


# -- gaps and duplicates -------------------------------------------------------------------------------------


def test_missing_bars_become_a_gap_available_when_the_next_bar_closes(tmp_path: Path) -> None:
    source = KlineFile(written(tmp_path, text(*map(line, (0, 1, 2, 5, 6, 8)))))
    events = list(source)
    assert [type(event).__name__ for event in events] == ["Kline"] * 3 + ["Gap"] + ["Kline"] * 2 + [
        "Gap",
        "Kline",
    ]
    gap = events[3]
    assert gap == Gap(
        "BTCUSDT", MINUTE_MS, T0 + 3 * MINUTE_MS, T0 + 5 * MINUTE_MS, T0 + 6 * MINUTE_MS, T0 + 5 * MINUTE_MS
    )
    assert gap.available_at == events[4].available_at
    assert (source.stats.gaps, source.stats.missing) == (2, 3)


def test_a_market_that_closes_has_no_gaps(tmp_path: Path) -> None:
    days = [T0 + DAY_MS * day for day in (1, 2, 3, 4, 7, 8, 9, 10, 11)]
    source = KlineFile(parquet(tmp_path, pa.array(days), "SPY-1d.parquet"), around_the_clock=False)
    assert [type(event) for event in source] == [Kline] * 9
    assert (source.interval, source.stats.gaps) == (DAY_MS, 0)


def test_identical_duplicates_are_dropped_and_counted(tmp_path: Path) -> None:
    source = KlineFile(written(tmp_path, text(*map(line, (0, 0, 1, 2, 2, 2, 3)))))
    assert starts(source) == [0, 1, 2, 3]
    assert (source.stats.rows, source.stats.duplicates, source.stats.gaps) == (4, 3, 0)


def test_rounding_errors_of_back_adjusted_prices_are_corrected(tmp_path: Path) -> None:
    source = KlineFile(
        written(
            tmp_path, text(line(0, "10,11.999999999999,9.000000000001,12"), line(1, "9,12,9.000000000001,12"))
        )
    )
    assert [(bar.high, bar.low) for bar in source if isinstance(bar, Kline)] == [
        (12.0, 9.000000000001),
        (12.0, 9.0),
    ]


# -- the window ----------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_window_and_its_warmup_are_a_slice_of_the_file(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    minutes = sorted(set(range(74)) - data.draw(st.sets(st.integers(1, 72), max_size=5)))
    group = data.draw(st.integers(3, 50))
    start, end, warmup = (
        data.draw(st.integers(0, 73)),
        data.draw(st.integers(0, 80)),
        data.draw(st.integers(0, 12)),
    )
    folder = tmp_path_factory.mktemp("window")
    path = parquet(folder, pa.array([T0 + minute * MINUTE_MS for minute in minutes]), group=group)
    inside = [minute for minute in minutes if start <= minute < end]
    before = [minute for minute in minutes if minute < start]
    window = {"start": T0 + start * MINUTE_MS, "end": T0 + end * MINUTE_MS, "warmup_bars": warmup}
    source = KlineFile(path, around_the_clock=False, **window)
    if inside:
        assert starts(source) == before[len(before) - min(warmup, len(before)) :] + inside
    else:
        with pytest.raises(DataError, match="no bar opens in the window"):
            list(source)


def test_row_groups_before_the_window_are_not_read(tmp_path: Path) -> None:
    path = parquet(
        tmp_path, pa.array([T0 + i * MINUTE_MS for i in range(100)], pa.timestamp("ms", tz="UTC")), group=10
    )
    damaged = bytearray(path.read_bytes())
    chunk = pq.ParquetFile(path).metadata.row_group(2).column(1)
    damaged[chunk.data_page_offset : chunk.data_page_offset + chunk.total_compressed_size // 2] = b"\xff" * (
        chunk.total_compressed_size // 2
    )
    path.write_bytes(damaged)
    assert starts(KlineFile(path, start=T0 + 45 * MINUTE_MS, warmup_bars=10)) == list(range(35, 100))
    with pytest.raises(DataError, match="can't be read"):
        list(KlineFile(path))


@settings(max_examples=40, deadline=None)
@given(minutes=st.sets(st.integers(0, 400), min_size=12, max_size=120), rows=st.integers(2, 30))
def test_the_size_of_batches_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, minutes: set[int], rows: int
) -> None:
    path = parquet(
        tmp_path_factory.mktemp("batches"),
        pa.array([T0 + minute * MINUTE_MS for minute in [*sorted(minutes), 401, 402]]),
    )
    source = KlineFile(path)
    whole = outcome(source)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "BATCH_ROWS", rows)
        assert outcome(source) == whole


def outcome(source: KlineFile) -> tuple[list[Any], Any] | str:
    try:
        return [(type(event), event.start, event.available_at) for event in source], source.stats
    except DataError as error:
        return error.message


# -- bad files -----------------------------------------------------------------------------------------------

BAD = {
    "empty": ("", ["is empty"]),
    "only a header": (text(), ["holds no bar"]),
    "no header": ("1,2,3,4,5,6\n1,2,3,4,5,6\n", ["has no header"]),
    "a column misspelt": (
        text(line(0), header="open_time,open,high,low,clsoe,volume"),
        ["no column close", "is it 'clsoe'?"],
    ),
    "no time column": (
        text(line(0), header="x,open,high,low,close,volume"),
        ["no column open_time or start or start_time or ts or timestamp"],
    ),
    "a column twice": (text(line(0), header="open_time,open,high,low,close,Close"), ["'close' and 'Close'"]),
    "cut off in a line": (
        text(line(0), line(1)) + f"{T0 + 120_000},10,1",
        ["row 3", "3 values", "6 columns"],
    ),
    "text for a price": (
        text(line(0), line(1, "10,12,nine,11")),
        ["row 2, column low", "'nine' is not a number"],
    ),
    "NaN price": (text(line(0), line(1, "10,12,nan,11")), ["row 2, column low: missing or not a number"]),
    "no price": (text(line(0), line(1, "10,12,9,")), ["row 2, column close: missing"]),
    "infinite price": (text(line(0), line(1, "10,inf,9,11")), ["row 2, column high: inf is not finite"]),
    "negative price": (text(line(0), line(1, "-10,12,-10,11")), ["row 2, column open: -10.0 is negative"]),
    "zero price": (text(line(0), line(1, "10,12,0,11")), ["row 2, column low: 0.0 is zero"]),
    "negative volume": (text(line(0), line(1, volume="-5")), ["row 2, column volume: -5.0 is negative"]),
    "no volume": (text(line(0), line(1, volume="")), ["row 2, column volume: missing"]),
    "high below low": (text(line(0), line(1, "10,9,12,11")), ["row 2, column high: 9.0 is below low 12.0"]),
    "high below close": (
        text(line(0), line(1, "10,10.5,9,11")),
        ["row 2, column high: 10.5 is below", "close 11.0"],
    ),
    "low above open": (
        text(line(0), line(1, "10,12,10.5,11")),
        ["row 2, column low: 10.5 is above", "open 10.0"],
    ),
    "unsorted": (
        text(*map(line, (0, 1, 3, 2))),
        ["row 4, column open_time: 2024-01-01T00:02:00Z comes after", "sort"],
    ),
    "newest first, but for one": (
        text(*map(line, (3, 2, 0, 1))),
        ["row 2, column open_time: 2024-01-01T00:02:00Z comes", "sort"],
    ),
    "two bars of one moment": (
        text(line(0), line(1), line(1, "10,12,9,10")),
        ["row 3 is a second bar of 2024-01-01T00:01:00Z", "close 10.0", "has 11.0"],
    ),
    "half an interval": (
        text(*map(line, (0, 1, 1.5, 2.5, 3.5))),
        ["mixed intervals: row 3 comes 30s after", "1m apart"],
    ),
    "off the grid": (text(*map(line, (0, 1, 2, 4.5, 5.5))), ["mixed intervals: row 4 comes 150s after"]),
    "five minutes after one": (
        text(*map(line, (*range(20), *range(24, 60, 5)))),
        ["mixed intervals: row 21 comes 5m after"],
    ),
    "one minute after five": (
        text(*map(line, (*range(0, 50, 5), *range(46, 50)))),
        ["mixed intervals: row 11 comes 1m after"],
    ),
    "naive texts": (
        text("2024-01-01T00:00:00,1,1,1,1,1", "2024-01-01T00:01:00,1,1,1,1,1"),
        ["row 1, column open_time: 2024-01-01T00:00:00 is naive", 'timezone="UTC"'],
    ),
    "dates": (text("2024-01-01,1,1,1,1,1", "2024-01-02,1,1,1,1,1"), ["row 1", "2024-01-01 is naive"]),
    "naive later on": (
        text("2024-01-01T00:00:00Z,1,1,1,1,1", "2024-01-01T00:01:00,1,1,1,1,1"),
        ["row 2, column open_time: 2024-01-01T00:01:00 is naive"],
    ),
    "no time": (text("yesterday,1,1,1,1,1"), ["row 1, column open_time: 'yesterday' is not a time"]),
    "time missing": (text(line(0), ",1,1,1,1,1", line(2)), ["row 2, column open_time: missing"]),
    "a date as an integer": (
        text("20240101,1,1,1,1,1", "20240102,1,1,1,1,1"),
        ["20240101 is a date in digits"],
    ),
    "another unit half-way": (
        text(line(0), line(1), f"{(T0 + 120_000) * 1000},1,1,1,1,1"),
        ["row 3, column open_time", "is in microseconds, the rows before are in milliseconds"],
    ),
    "latin-1": (text(line(0)).encode() + b"\xe9,1,1,1,1,1\n", ["is not UTF-8", "row 2"]),
    "UTF-16": (text(line(0)).encode("utf-16"), ["is not UTF-8", "0xff"]),
}


@pytest.mark.parametrize(("content", "fragments"), BAD.values(), ids=BAD)
def test_the_error_for_a_bad_csv_file_names_fault_place_and_remedy(
    tmp_path: Path, content: str | bytes, fragments: list[str]
) -> None:
    path = written(tmp_path, content)
    with pytest.raises(DataError) as error:
        list(KlineFile(path))
    said = str(error.value)
    assert str(path) in said
    assert [fragment for fragment in fragments if fragment not in said] == [], said


@pytest.mark.parametrize("order", [1, -1])
def test_string_views_are_read(tmp_path: Path, order: int) -> None:
    """polars writes string views; Arrow has no `take` for them, by which newest-first files are reversed."""
    times = pa.array([T0 + n * MINUTE_MS for n in range(3)][::order])
    symbols = pa.array(["BTCUSDT"] * 3, pa.string_view())
    path = parquet(
        tmp_path, times, "any.parquet", symbol=symbols, low=pa.array([" 9 "] * 3, pa.string_view())
    )
    assert starts(KlineFile(path)) == [0, 1, 2]
    assert [event.low for event in KlineFile(path)] == [9.0] * 3


def test_a_parquet_file_with_damaged_column_names_is_refused(tmp_path: Path) -> None:
    path = parquet(tmp_path, pa.array([T0 + n * MINUTE_MS for n in range(3)]))
    path.write_bytes(path.read_bytes().replace(b"volume", b"v\xe2\x28ume"))
    with pytest.raises(DataError, match=r"BTCUSDT-1m\.parquet"):
        KlineFile(path)


def test_a_damaged_parquet_file_is_refused(tmp_path: Path) -> None:
    whole = parquet(tmp_path, pa.array([T0 + i * MINUTE_MS for i in range(1000)])).read_bytes()
    for content, said in (
        (whole[:-200], "can't be read"),
        (b"PAR1", "can't be read"),
        (b"", "is empty"),
        (HEADER.encode(), "can't be read"),
    ):
        with pytest.raises(DataError, match=said):
            KlineFile(written(tmp_path, content, "BTCUSDT.parquet"))


@pytest.mark.parametrize(
    ("times", "fragments"),
    [
        (
            pa.array([datetime(2024, 1, 1, tzinfo=UTC).replace(tzinfo=None)]),
            ["row 1, column open_time: 2024-01-01 00:00:00", "naive"],
        ),
        (pa.array([T0, T0 + 1], pa.timestamp("ns", tz="UTC")), ["row 1", "1970-01-01T00:28", "another unit"]),
        (pa.array([True, False]), ["column open_time holds bool, which is not a time"]),
        (pa.array([T0, None]), ["row 2, column open_time: missing"]),
        (pa.array([float("nan"), 1.0]), ["row 1, column open_time"]),
        (
            pa.array([T0, 2**64 - 1], pa.uint64()),
            ["row 2, column open_time: 18446744073709551615 is not a time"],
        ),
    ],
    ids=["naive", "wrong unit", "bool", "null", "NaN", "unsigned"],
)
def test_the_error_for_bad_parquet_times_names_fault_place_and_remedy(
    tmp_path: Path, times: pa.Array, fragments: list[str]
) -> None:
    with pytest.raises(DataError) as error:
        list(KlineFile(parquet(tmp_path, times), interval=MINUTE_MS))
    assert all(fragment in str(error.value) for fragment in fragments), str(error.value)


def test_naive_times_are_read_in_the_stated_zone(tmp_path: Path) -> None:
    path = written(tmp_path, text("2024-01-01T01:00:00,1,1,1,1,1", "2024-01-01T01:01:00,1,1,1,1,1"))
    assert starts(KlineFile(path, timezone="Europe/Berlin")) == [0, 1]


def test_other_errors(tmp_path: Path) -> None:
    path = written(tmp_path, text(line(0), line(1)))
    with pytest.raises(DataError, match="its bars are 1m apart, not 5m"):
        KlineFile(path, interval=300_000)
    with pytest.raises(DataError, match="no such file"):
        KlineFile(tmp_path / "none.csv")
    with pytest.raises(DataError, match="unknown kind of file"):
        KlineFile(written(tmp_path, "x", "BTCUSDT.xlsx"))
    with pytest.raises(DataError, match=r"no bar opens in the window 2025-01-01.* to …"):
        list(KlineFile(path, start=T0 + 366 * DAY_MS))


# -- whole files ---------------------------------------------------------------------------------------------


def test_describe_checks_counts_and_hashes_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, text(*map(line, (0, 1, 1, 4))))
    description = KlineFile(path).describe()
    assert description == {
        "path": str(path),
        "symbol": "BTCUSDT",
        "interval": MINUTE_MS,
        "time_unit": "milliseconds",
        "rows": 3,
        "first": T0,
        "last": T0 + 4 * MINUTE_MS,
        "end": T0 + 5 * MINUTE_MS,
        "gaps": 1,
        "missing": 2,
        "duplicates": 1,
        "unfinished": 0,
        "lowest": 9.0,
        "sha256": content_hash(path),
    }


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "rows", "interval"),
    [
        ("BTCUSDT-1m", 832_320, MINUTE_MS),
        ("ETHUSDT-1m", 832_320, MINUTE_MS),
        ("BTCUSDT-bybit-5m", 38_972, 5 * MINUTE_MS),
    ],
)
def test_real_klines_are_read_completely(shared_data: Path, name: str, rows: int, interval: int) -> None:
    description = KlineFile(shared_data / "data" / "klines" / f"{name}.parquet").describe()
    assert (description["rows"], description["interval"], description["duplicates"]) == (rows, interval, 0)
    assert description["gaps"] == 0 or "bybit" in name
