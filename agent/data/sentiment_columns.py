"""Optional columns of a file of scores: kind of news, probabilities of single assets, provenance."""

from __future__ import annotations

from collections.abc import Callable
from math import isnan
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn

import msgspec

from agent.core.errors import DataError
from agent.core.events import AssetSentiment, Provenance
from agent.core.news_kinds import NEWS_KINDS
from agent.data.columns import Aliases, location
from agent.data.provenance import ProvenanceObject
from agent.data.rows import Rows
from agent.system.untrusted import JSON_DECODE_ERRORS

COLUMNS: Final[Aliases] = {name: (name,) for name in ("kind", "kind_confidence", "assets", "provenance")}
MAX_ASSET: Final = 32
"""Most characters of an asset's ticker."""
TOLERANCE: Final = 0.01
"""Largest difference of a sum of probabilities from 1; they are divided by their sum."""

_FORM: Final = '{"BTC": {"bearish": 0.1, "neutral": 0.2, "bullish": 0.7}}'
_SHOWN: Final = 3


class _Probabilities(msgspec.Struct):
    bearish: float
    neutral: float
    bullish: float


class _AssetProbabilities(_Probabilities):
    asset: str


_decode: Final = msgspec.json.Decoder(dict[str, _Probabilities | None] | list[_AssetProbabilities]).decode


class RowAnswers(NamedTuple):
    """The optional columns of one row, as `Sentiment` has them."""

    assets: tuple[AssetSentiment, ...] = ()
    kind: str = ""
    kind_confidence: float = 0.0
    provenance: Provenance | None = None


class AnswerColumns:
    """The columns `kind`, `kind_confidence`, `assets` and `provenance` of a file.

    A column `kind` without any of `NEWS_KINDS`, or another without any object, has another meaning, such as
    that of a news export: it is not read, and `unread` has a note on it.
    """

    def __init__(self, rows: Rows) -> None:
        self.unread: list[str] = []
        self.certain = 0
        """Number of rows with a kind but without `kind_confidence`, which become certain."""
        self._path: Path = rows.path
        self._names = rows.names
        self._has_kind = self._is_own(rows, "kind", "kind of news", lambda text: _folded(text) in NEWS_KINDS)
        self._has_assets = self._is_own(rows, "assets", "probabilities of assets", lambda text: "{" in text)
        self._has_provenance = self._is_own(
            rows, "provenance", "provenance of an answer", lambda text: "{" in text
        )
        self._confidence = rows.numbers.get("kind_confidence")
        if self._confidence is not None and not self._has_kind:
            if (self._confidence > 0.0).any():
                name = rows.names["kind_confidence"]
                self.unread.append(f"column {name} is not read, since there are no kinds of news")
            self._confidence = None

    def read(self, index: int, row: dict[str, Any], *, abstained: bool) -> RowAnswers:
        """Return the assets, the kind and the provenance of row number `index`, counted from 0; an abstention
        has the last alone.

        Raises DataError for an unknown kind, a confidence outside [0, 1], probabilities that don't sum to 1
        (± 0.01), an asset without a name or with two scores, assets of an abstention, a damaged provenance.
        """
        assets = self._assets(index, row.get("assets")) if self._has_assets else ()
        provenance = self._provenance(index, row.get("provenance")) if self._has_provenance else None
        if abstained:
            if assets:
                what = "probabilities of assets in a row without probabilities"
                self._fail(index, "assets", what, "leave assets empty if the model abstained")
            return RowAnswers(provenance=provenance)
        return RowAnswers(assets, *self._kind(index, row.get("kind")), provenance)

    def notes(self) -> list[str]:
        """Return notes on columns that are not read, and on what the rows read so far lack."""
        if not self.certain:
            return self.unread
        lack = "with a kind of news but no kind_confidence: taken as certain"
        return [*self.unread, f"{self.certain:,} headlines {lack}"]

    def _kind(self, index: int, text: str | None) -> tuple[str, float]:
        kind = _folded(text or "") if self._has_kind else ""
        confidence = float("nan") if self._confidence is None else float(self._confidence[index])
        if kind and kind not in NEWS_KINDS:
            self._fail(index, "kind", f"{text!r} is no kind of news", f"one of {', '.join(NEWS_KINDS)}")
        if not isnan(confidence) and not 0.0 <= confidence <= 1.0:
            what = f"{confidence:g} is not a probability"
            self._fail(index, "kind_confidence", what, "it must be 0 to 1")
        if not kind:
            if confidence > 0.0:
                what = f"{confidence:g} is the confidence of no kind"
                self._fail(index, "kind_confidence", what, "state the kind, or leave both empty")
            return "", 0.0
        if isnan(confidence):
            self.certain += 1
            return kind, 1.0
        return kind, confidence

    def _assets(self, index: int, text: str | None) -> tuple[AssetSentiment, ...]:
        if text is None or not text.strip():
            return ()
        try:
            stated = _decode(text)
        except JSON_DECODE_ERRORS as error:
            self._fail(index, "assets", str(error), f"write {_FORM}")
        named = (
            [(asset, one) for asset, one in stated.items() if one is not None]
            if isinstance(stated, dict)
            else [(one.asset, one) for one in stated]
        )
        found: dict[str, AssetSentiment] = {}
        for name, one in named:
            asset = name.strip().lstrip("$").upper()
            if not 0 < len(asset) <= MAX_ASSET:
                self._fail(
                    index, "assets", f"{name[:40]!r} is no asset", "name it by its ticker, such as BTC"
                )
            if asset in found:
                self._fail(index, "assets", f"{asset} occurs twice", "state each asset once")
            three = (one.bearish, one.neutral, one.bullish)
            total = sum(three)
            if min(three) < 0 or abs(total - 1) > TOLERANCE:
                shown = ", ".join(f"{value:g}" for value in three)
                what = f"{asset} has {shown}, which are not probabilities"
                self._fail(index, "assets", what, "they must be 0 to 1 and sum to 1")
            found[asset] = AssetSentiment(asset, *(value / total for value in three))
        return tuple(found.values())

    def _provenance(self, index: int, text: str | None) -> Provenance | None:
        if text is None or not text.strip():
            return None
        try:
            return msgspec.json.decode(text, type=ProvenanceObject).provenance
        except JSON_DECODE_ERRORS as error:
            hint = (
                'write {"model": …, "prompt": …, "seed": …, "answers": […]}, as `tapewire score --json` does'
            )
            self._fail(index, "provenance", str(error), hint)

    def _is_own(self, rows: Rows, column: str, meaning: str, holds: Callable[[str], bool]) -> bool:
        values = [text for text in rows.distinct(column) if text.strip()]
        if not values or any(map(holds, values)):
            return bool(values)
        shown = ", ".join(sorted(values)[:_SHOWN])[:60]
        self.unread.append(f"column {rows.names[column]} holds no {meaning} ({shown}): it is not read")
        return False

    def _fail(self, index: int, column: str, what: str, hint: str) -> NoReturn:
        where = location(self._path, index + 1, self._names[column])
        raise DataError(f"{where}: {what}", hint=hint) from None


def _folded(text: str) -> str:
    return text.strip().lower()
