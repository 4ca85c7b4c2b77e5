"""Dates of feeds are parsed exactly or rejected."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.live.news.feed_dates import MAX_LENGTH, FeedDate, parse_date

DATE = "Tue, 01 Jul 2025 "  # in summer; noon there is 12:00 minus the offset of the zone in UTC

# Noon on 1 July 2025 in these zones is at this time in UTC
NOON = {
    "12:00": "GMT UT UTC Z z WET -0000",
    "11:00": "BST CET MEZ WAT WEST Europe/London",  # British Summer Time; +1
    "10:00": "CEST CEST. MESZ EET SAST +0200 +02:00 +2 +02 GMT+0200 GMT+2 UTC+2",  # +2
    "09:00": "EEST MSK TRT EAT IDT",  # +3
    "08:30": "IRST",  # +3:30
    "08:00": "GST",  # the Gulf, +4
    "07:00": "PKT",  # +5
    "06:30": "IST Asia/Kolkata +0530",  # India, +5:30
    "06:15": "NPT",  # +5:45
    "05:00": "ICT WIB",  # +7
    "04:00": "HKT SGT AWST WITA MYT PHT",  # +8
    "03:00": "JST KST WIT",  # +9
    "02:30": "ACST",  # +9:30
    "02:00": "AEST",  # +10
    "01:00": "AEDT",  # +11
    "00:00": "NZST",  # +12
    "15:00": "BRT ART ADT UTC-03:00",  # -3
    "15:30": "NST -0330",  # Newfoundland, -3:30
    "16:00": "AST CLT EDT America/New_York ET",  # Atlantic, Chile, -4; ET in summer
    "17:00": "EST CDT COT PET CT Etc/GMT+5",  # -5
    "18:00": "CST MDT MT",  # Central of North America, -6
    "19:00": "MST PDT PT",  # -7
    "20:00": "PST AKDT",  # -8
    "22:00": "HST",  # -10
}
ZONES = {zone: time for time, zones in NOON.items() for zone in zones.split()} | {
    "+0000 (UTC)": "12:00",
    "GMT+0200 (Central European Summer Time)": "10:00",
    "+0200 CEST": "10:00",
}


def at(moment: str) -> int:
    """UTC ms of `YYYY-MM-DD HH:MM[:SS[.fff]]` in UTC."""
    return round(datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize("zone", ZONES)
def test_time_zones_are_converted_to_utc(zone: str) -> None:
    expected = f"2025-07-01 {ZONES[zone]}"
    assert parse_date(f"{DATE}12:00:00 {zone}") == FeedDate(at(expected))
    assert parse_date(f"{DATE}12:00 {zone}") == FeedDate(at(expected)), "without seconds"
    assert parse_date(f"2025-07-01T12:00:00 {zone}") == FeedDate(at(expected))


@pytest.mark.parametrize(
    "zone",
    [
        "",
        "XYZ",
        "LOCAL",
        "AMT",
        "SST",
        "WST",
        "ECT",
        "ACT",
        "A",
        "N",
        "+9900",
        "+0260",
        "Nowhere/Else",
        "../etc/passwd",
        "GMT+",
        "UTC 2",
    ],
)
def test_a_time_in_an_unknown_zone_has_only_an_upper_bound(zone: str) -> None:
    """Noon in the westernmost zone, UTC-12, is midnight in UTC."""
    assert parse_date(f"{DATE}12:00:00 {zone}") == FeedDate(None, at("2025-07-02 00:00"))
    assert parse_date(f"2025-07-01T12:00:00 {zone}".strip()) == FeedDate(None, at("2025-07-02 00:00"))


DATES = [
    # 12-hour clocks
    ("Tue, 01 Jul 2025 2:30:00 PM GMT", "2025-07-01 14:30"),
    ("Tue, 01 Jul 2025 2:30 p.m. GMT", "2025-07-01 14:30"),
    ("Tue, 01 Jul 2025 2:30:00PM GMT", "2025-07-01 14:30"),
    ("Tue, 01 Jul 2025 12:00:00 AM GMT", "2025-07-01 00:00"),
    ("Tue, 01 Jul 2025 12:00:00 PM GMT", "2025-07-01 12:00"),
    ("Tue, 01 Jul 2025 14:30:00 PM GMT", "2025-07-01 14:30"),
    ("July 1, 2025 12:00 PM EDT", "2025-07-01 16:00"),
    ("July 1st, 2025 at 2:30 PM ET", "2025-07-01 18:30"),
    ("7:00 AM", None),
    ("Tue, 01 Jul 2025 14:30:00 AM GMT", None),
    # one name in winter and summer; for the repeated hour, the later one
    ("Wed, 01 Jan 2025 12:00:00 ET", "2025-01-01 17:00"),
    ("Sun, 02 Nov 2025 01:30:00 ET", "2025-11-02 06:30"),
    # ISO 8601
    ("2025-07-01T12:00:00Z", "2025-07-01 12:00"),
    ("2025-07-01T12:00Z", "2025-07-01 12:00"),
    ("2025-07-01T12:00:00.123456789Z", "2025-07-01 12:00:00.123"),
    ("2025-07-01T12:00:00+0530", "2025-07-01 06:30"),
    ("2025-07-01T12:00:00-03:30", "2025-07-01 15:30"),
    ("2025-07-01 12:00:00 +02:00", "2025-07-01 10:00"),
    ("20250701T120000Z", "2025-07-01 12:00"),
    ("2025-07-01", "2025-07-01 00:00"),
    ("2025-07", "2025-07-01 00:00"),
    ("2025-182", "2025-07-01 00:00"),  # 31 + 28 + 31 + 30 + 31 + 30 = 181 days before July
    # RFC 822 and its variants
    ("Tue, 01 Jul 25 12:00:00 GMT", "2025-07-01 12:00"),
    ("Wed, 01 Jul 98 12:00:00 GMT", "1998-07-01 12:00"),
    ("1 July 2025 12:00:00 GMT", "2025-07-01 12:00"),
    ("Tuesday, 01-Jul-2025 12:00:00 GMT", "2025-07-01 12:00"),
    ("Tue,01 Jul 2025 12:00:00 GMT", "2025-07-01 12:00"),
    ("Tue, Jul 1, 2025 12:00:00 GMT", "2025-07-01 12:00"),
    ("Tue, 01 Jul 2025", "2025-07-01 00:00"),
    ("Tue, 01 Jul 2025 24:00:00 GMT", "2025-07-02 00:00"),
    ("Sat, 31 Dec 2016 23:59:60 GMT", "2017-01-01 00:00"),
    ("Tue Jul  1 12:00:00 2025", "2025-07-01 12:00"),
    ("Tue Jul  1 12:00:00 EDT 2025", "2025-07-01 16:00"),
    ("Tue Jul 01 2025 12:00:00 GMT+0200 (CEST)", "2025-07-01 10:00"),
    ("Fri, 2006/09/15 08:19:53 EDT", "2006-09-15 12:19:53"),
    ("1751371200", "2025-07-01 12:00"),  # 20,270 days and 12 h: 20,270 * 86,400 + 43,200
    ("1751371200000", "2025-07-01 12:00"),
    # other languages
    ("Di, 01 Jul 2025 12:00:00 +0200", "2025-07-01 10:00"),
    ("1. März 2025 12:00 MEZ", "2025-03-01 11:00"),
    ("mar., 01 juil. 2025 12:00:00 +0200", "2025-07-01 10:00"),
    ("dim., 01 juin 2025 12:00:00 +0200", "2025-06-01 10:00"),
    ("Seg, 24 Set 2018 19:42:40 -0300", "2018-09-24 22:42:40"),
    ("1 de diciembre de 2025 12:00 -0300", "2025-12-01 15:00"),
    ("Вт, 01 июл 2025 12:00:00 +0300", "2025-07-01 09:00"),
    ("Κυρ, 11 Ιούλ 2004 12:00:00 EST", "2004-07-11 17:00"),
    ("2004-július-13T9:15-05:00", "2004-07-13 14:15"),
    ("12 marraskuuta 2025 12:00 +0200", "2025-11-12 10:00"),  # Finnish: November, and March is maaliskuuta
    ("12 lipnja 2025 12:00 +0200", "2025-06-12 10:00"),  # Croatian: June, and in Polish lipca is July
    ("12 lipca 2025 12:00 +0200", "2025-07-12 10:00"),
    ("2004년 05월 28일 01:31:15", "2004-05-27 16:31:15"),  # Korea, +9
    ("2004-05-25 오후 11:23:17", "2004-05-25 14:23:17"),
    # invalid dates
    ("01/07/2025 12:00:00", None),  # January or July
    ("yesterday", None),
    ("", None),
    ("2025-02-30T12:00:00Z", None),
    ("Tue, 01 Jul 2025 25:00:00 GMT", None),
    ("Tue, 01 Jul 2025 12:60:00 GMT", None),
    ("9999-12-31T23:59:59-12:00", None),
    ("0000-01-01", None),
    ("Tue, 01 Xyz 2025 12:00:00 GMT", None),
    (DATE + "12:00:00 GMT" + " " * MAX_LENGTH, None),
]


@pytest.mark.parametrize(("text", "moment"), DATES)
def test_dates_are_parsed(text: str, moment: str | None) -> None:
    assert parse_date(text).at == (None if moment is None else at(moment))


@given(
    st.text(alphabet=st.sampled_from("0123456789:-/,. +()TZapmJulTueGMTesDé\t\u2212日"), max_size=MAX_LENGTH)
)
def test_any_text_is_parsed_or_rejected(text: str) -> None:
    assert isinstance(parse_date(text), FeedDate)


@given(
    st.integers(at("1971-01-01 00:00") // 1000, at("2099-12-31 00:00") // 1000),
    st.integers(-12 * 60, 14 * 60),
)
def test_a_date_in_any_zone_is_the_same_moment(seconds: int, offset: int) -> None:
    local = datetime.fromtimestamp(seconds, UTC)
    zone = f"{'-' if offset < 0 else '+'}{abs(offset) // 60:02}{abs(offset) % 60:02}"
    expected = FeedDate(1000 * seconds - offset * 60_000)
    assert parse_date(local.strftime("%a, %d %b %Y %H:%M:%S ") + zone) == expected
    assert parse_date(local.strftime("%Y-%m-%dT%H:%M:%S") + zone) == expected
    assert parse_date(local.strftime("%B %d, %Y %I:%M:%S %p ") + zone) == expected
