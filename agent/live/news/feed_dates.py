"""Parse dates of feed entries: RFC 822 and its variants, ISO 8601 and asctime, with the zone names that feeds
use.

A time without a zone, or with an unknown one, yields only an upper bound. feedparser's own date parser isn't
used: it reads such times as UTC, and ignores AM and PM.
"""

from __future__ import annotations

import re
import unicodedata
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

MAX_LENGTH: Final = 100
"""Characters; longer texts aren't parsed as dates."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MOST_WEST: Final = timedelta(hours=12)  # a local time is at most this much behind UTC

_ZONES: Final[dict[str, str]] = {
    "-12:00": "idlw",
    "-11:00": "nut",
    "-10:00": "hst hast ckt taht",
    "-09:30": "mart",
    "-09:00": "akst hadt hdt gamt",
    "-08:00": "pst akdt",
    "-07:00": "mst pdt",
    "-06:00": "cst mdt galt",
    "-05:00": "est cdt cot pet easst",
    "-04:00": "ast edt clt bot vet gyt",
    "-03:30": "nst",
    "-03:00": "adt brt art clst uyt gft srt pmst rott",
    "-02:30": "ndt",
    "-02:00": "brst fnt uyst pmdt",
    "-01:00": "cvt azot",
    "+00:00": "ut utc gmt z zulu wet azost",
    "+01:00": "cet met mez wat bst west",
    "+02:00": "cest mest mesz eet cat sast",
    "+03:00": "eest msk eat trt idt fet syot",
    "+03:30": "irst",
    "+04:00": "gst msd samt azt mut ret sct",
    "+04:30": "irdt aft",
    "+05:00": "pkt uzt tmt tjt mvt yekt orat",
    "+05:30": "ist slst",
    "+05:45": "npt",
    "+06:00": "kgt btt omst iot",
    "+06:30": "mmt",
    "+07:00": "ict wib krat hovt novt cxt",
    "+08:00": "hkt sgt myt pht phst awst wita irkt ulat bnt",
    "+08:45": "acwst",
    "+09:00": "jst kst wit yakt tlt",
    "+09:30": "acst",
    "+10:00": "aest vlat chst pgt",
    "+10:30": "acdt lhst",
    "+11:00": "aedt magt sbt vut nct pont sret",
    "+12:00": "nzst fjt pett anat tvt wakt",
    "+12:45": "chast",
    "+13:00": "nzdt tot phot",
    "+13:45": "chadt",
    "+14:00": "lint",
}
"""Zone names by offset. A name with several meanings is listed only if one of them dominates in news feeds:
EST, CST, MST and PST are North American, as in RFC 822; BST is British Summer Time, IST India, AST Atlantic,
GST the Gulf. Other ambiguous names (ACT, AMT, BDT, CCT, ECT, SST, WST …) are left out, and also the letters
of RFC 822 except Z, since the standard had their signs wrong."""

_DAYLIGHT: Final[dict[str, str]] = {
    "et": "America/New_York",
    "ct": "America/Chicago",
    "mt": "America/Denver",
    "pt": "America/Los_Angeles",
    "at": "America/Halifax",
}
"""Names for both standard and daylight saving time; the date decides which applies."""


def _minutes(offset: str) -> int:
    size = int(offset[1:3]) * 60 + int(offset[4:])
    return -size if offset[0] == "-" else size


_OFFSETS: Final[dict[str, int]] = {
    name: _minutes(offset) for offset, names in _ZONES.items() for name in names.split()
}

_MONTHS: Final[tuple[str, ...]] = (
    "jan gen ene sty oca ιαν янв",
    "feb fev fevr fév lut sub φεβ фев",
    "mar maerz mrt mrz μαρ μαω мар",
    "apr avr abr kwi nis απρ апр",
    "may mai mag mei maj mau μαι мая маи май",
    "jun juin giu cze lipnj haz ιουν ιον июн",
    "jul juil lug lip tem ιουλ ιολ июл",
    "aug aou ago sie agu αυγ авг",
    "sep set wrz eyl sze σεπ сен",
    "oct okt ott out paz eki οκτ окт",
    "nov marr lis kas νοε ноя",
    "dec dez dic des gru ara δεκ дек",
)
"""Prefixes of month names in the languages of feeds, without accents."""


def _folded(text: str) -> str:
    """Remove accents and case."""
    return "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c))


_MONTH: Final[dict[str, int]] = {
    _folded(name): number for number, names in enumerate(_MONTHS, start=1) for name in names.split()
}

_WORD: Final = r"[^\W\d_]+\.?"
_CLOCK: Final = (
    r"(?P<hour>\d{1,2})[:.](?P<minute>\d{2})(?:[:.](?P<second>\d{2}))?(?:[.,](?P<fraction>\d{1,9}))?"
    r"(?:\s*(?P<half>[ap])\.?m\b\.?)?"
)
_REST: Final = rf"(?:(?:[\s,T-]|\bat\b)+{_CLOCK}\s*(?P<zone>\S.*)?)?"
_FORMS: Final = tuple(
    re.compile(form, re.IGNORECASE)
    for form in (
        # 2025-07-01T12:00:00+02:00, 20250701T120000Z, 2025/07/01 12:00, 2025-07, 2025
        rf"(?:{_WORD},\s*)?(?P<year>\d{{4}})(?P<mark>[-/])(?P<month>\d{{1,2}})(?P=mark)(?P<day>\d{{1,2}})"
        rf"{_REST}",
        r"(?P<year>\d{4})(?P<month>\d\d)(?P<day>\d\d)"
        r"(?:T(?P<hour>\d\d):?(?P<minute>\d\d)(?::?(?P<second>\d\d))?(?:[.,](?P<fraction>\d{1,9}))?"
        r"\s*(?P<zone>\S.*)?)?",
        r"(?P<year>\d{4})-(?P<ordinal>\d{3})"
        rf"{_REST}",
        r"(?P<year>\d{4})(?:-(?P<month>\d\d))?",
        # 2025-július-1T12:00+02:00
        rf"(?P<year>\d{{4}})-(?P<name>{_WORD})-(?P<day>\d{{1,2}}){_REST}",
        # Tue, 01 Jul 2025 12:00:00 GMT, 1. Juli 2025, 01-Jul-25, 1 de julio de 2025
        rf"(?:{_WORD}[\s,]+)?(?P<day>\d{{1,2}})(?:st|nd|rd|th|\.)?[\s-]+(?:de\s+)?"
        rf"(?P<name>{_WORD}),?[\s-]+(?:de\s+)?(?P<year>\d{{4}}|\d{{2}}){_REST}",
        # July 1, 2025 12:00 PM EDT, Tue Jul 01 2025 12:00:00 GMT+0200
        rf"(?:{_WORD}[\s,]+)?(?P<name>{_WORD})\s+(?P<day>\d{{1,2}})(?:st|nd|rd|th)?,?\s+"
        rf"(?P<year>\d{{4}}){_REST}",
        # Tue Jul  1 12:00:00 2025, with or without a zone before the year
        rf"{_WORD}\s+(?P<name>{_WORD})\s+(?P<day>\d{{1,2}})\s+{_CLOCK}\s+"
        r"(?:(?P<zone>\S+)\s+)?(?P<year>\d{4})(?P<asctime>)",
        # 2025년 07월 01일 12:00:00 (Korea)
        rf"(?P<year>\d{{4}})년\s*(?P<month>\d{{1,2}})월\s*(?P<day>\d{{1,2}})일\s+{_CLOCK}(?P<korea>)",
        # 2025-07-01 오후 2:30:00
        r"(?P<year>\d{4})-(?P<month>\d\d)-(?P<day>\d\d)\s+(?P<korea>오전|오후)\s+"
        r"(?P<hour>\d{1,2}):(?P<minute>\d{1,2}):(?P<second>\d{1,2})",
    )
)
_COMMENT: Final = re.compile(r"\([^()]*\)")
_NUMERIC: Final = re.compile(
    r"(?:(?:etc/)?(?:gmt|utc|ut|z)\s*)?(?P<sign>[+-])(?P<hours>\d{1,2})(?::?(?P<minutes>\d{2}))?"
    r"(?:\s+[a-z]{1,5})?",
    re.IGNORECASE,
)
_PLACE: Final = re.compile(r"[A-Za-z]{2,20}(?:/[A-Za-z0-9_+-]{1,30}){1,2}")
_SECONDS: Final = re.compile(r"\d{10}")
_MILLISECONDS: Final = re.compile(r"\d{13}")


class FeedDate(NamedTuple):
    """A parsed date. `at` is UTC ms, or None if the zone is unknown; then `latest` is the upper bound,
    UTC ms.
    """

    at: int | None
    latest: int | None = None


_UNREADABLE: Final = FeedDate(None)


def parse_date(text: str) -> FeedDate:
    """Parse a date. Never raises: for text that isn't a date, or an impossible date, `at` and `latest` are
    None.

    A date without a time is the beginning of that day in UTC. Two-digit years are as in RFC 2822 (00-49 are
    2000-2049).
    """
    if len(text) > MAX_LENGTH:
        return _UNREADABLE
    text = unicodedata.normalize("NFKC", text).replace("\u2212", "-").strip()
    if not text.isascii() or "(" in text:
        text = " ".join(_COMMENT.sub(" ", text).split())
    if _SECONDS.fullmatch(text):
        return FeedDate(1000 * int(text))
    if _MILLISECONDS.fullmatch(text):
        return FeedDate(int(text))
    for form in _FORMS:
        found = form.fullmatch(text)
        if found is not None:
            parts = found.groupdict()
            try:
                moment = _to_date(parts)
            except (OverflowError, ValueError):
                continue
            if moment is not None:
                return moment
    return _UNREADABLE


def _to_date(parts: dict[str, str | None]) -> FeedDate | None:
    """Combine the parts of a date; None if its month is unknown. Raises ValueError for an impossible time."""
    local = _local(parts)
    if local is None:
        return None
    zone = (parts.get("zone") or "").strip()
    if parts.get("korea") is not None:
        zone = "kst"
    elif not zone and ("asctime" in parts or parts.get("hour") is None):
        zone = "utc"  # HTTP defines asctime dates as UTC
    at = _in_utc(local, zone)
    if at is None:
        return FeedDate(None, _milliseconds(local + _MOST_WEST))
    return FeedDate(_milliseconds(at))


def _local(parts: dict[str, str | None]) -> datetime | None:
    """Return date and time as written, labelled as UTC."""
    month = _number(parts, "month", 1)
    if (name := parts.get("name")) is not None:
        known = _month(name)
        if known is None:
            return None
        month = known
    stated = parts["year"] or ""
    year = int(stated)
    if len(stated) == 2:
        year += 2000 if year < 50 else 1900
    hour, minute, second = (_number(parts, unit, 0) for unit in ("hour", "minute", "second"))
    half = (parts.get("half") or {"오전": "a", "오후": "p"}.get(parts.get("korea") or "", "")).lower()
    if half and hour <= 12:
        hour = hour % 12 + (12 if half == "p" else 0)
    elif half == "a":
        raise ValueError("an hour after noon marked AM")
    if minute > 59 or second > 60 or hour > 24 or (hour == 24 and (minute or second)):
        raise ValueError("impossible time")
    day = datetime(year, month, _number(parts, "day", 1), tzinfo=UTC)
    ordinal = _number(parts, "ordinal", 1)
    if not 1 <= ordinal <= 366:
        raise ValueError("impossible day of the year")
    milliseconds = int(((parts.get("fraction") or "") + "000")[:3])
    return day + timedelta(
        days=ordinal - 1, hours=hour, minutes=minute, seconds=second, milliseconds=milliseconds
    )


def _number(parts: dict[str, str | None], name: str, default: int) -> int:
    value = parts.get(name)
    return default if value is None else int(value)


def _month(name: str) -> int | None:
    name = _folded(name.rstrip("."))
    return next((_MONTH[name[:size]] for size in (5, 4, 3) if name[:size] in _MONTH), None)


def _in_utc(local: datetime, zone: str) -> datetime | None:
    """Convert a local time to UTC; None if the zone is unknown. For an ambiguous local time, return the
    later moment.
    """
    numeric = _NUMERIC.fullmatch(zone)
    if numeric is not None and not zone.lower().startswith("etc/"):
        hours, minutes = int(numeric["hours"]), int(numeric["minutes"] or 0)
        if hours > 14 or minutes > 59:
            return None
        minutes += 60 * hours
        return local - timedelta(minutes=-minutes if numeric["sign"] == "-" else minutes)
    name = zone.lower().rstrip(".")
    if name in _OFFSETS:
        return local - timedelta(minutes=_OFFSETS[name])
    place = _DAYLIGHT.get(name, zone)
    if not _PLACE.fullmatch(place):
        return None
    try:
        return local.replace(tzinfo=ZoneInfo(place), fold=1).astimezone(UTC)
    except (OSError, ValueError, ZoneInfoNotFoundError):
        return None


def _milliseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(milliseconds=1)
