"""Files exported by other programs are read, or refused with the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.core.errors import DataError, TapewireError, UsageError
from agent.core.events import DAY_MS, HOUR_MS, MINUTE_MS
from agent.core.symbol_names import normalise, symbol_of
from agent.data.funding import FundingFile
from agent.data.klines import KlineFile

T0 = 1_735_689_600_000  # 2025-01-01
BAR = "95000,95100,94900,95050,12.5"  # open, high, low, close, volume


def written(folder: Path, name: str, *lines: str) -> Path:
    (folder / name).write_text("\n".join(lines) + "\n")
    return folder / name


EXPORTS = {
    "Kraken": (
        "XBTUSD_1.csv",
        [f"{T0 // 1000},{BAR},35", f"{T0 // 1000 + 60},{BAR},22"],
        "XBTUSD",
        MINUTE_MS,
    ),
    "Kraken's API": (
        "XBTUSD-1.csv",
        [f"{T0 // 1000 + n * 60},95000,95100,94900,95050,95010,12.5,22" for n in (0, 1)],
        "XBTUSD",
        MINUTE_MS,
    ),
    "CryptoDataDownload, newest first": (
        "Binance_BTCUSDT_1h.csv",
        [
            "https://www.CryptoDataDownload.com",
            "Unix,Date,Symbol,Open,High,Low,Close,Volume BTC,Volume USDT,tradecount",
            *(f"{T0 + n * HOUR_MS},2025-01-01 0{n}:00:00,BTCUSDT,{BAR},1187500,100" for n in (2, 1, 0)),
        ],
        "BTCUSDT",
        HOUR_MS,
    ),
    "yfinance": (
        "prices.csv",
        [
            "Price,Open,High,Low,Close,Volume",
            "Ticker,SPY,SPY,SPY,SPY,SPY",
            "Date,,,,,",
            f"2025-01-01,{BAR}",
            f"2025-01-02,{BAR}",
        ],
        "SPY",
        DAY_MS,
    ),
    "yfinance, intraday": (
        "prices.csv",
        ["Price,Open,High,Low,Close,Volume", "Ticker,SPY,SPY,SPY,SPY,SPY", "Datetime,,,,,"]
        + [f"2025-01-01 0{n}:00:00+00:00,{BAR}" for n in (0, 1)],
        "SPY",
        HOUR_MS,
    ),
    "yfinance, group_by ticker": (
        "prices.csv",
        [
            "Ticker,SPY,SPY,SPY,SPY,SPY",
            "Price,Open,High,Low,Close,Volume",
            "Date,,,,,",
            f"2025-01-01,{BAR}",
            f"2025-01-02,{BAR}",
        ],
        "SPY",
        DAY_MS,
    ),
    "yfinance, levels without names": (
        "prices.csv",
        [
            ",Open,High,Low,Close,Volume",
            ",SPY,SPY,SPY,SPY,SPY",
            "Date,,,,,",
            f"2025-01-01,{BAR}",
            f"2025-01-02,{BAR}",
        ],
        "SPY",
        DAY_MS,
    ),
    "MetaTrader 5, whole": (
        "EURUSD_M1.csv",
        ["<DATE>\t<TIME>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<TICKVOL>\t<VOL>\t<SPREAD>"]
        + [f"2025.01.01\t00:0{n}:00\t" + BAR.replace(",", "\t") + "\t0\t3" for n in (0, 1)],
        "EURUSD",
        MINUTE_MS,
    ),
    "MetaTrader 5 in Python": (
        "EURUSD.csv",
        [
            "time,open,high,low,close,tick_volume,spread,real_volume",
            *(f"{T0 // 1000 + n * 60},{BAR},3,0" for n in (0, 1)),
        ],
        "EURUSD",
        MINUTE_MS,
    ),
    "MetaTrader 5": (
        "EURUSD_M1.csv",
        ["<DATE>\t<TIME>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<TICKVOL>"]
        + [f"2025.01.01\t00:0{n}:00\t" + BAR.replace(",", "\t") for n in (0, 1)],
        "EURUSD",
        MINUTE_MS,
    ),
    "MetaTrader 4": ("EURUSD1.csv", [f"2025.01.01,00:0{n},{BAR}" for n in (0, 1)], "EURUSD1", MINUTE_MS),
    "date and time apart": (
        "SPY.csv",
        ["date,time,open,high,low,close,volume", *(f"2025-01-01,0{n}:00,{BAR}" for n in (0, 1))],
        "SPY",
        HOUR_MS,
    ),
    "Bybit": (
        "BTCUSDT.csv",
        [
            "startTime,openPrice,highPrice,lowPrice,closePrice,volume,turnover",
            *(f"{T0 + n * MINUTE_MS},{BAR},1187500" for n in (0, 1)),
        ],
        "BTCUSDT",
        MINUTE_MS,
    ),
    "UTC as a word": (
        "BTCUSDT.csv",
        ["timestamp,open,high,low,close,volume", *(f"2025-01-01 00:0{n}:00 UTC,{BAR}" for n in (0, 1))],
        "BTCUSDT",
        MINUTE_MS,
    ),
    "TradingView": (
        "BINANCE_BTCUSDT, 60.csv",
        ["time,open,high,low,close,Volume,EMA", *(f"{T0 // 1000 + n * 3600},{BAR},1" for n in (0, 1))],
        "BTCUSDT",
        HOUR_MS,
    ),
    "semicolons": (
        "BTCUSDT.csv",
        [
            "open_time;open;high;low;close;volume",
            *(f"{T0 + n * MINUTE_MS};" + BAR.replace(",", ";") for n in (0, 1)),
        ],
        "BTCUSDT",
        MINUTE_MS,
    ),
    "a column of pairs": (
        "data.csv",
        [
            "open_time,pair,open,high,low,close,volume",
            *(f"{T0 + n * MINUTE_MS},BTC/USDT:USDT,{BAR}" for n in (0, 1)),
        ],
        "BTCUSDT",
        MINUTE_MS,
    ),
}


@pytest.mark.parametrize(("name", "lines", "symbol", "interval"), EXPORTS.values(), ids=EXPORTS)
def test_common_exports_are_read(
    tmp_path: Path, name: str, lines: list[str], symbol: str, interval: int
) -> None:
    file = KlineFile(written(tmp_path, name, *lines), timezone="UTC")
    bars = list(file)
    assert (file.symbol, file.interval) == (symbol, interval)
    assert [bar.start for bar in bars] == [T0 + n * interval for n in range(len(bars))]
    assert {(bar.open, bar.high, bar.low, bar.close, bar.volume) for bar in bars} == {
        (95_000.0, 95_100.0, 94_900.0, 95_050.0, 12.5)
    }


def test_turnover_is_the_volume_in_the_quote_currency(tmp_path: Path) -> None:
    name, lines, _, _ = EXPORTS["CryptoDataDownload, newest first"]
    assert next(iter(KlineFile(written(tmp_path, name, *lines)))).turnover == 1_187_500.0


def test_adjusted_closes_are_noted_and_not_used(tmp_path: Path) -> None:
    lines = [f"2025-01-0{n},{BAR.rsplit(',', 1)[0]},90000,12.5" for n in (1, 2)]
    file = KlineFile(
        written(tmp_path, "SPY.csv", "Date,Open,High,Low,Close,Adj Close,Volume", *lines), timezone="UTC"
    )
    assert [bar.close for bar in file] == [95_050.0, 95_050.0]
    assert file.notes == ["SPY.csv: column Adj Close is not used: prices are as traded, without dividends"]


FILE_NAMES = (
    "BTCUSDT-1m.parquet: BTCUSDT | btcusdt.csv: BTCUSDT | Binance_BTCUSDT_1h.csv: BTCUSDT | "
    "BYBIT_BTCUSDT-1m.csv: BTCUSDT | BINANCE_BTCUSDT, 60.csv: BTCUSDT | BTC_USDT-5m.csv: BTCUSDT | "
    "BTC_USDT_USDT-1h-futures.parquet: BTCUSDT | BTC-USD.csv: BTCUSD | "
    "1000PEPEUSDT-1m.csv.gz: 1000PEPEUSDT | SPY.csv: SPY | NASDAQ_AAPL, 1D.csv: AAPL | "
    "funding_BTCUSDT.csv: BTCUSDT | data.csv:  | binance.csv:  | candles_export.csv:  | 1h.csv:  | "
    "daily.csv:  | 2024-01.csv:  | BATS_SPY, 1D.csv: SPY | EIGHTCAP_EURUSD, 240.csv: EURUSD | "
    "NYSE_BRK.B, 1W (1).csv: BRK.B | BINANCE_BTCUSDT.P, 15_4e1d2.csv: BTCUSDT | "
    "CME_MINI_ES1!, 1D.csv: ES1! | BTC_USDT, 60.csv: BTCUSDT | 1h_BTCUSDT.csv: BTCUSDT | "
    "daily_SPY.csv: SPY | 2024_SPY.csv: SPY | 2024-01-BTCUSDT.csv: BTCUSDT | "
    "2024.01.15.BTCUSDT.csv: BTCUSDT | 20240115_1m_BTCUSDT.csv: BTCUSDT | "
    "binance_1h_BTCUSDT.csv: BTCUSDT | BTCUSDT-1m-2024-01.csv: BTCUSDT | BTC-JPY.csv: BTCJPY | "
    "EUR_GBP-1h.csv: EURGBP | eth-usde.csv: ETHUSDE | BTC-USDT-SWAP.csv: BTCUSDT | "
    "BTC-USDT-SWAP-1m-2024-01.csv: BTCUSDT | BRK-B.csv: BRK-B | brk.b_1d.csv: BRK.B | "
    "BRK-B-1d.csv: BRK-B | SPY-D.csv: SPY | 7203.T.csv: 7203.T | 1925.T.csv: 1925.T | "
    "aapl.us.csv: AAPL | SPY-240628.csv: SPY | BTCUSDT2024-01-15.csv.gz: BTCUSDT | "
    "BTC-USDT-240628.csv: BTCUSDT-240628 | BTCUSDT_240628-1m-2024-06.csv: BTCUSDT-240628 | "
    "BTC-28JUN24.csv: BTC-28JUN24"
)
"""Pairs `text: symbol`."""


@pytest.mark.parametrize(("name", "symbol"), [pair.split(": ") for pair in FILE_NAMES.split(" | ")])
def test_the_symbol_in_a_file_name_is_found(name: str, symbol: str) -> None:
    assert symbol_of(Path(name)) == symbol


NOTATIONS = (
    "BTC/USDT:USDT: BTCUSDT | BTC/USDT: BTCUSDT | btc-usdt: BTCUSDT | BTC_USDT: BTCUSDT | "
    "BINANCE:BTCUSDT: BTCUSDT | BYBIT:BTCUSDT.P: BTCUSDT | BTCUSDT: BTCUSDT | SPY: SPY | "
    "BRK-B: BRK-B | NASDAQ:AAPL: AAPL | ETH/BTC: ETHBTC | BTC-USDT-SWAP: BTCUSDT | "
    "BTCUSDT-PERP: BTCUSDT | BTC_USDT_USDT: BTCUSDT | BTC-PERPETUAL: BTC-PERPETUAL | BRK.B: BRK.B | "
    "USD/JPY: USDJPY | BTC/TRY: BTCTRY | BTC/USDT:USDT-240628: BTCUSDT-240628 | "
    "BTC-USDT-240628: BTCUSDT-240628 | BTCUSDT-28JUN24: BTCUSDT-28JUN24 | "
    "BTC/USD:BTC-240628-50000-C: BTCUSD-240628-50000-C | BTC-USDT:USDT: BTCUSDT"
)
"""Pairs `text: symbol`."""


@pytest.mark.parametrize(("text", "symbol"), [pair.split(": ") for pair in NOTATIONS.split(" | ")])
def test_symbols_in_other_notations_are_normalised(text: str, symbol: str) -> None:
    assert normalise(text) == symbol
    assert normalise(symbol) == symbol


@pytest.mark.parametrize(
    ("export", "note"),
    [
        (
            "MetaTrader 5, whole",
            "EURUSD_M1.csv: the volume is the number of ticks (column <TICKVOL>), column <VOL> is not used",
        ),
        ("MetaTrader 5", "EURUSD_M1.csv: the volume is the number of ticks (column <TICKVOL>)"),
        ("MetaTrader 5 in Python", "EURUSD.csv: the volume is the number of ticks (column tick_volume)"),
        ("MetaTrader 4", "EURUSD1.csv: the volume is the number of ticks (column tickvol)"),
    ],
)
def test_a_volume_that_counts_ticks_is_noted(tmp_path: Path, export: str, note: str) -> None:
    """<VOL> is 0 in every row; <TICKVOL> is 12.5, the volume that `test_common_exports_are_read` expects."""
    name, lines, _, _ = EXPORTS[export]
    assert KlineFile(written(tmp_path, name, *lines), timezone="UTC").notes == [note]


@pytest.mark.parametrize(
    "header",
    [
        ["Price,Close,Close,High,High", "Ticker,SPY,QQQ,SPY,QQQ", "Date,,,,"],
        ["Ticker,SPY,SPY,QQQ,QQQ", "Price,Open,Close,Open,Close", "Datetime,,,,"],
    ],
)
def test_a_file_of_several_tickers_is_refused_with_their_names(tmp_path: Path, header: list[str]) -> None:
    with pytest.raises(DataError) as raised:
        KlineFile(written(tmp_path, "prices.csv", *header, "2025-01-01,1,2,3,4"), timezone="UTC")
    assert raised.value.message == f"{tmp_path / 'prices.csv'} holds several symbols: QQQ, SPY"
    assert raised.value.hint == "write a file for each symbol"


HEADER = ["open_time;open;high;low;close;volume;trades"]


@pytest.mark.parametrize(
    ("header", "price"), [(HEADER, "1234,5"), (HEADER, "1.234,5"), (HEADER, "1,234"), ([], "1234,5")]
)
def test_a_decimal_comma_is_refused_with_a_hint(tmp_path: Path, header: list[str], price: str) -> None:
    lines = [f"{T0 // 1000 + n * 60};{price};1300;1200;1250;2;7" for n in (0, 1)]
    with pytest.raises(DataError) as raised:
        list(KlineFile(written(tmp_path, "BTCUSDT.csv", *header, *lines)))
    assert f"row 1, column open: '{price}' is not a number" in raised.value.message
    assert raised.value.hint == "write a point before decimals and nothing between thousands"


def test_the_error_for_a_bad_number_has_its_row_if_others_have_spaces(tmp_path: Path) -> None:
    lines = [f"{T0}, 1 ,1,1,1,1", f"{T0 + MINUTE_MS},one,1,1,1,1"]
    with pytest.raises(DataError, match="row 2, column open: 'one' is not a number"):
        list(KlineFile(written(tmp_path, "BTCUSDT.csv", "open_time,open,high,low,close,volume", *lines)))


def bars_of(*symbols: str) -> list[str]:
    return [
        "open_time,symbol,open,high,low,close,volume",
        *(f"{T0 + n * MINUTE_MS},{one},{BAR}" for n, one in enumerate(symbols)),
    ]


@pytest.mark.parametrize(
    ("name", "lines", "stated", "error", "fragments"),
    [
        (
            "data.csv",
            ["open_time,open,high,low,close,volume", f"{T0},{BAR}"],
            None,
            UsageError,
            ["neither its name nor a column", "SYMBOL="],
        ),
        (
            "BTCUSDT.csv",
            bars_of("ETHUSDT", "ETHUSDT"),
            "BTCUSDT",
            DataError,
            ["holds bars of ETHUSDT, not of BTCUSDT", "ETHUSDT="],
        ),
        (
            "all.csv",
            bars_of("BTCUSDT", "BTCUSDT", "ETHUSDT"),
            None,
            DataError,
            ["row 3, column symbol: ETHUSDT", "BTCUSDT"],
        ),
        (
            "x.csv",
            ["Price,Close,Close2,High", "Ticker,SPY,QQQ,SPY", "Date,,,", "2025-01-01,1,2,3"],
            None,
            TapewireError,
            ["no column open"],
        ),
        ("BTCUSDT.csv", ["1,2,3,4,5", "1,2,3,4,5"], None, DataError, ["has no header", "name the columns"]),
    ],
)
def test_files_with_contradicting_symbols_are_refused(
    tmp_path: Path,
    name: str,
    lines: list[str],
    stated: str | None,
    error: type[Exception],
    fragments: list[str],
) -> None:
    with pytest.raises(error) as raised:
        list(KlineFile(written(tmp_path, name, *lines), stated))
    assert all(fragment in f"{raised.value} {getattr(raised.value, 'hint', '')}" for fragment in fragments), (
        raised.value
    )


def test_the_symbol_column_precedes_the_file_name(tmp_path: Path) -> None:
    file = KlineFile(written(tmp_path, "BTCUSDT-1m.csv", *bars_of("ETHUSDT", "ETHUSDT")))
    assert file.symbol == "ETHUSDT"
    assert file.notes == [
        "BTCUSDT-1m.csv: the symbol is ETHUSDT, from its column symbol, not BTCUSDT, from its name"
    ]


@pytest.mark.parametrize(
    ("day", "hours", "zone", "message"),
    [
        # New York, 2025-11-02: 01:00 is 05:00 UTC and again 06:00 UTC; 2025-03-09: 01:59 is followed by 03:00
        (
            "2025-11-02",
            (0, 1),
            "America/New_York",
            "2025-11-02 01:00:00 occurs twice, as clocks are set back",
        ),
        (
            "2025-03-09",
            (1, 2),
            "America/New_York",
            "2025-03-09 02:00:00 is left out, as clocks are set forward",
        ),
    ],
)
def test_ambiguous_and_skipped_local_times_are_refused_with_their_row(
    tmp_path: Path, day: str, hours: tuple[int, int], zone: str, message: str
) -> None:
    lines = [f"{day} 0{hour}:{minute:02}:00,{BAR}" for hour in hours for minute in (0, 30)]
    path = written(tmp_path, "SPY.csv", "open_time,open,high,low,close,volume", *lines)
    with pytest.raises(DataError) as error:
        list(KlineFile(path, timezone=zone))
    assert error.value.message == f"{path}: row 3, column open_time: in the time zone {zone}, {message}"
    assert error.value.hint.startswith("write times with their offset")


def test_eight_columns_without_a_header_are_distinguished_by_their_values(tmp_path: Path) -> None:
    ohlc = "95000,95100,94900,95050"
    mexc = written(
        tmp_path,
        "BTCUSDT-m.csv",
        *(f"{T0 + n * 60_000},{ohlc},12.5,{T0 + n * 60_000 + 60_000},1187500" for n in (0, 1)),
    )
    assert [bar.volume for bar in KlineFile(mexc)] == [12.5, 12.5]
    unknown = written(
        tmp_path, "BTCUSDT-u.csv", *(f"{T0 + n * 60_000},{ohlc},12.5,1187500,35" for n in (0, 1))
    )
    with pytest.raises(DataError) as refused:
        KlineFile(unknown)
    assert refused.value.hint == "name the columns in a first line"


@pytest.mark.parametrize(
    "stamps",
    [("20250101", "20250102"), ("202501010000", "202501010001"), ("20250101000000", "20250101000100")],
)
def test_a_date_in_digits_is_not_read_as_a_time_since_1970(tmp_path: Path, stamps: tuple[str, str]) -> None:
    path = written(
        tmp_path, "BTCUSDT.csv", "time,open,high,low,close,volume", *(f"{stamp},{BAR}" for stamp in stamps)
    )
    with pytest.raises(DataError) as refused:
        KlineFile(path)
    assert refused.value.hint == "write 2025-03-03T14:00"


def test_the_start_column_precedes_the_timestamp_column(tmp_path: Path) -> None:
    rows = [f"{T0 + n * 60_000},{BAR},{T0 + n * 60_000 + 59_123}" for n in (0, 1)]
    path = written(tmp_path, "BTCUSDT.csv", "start,open,high,low,close,volume,timestamp", *rows)
    assert [bar.start for bar in KlineFile(path)] == [T0, T0 + MINUTE_MS]


@pytest.mark.parametrize("column", ["instId", "instrument_name", "contract", "pair"])
def test_a_symbol_column_of_any_name_precedes_the_file_name(tmp_path: Path, column: str) -> None:
    day = 1_735_689_600_000
    klines = tmp_path / "ETHUSDT-1m.csv"
    rows = "".join(f"{day + n * 60_000},BTC-USDT-SWAP,100,101,99,100,5\n" for n in range(3))
    klines.write_text(f"open_time,{column},open,high,low,close,volume\n{rows}")
    assert KlineFile(klines).symbol == "BTCUSDT"
    funding = tmp_path / "BTCUSDT-funding.csv"
    funding.write_text(f"ts,{column},rate\n{day},ETHUSDT,0.0001\n")
    assert [one.symbol for one in FundingFile(funding)] == ["ETHUSDT"]


def test_the_end_of_a_bar_is_not_suggested_as_its_open_time(tmp_path: Path) -> None:
    path = tmp_path / "BTCUSDT-1m.csv"
    path.write_text("close_time,open,high,low,close,volume\n1735689660000,100,101,99,100,5\n")
    with pytest.raises(DataError, match="only close_time") as refused:
        KlineFile(path)
    assert refused.value.hint == "subtract the interval from it, and name it 'open_time'"


OKX = [
    "ts,open,high,low,close,vol,volCcyQuote,confirm",
    *(f"{T0 + n * MINUTE_MS},{BAR},1187500,1" for n in (0, 1)),
]


@pytest.mark.parametrize("flag", ["0", "0.0", "false"])
@pytest.mark.parametrize("newest_first", [False, True])
def test_an_unfinished_last_bar_is_left_out_and_noted(tmp_path: Path, flag: str, newest_first: bool) -> None:
    """Of three bars the last is marked as open: the first two are read, at minutes 0 and 1."""
    rows = [*OKX[1:], f"{T0 + 2 * MINUTE_MS},{BAR},1187500,{flag}"]
    file = KlineFile(written(tmp_path, "BTC-USDT.csv", OKX[0], *(rows[::-1] if newest_first else rows)))
    assert file.notes == []
    for _ in range(2):
        assert [bar.start for bar in file] == [T0, T0 + MINUTE_MS]
        assert file.notes == ["BTC-USDT.csv: 1 unfinished bars left out: their column confirm is 0"]


def test_finished_bars_are_not_noted(tmp_path: Path) -> None:
    file = KlineFile(written(tmp_path, "BTC-USDT.csv", *OKX))
    assert len(list(file)) == 2
    assert file.notes == []


# A bar of 12.5 coins at 95,000 or so turned over 12.5 · 95,000 = 1,187,500. A contract of 0.01 coins makes
# that 1,250 contracts, and one of 1 dollar 1,187,500.
VOLUMES = {
    "OKX spot: vol in coins": ("vol,volCcy,volCcyQuote", "12.5,1187500,1187500", []),
    "OKX spot, earlier layout": ("vol,volCcy", "12.5,1187500", []),
    "OKX linear swap: vol in contracts of 0.01": (
        "vol,volCcy,volCcyQuote",
        "1250,12.5,1187500",
        ["the volume is column volCcy: column vol is not in coins"],
    ),
    "OKX inverse swap: vol in contracts of 100 dollars": (
        "vol,vol_ccy,vol_quote",
        "11875,12.5,1187500",
        ["the volume is column vol_ccy: column vol is not in coins"],
    ),
    "OKX swap, earlier layout": (
        "vol,volCcy",
        "1250,12.5",
        ["the volume is column volCcy: column vol is not in coins"],
    ),
    "BitMEX: volume in contracts, turnover in satoshis": (
        "volume,turnover,homeNotional,foreignNotional",
        "1187500,1250000000,12.5,1187500",
        ["the volume is column homeNotional: column volume is not in coins"],
    ),
    "Bybit inverse: volume in dollars, turnover in coins": (
        "volume,turnover",
        "1187500,12.5",
        ["the volume is column turnover: column volume is not in coins"],
    ),
}


@pytest.mark.parametrize(("header", "values", "notes"), VOLUMES.values(), ids=VOLUMES.keys())
def test_the_volume_is_the_column_in_coins(
    tmp_path: Path, header: str, values: str, notes: list[str]
) -> None:
    lines = [f"{T0 + n * MINUTE_MS},95000,95100,94900,95050,{values}" for n in (0, 1, 2)]
    lines.append(f"{T0 + 3 * MINUTE_MS},95000,95000,95000,95000,{','.join('0' * len(values.split(',')))}")
    file = KlineFile(written(tmp_path, "BTCUSDT.csv", f"ts,open,high,low,close,{header}", *lines))
    assert file.notes == [f"BTCUSDT.csv: {note}" for note in notes]
    assert [bar.volume for bar in file] == [12.5, 12.5, 12.5, 0]
    if len(values.split(",")) > 2 or not notes or "turnover" in notes[0]:
        assert [bar.turnover for bar in file] == [1_187_500] * 3 + [0]


def test_a_volume_that_does_not_fit_the_turnover_is_noted(tmp_path: Path) -> None:
    """125 lots of 100 shares at 950 turned over 125 · 100 · 950: a hundred times volume · price."""
    lines = [f"2025-01-0{n},950,951,949,950,125,11875000" for n in (1, 2, 3)]
    path = written(tmp_path, "600519.csv", "date,open,high,low,close,volume,turnover", *lines)
    file = KlineFile(path, around_the_clock=False, timezone="UTC")
    text = "column turnover is not volume times the price: one of them may be in contracts, lots or percent"
    assert file.notes == [f"600519.csv: {text}"]
    assert [bar.volume for bar in file] == [125] * 3


STOOQ = "<TICKER>,<PER>,<DATE>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>"


@pytest.mark.parametrize(
    ("lines", "interval"),
    [
        ([STOOQ, *(f"BTCUSDT,1,20250101,000{n}00,{BAR}" for n in (0, 1))], MINUTE_MS),
        ([STOOQ, *(f"BTCUSDT,60,20250101,0{n}00,{BAR}" for n in (0, 1))], HOUR_MS),
        ([STOOQ, *(f"BTCUSDT,D,2025010{n},000000,{BAR}" for n in (1, 2))], DAY_MS),
        ([f"20250101,000{n}00,{BAR}" for n in (0, 1)], MINUTE_MS),  # without a header
        (
            ["date,time,open,high,low,close,volume", *(f"20250101,00:0{n}:00,{BAR}" for n in (0, 1))],
            MINUTE_MS,
        ),
    ],
)
def test_dates_and_times_in_digits_are_read_from_two_columns(
    tmp_path: Path, lines: list[str], interval: int
) -> None:
    """`T0` is 2025-01-01 00:00 UTC, the first row's time."""
    file = KlineFile(written(tmp_path, "BTCUSDT.csv", *lines), timezone="UTC")
    assert (file.symbol, file.interval) == ("BTCUSDT", interval)
    assert [(bar.start, bar.close) for bar in file] == [(T0, 95_050.0), (T0 + interval, 95_050.0)]


@pytest.mark.parametrize("first", ["sep=;", '"sep=;"', "SEP=;"])
def test_a_first_line_may_state_the_delimiter(tmp_path: Path, first: str) -> None:
    lines = ["open_time;open;high;low;close;volume", *(f"{T0 + n * MINUTE_MS};{BAR}" for n in (0, 1))]
    path = written(tmp_path, "BTCUSDT.csv", first, *(line.replace(",", ";") for line in lines))
    assert [(bar.start, bar.volume) for bar in KlineFile(path)] == [(T0, 12.5), (T0 + MINUTE_MS, 12.5)]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_the_hint_for_a_utf16_file_names_the_encoding(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "BTCUSDT.csv"
    path.write_bytes(
        ("\ufeff" if encoding != "utf-16" else "").encode(encoding) + "open_time,open".encode(encoding)
    )
    with pytest.raises(DataError, match="is not UTF-8") as refused:
        KlineFile(path)
    assert refused.value.hint == "it is UTF-16: save it as UTF-8, e.g. iconv -f utf-16 -t utf-8"
