"""Funding rates from files, and constant ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import DataError
from agent.core.events import HOUR_MS, Funding
from agent.data.funding import FundingFile, constant_funding, fill_missing_rates

T0 = 1_704_067_200_000  # 2024-01-01
EIGHT = 8 * HOUR_MS


def written(folder: Path, content: str, name: str = "BTCUSDT-funding.csv") -> Path:
    (folder / name).write_text(content)
    return folder / name


def test_rates_are_sorted_and_available_at_their_stamp(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        f"symbol,fundingRate,fundingRateTimestamp\nBTCUSDT,0.0002,{T0 + EIGHT}\n"
        f"BTCUSDT,-0.0001,{T0}\nETHUSDT,0.0003,{T0}\n",
    )
    assert list(FundingFile(path)) == [
        Funding("BTCUSDT", T0, T0, -0.0001),
        Funding("ETHUSDT", T0, T0, 0.0003),
        Funding("BTCUSDT", T0 + EIGHT, T0 + EIGHT, 0.0002),
    ]
    assert [event.ts for event in FundingFile(path, start=T0 + 1)] == [T0 + EIGHT]
    assert [event.ts for event in FundingFile(path, end=T0 + EIGHT)] == [T0, T0]


def test_the_symbol_is_the_callers_or_the_file_names_and_duplicates_are_dropped(
    tmp_path: Path,
) -> None:
    source = FundingFile(written(tmp_path, f"ts,rate\n{T0},0.0001\n{T0},0.0001\n"))
    assert list(source) == [Funding("BTCUSDT", T0, T0, 0.0001)]
    assert source.duplicates == 1
    assert next(iter(FundingFile(source.path, "ETHUSDT"))).symbol == "ETHUSDT"


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        ("ts,price\n1,2\n", "no column rate or fundingRate"),
        (f"ts,rate\n{T0},\n", "row 1, column rate: nan is not a funding rate"),
        (f"ts,rate\n{T0},0.0001\n{T0 + 1},12\n", "row 2, column rate: 12.0 is not a funding rate"),
        (f"ts,rate\n{T0},0.0001\n,0.0001\n", "row 2, column ts: missing"),
        (
            f"ts,rate\n{T0},0.0001\n{T0},0.0002\n",
            "two funding rates of BTCUSDT at 2024-01-01T00:00:00Z: 0.0001 and 0.0002",
        ),
        ("ts,rate\n2024-01-01,0.0001\n", "naive"),
    ],
)
def test_the_error_for_a_bad_file_names_fault_and_place(tmp_path: Path, content: str, fragment: str) -> None:
    with pytest.raises(DataError) as error:
        list(FundingFile(written(tmp_path, content)))
    assert fragment in str(error.value)


@given(st.integers(0, 40 * EIGHT), st.integers(0, 40 * EIGHT), st.sampled_from([HOUR_MS, 4 * HOUR_MS, EIGHT]))
def test_constant_funding_has_every_stamp_of_the_window(start: int, length: int, interval: int) -> None:
    events = list(constant_funding(["BTCUSDT", "ETHUSDT"], 0.0001, interval, T0 + start, T0 + start + length))
    stamps = [ts for ts in range(T0, T0 + start + length, interval) if ts >= T0 + start]
    assert [(event.ts, event.symbol) for event in events] == [
        (ts, symbol) for ts in stamps for symbol in ("BTCUSDT", "ETHUSDT")
    ]


# -- a file and the traded symbols ---------------------------------------------------------------------------


def stamps(*numbers: int, symbol: str = "BTCUSDT", rate: float = 0.001) -> list[Funding]:
    return [Funding(symbol, T0 + number * EIGHT, T0 + number * EIGHT, rate) for number in numbers]


@pytest.mark.parametrize(
    ("rates", "window", "constant", "note"),
    [
        (stamps(0, 1, 2, 3), (0, 4), [], ""),
        (stamps(1, 2, 3), (1, 4), [], ""),  # the window begins at the first stamp
        (
            stamps(0, 1, 4, 5),
            (0, 6),
            [2, 3],
            "2 stamps of BTCUSDT have no rate (2024-01-01T16:00:00Z to 2024-01-02T00:00:00Z)",
        ),
        (stamps(2, 3), (0, 4), [0, 1], "2 stamps of BTCUSDT have no rate"),
        (stamps(0, 1), (0, 4), [2, 3], "2 stamps of BTCUSDT have no rate"),
        (stamps(-2, -1, 2, 3), (0, 4), [0, 1], "2 stamps of BTCUSDT have no rate"),
    ],
)
def test_gaps_are_filled_with_the_constant_and_noted(
    rates: list[Funding], window: tuple[int, int], constant: list[int], note: str
) -> None:
    start, end = (T0 + number * EIGHT for number in window)
    found, notes = fill_missing_rates(rates, ("BTCUSDT",), 0.0001, EIGHT, start, end, name="f.csv")
    assert [one.ts for one in found if one.rate == 0.0001] == [T0 + number * EIGHT for number in constant]
    assert [one.ts for one in found] == list(range(start, end, EIGHT))
    assert len(notes) == bool(note)
    assert note in " ".join(notes)


def test_a_symbol_missing_in_the_file_has_the_constant_if_another_is_present() -> None:
    found, notes = fill_missing_rates(
        stamps(0, 1), ("BTCUSDT", "ETHUSDT"), 0.0001, EIGHT, T0, T0 + 2 * EIGHT, name="f.csv"
    )
    assert [(one.symbol, one.rate) for one in found] == [("BTCUSDT", 0.001), ("ETHUSDT", 0.0001)] * 2
    assert notes == [
        "f.csv: 2 stamps of ETHUSDT have no rate (2024-01-01T00:00:00Z to 2024-01-01T08:00:00Z): "
        "the constant 0.0100% is used"
    ]


@pytest.mark.parametrize(
    "rates", [stamps(0, 1, symbol="ETHUSDT"), stamps(-9, -8), []], ids=["other symbol", "other time", "empty"]
)
def test_a_file_without_rates_of_traded_symbols_is_an_error(rates: list[Funding]) -> None:
    with pytest.raises(
        DataError, match="no rate of BTCUSDT between 2024-01-01T00:00:00Z and 2024-01-02T00:00:00Z"
    ):
        fill_missing_rates(rates, ("BTCUSDT",), 0.0001, EIGHT, T0, T0 + 3 * EIGHT, name="f.csv")


@pytest.mark.parametrize("symbol", ["BTC/USDT:USDT", "btcusdt", "BTC-USDT", "BYBIT:BTCUSDT.P"])
def test_symbols_in_other_notations_match(tmp_path: Path, symbol: str) -> None:
    path = written(tmp_path, f"symbol,ts,rate\n{symbol},{T0},0.001\n", "rates.csv")
    assert [one.symbol for one in FundingFile(path)] == ["BTCUSDT"]


def test_a_file_that_states_no_symbol_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="neither a column nor its name states the symbol"):
        list(FundingFile(written(tmp_path, f"ts,rate\n{T0},0.001\n", "data.csv")))


@pytest.mark.parametrize("late", [0, 7, -5])
def test_no_constant_is_added_next_to_a_stamp_dated_late_or_early(late: int) -> None:
    """Real stamps are 0, 1, 4 and 5 times 8 h (+ 7 ms, as Binance dates them): only 2 and 3 are missing."""
    rates = [Funding("BTCUSDT", one.ts + late, one.ts + late, 0.001) for one in stamps(0, 1, 4, 5)]
    found, notes = fill_missing_rates(
        rates, ("BTCUSDT",), 0.0001, EIGHT, T0 - HOUR_MS, T0 + 6 * EIGHT, name="f.csv"
    )
    assert [one.ts - T0 for one in found if one.rate == 0.0001] == [2 * EIGHT, 3 * EIGHT]
    assert [one.ts - T0 for one in found if one.rate == 0.001] == [
        number * EIGHT + late for number in (0, 1, 4, 5)
    ]
    assert len(notes) == 1


def hours(*numbers: int) -> list[Funding]:
    return [Funding("BTCUSDT", T0 + number * HOUR_MS, T0 + number * HOUR_MS, 0.001) for number in numbers]


@pytest.mark.parametrize(
    ("rates", "constant"),
    [
        ((0, 8, 16, 20, 24, 28, 32, 36, 40, 44), []),  # from 8 to 4 hours, most of them 4
        ((0, 8, 16, 24, 32, 36, 40, 44), []),
        ((0, 4, 8, 12, 16, 20, 24, 32, 40), []),  # from 4 to 8 hours
        ((0, 8, 16, *range(17, 25), 32, 40), []),  # an hour apart for a while
        # 28 to 40 is 12 h between distances of 4: a gap with one multiple of 8 h
        ((0, 8, 16, 20, 24, 28, 40, 44), [32]),
        ((0, 8, 16, *range(80, 120, 4)), [24, 32, 40, 48, 56, 64, 72]),  # a gap of three days at the change
        ((0, 8, 16, 88, 160, 168), [*range(24, 88, 8), *range(96, 160, 8)]),  # two adjacent gaps
    ],
)
def test_a_change_of_the_distance_of_stamps_is_not_a_gap(rates: tuple[int, ...], constant: list[int]) -> None:
    """A constant is due at each multiple of 8 h strictly inside a gap, and nowhere else."""
    end = T0 + (rates[-1] + 1) * HOUR_MS
    found, notes = fill_missing_rates(hours(*rates), ("BTCUSDT",), 0.0001, EIGHT, T0, end, name="f.csv")
    assert [(one.ts - T0) // HOUR_MS for one in found if one.rate == 0.0001] == constant
    assert len(notes) == bool(constant)


@pytest.mark.parametrize("late", [0, 7])
@pytest.mark.parametrize("interval", [1, 2, 4, 8])
def test_a_change_to_four_hours_adds_no_constant_of_any_interval(interval: int, late: int) -> None:
    """Stamps every 8 h up to 24:00, then every 4 h: no stamp is missing, for constants of any interval."""
    rates = [
        Funding("BTCUSDT", one.ts + late, one.ts + late, 0.001)
        for one in hours(0, 8, 16, 24, *range(28, 64, 4))
    ]
    found, notes = fill_missing_rates(
        rates, ("BTCUSDT",), 0.0001, interval * HOUR_MS, T0, rates[-1].ts + 1, name="f.csv"
    )
    assert (found, notes) == (rates, [])


def test_a_gap_that_is_too_short_for_a_constant_is_noted() -> None:
    """Hourly stamps without 3:00 to 6:00, which have no multiple of 8 h, so no constant is due."""
    found, notes = fill_missing_rates(
        hours(0, 1, 2, 7, 8, 9), ("BTCUSDT",), 0.0001, EIGHT, T0, T0 + 10 * HOUR_MS, name="f.csv"
    )
    assert [one.rate for one in found] == [0.001] * 6
    assert notes == [
        "f.csv: BTCUSDT has no rate in 1 stretches shorter than the constant's interval "
        "(the first from 2024-01-01T02:00:00Z "
        "to 2024-01-01T07:00:00Z): nothing is paid there"
    ]


def test_a_symbol_without_rates_has_the_constant_in_a_short_window() -> None:
    """The window [0:00, 10:00) has the stamps 0:00 and 8:00."""
    found, _ = fill_missing_rates(
        stamps(0, 1), ("BTCUSDT", "ETHUSDT"), 0.0001, EIGHT, T0, T0 + 10 * HOUR_MS, name="f.csv"
    )
    assert [one.ts - T0 for one in found if one.symbol == "ETHUSDT"] == [0, EIGHT]


def test_rates_that_look_like_percentages_are_noted() -> None:
    """0.01 as a fraction is 1 % every 8 h, about 1,100 % a year; as a percentage it is the usual rate."""
    _, notes = fill_missing_rates(
        stamps(0, 1, 2, rate=0.01), ("BTCUSDT",), 0.0001, EIGHT, T0, T0 + 3 * EIGHT, name="f.csv"
    )
    assert notes == [
        "f.csv: half of the rates of BTCUSDT are 1.00% or more per stamp: are they percentages? "
        "They are read as fractions (0.0001 is 0.01 %)"
    ]


def test_a_row_without_a_symbol_is_refused_if_the_file_name_has_none(tmp_path: Path) -> None:
    path = written(tmp_path, f"symbol,ts,rate\nBTCUSDT,{T0},0.001\n,{T0 + EIGHT},0.001\n", "rates.csv")
    with pytest.raises(DataError, match="the rate at 2024-01-01T08:00:00Z has no symbol"):
        list(FundingFile(path))
