"""Sets with a label for each asset or entity that a headline names: the labelled wire, SEntFiN 1.0.

>>> load_assets(Path("labelled.parquet"), "wire").examples[0].targets
(AssetTarget(asset='BCH', spans=((4, 16),), label='bullish'),)

`load` reads the same files as texts with one label each.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import msgspec

from agent.core.errors import DataError, UsageError, did_you_mean
from agent.core.news_kinds import NEWS_KINDS
from agent.core.symbols import AssetFinder
from models.cards import DatasetRecord
from models.labels import canonical
from models.sentiment.serve.headline_text import clean
from models.sentiment.train.datasets import Example, Options, record_of, register
from models.sentiment.train.datasets.table_columns import column, read_rows, to_ms

Spans = tuple[tuple[int, int], ...]

SAME_ASSET: Final = {"MATIC": "POL", "MIOTA": "IOTA", "XBT": "BTC"}
"""Other tickers of one asset, and the ticker under which it is known here."""

_RENAMED: Final = (("neutral", "Hold"), ("negative", "sell"), ("positive", "buy"))
"""SEntFiN's labels were substituted inside names, too: "IIFL neutralings" stands for "IIFL Holdings"."""

_DECISION: Final = re.compile(
    r"""\s*(['"])(?P<name>.*?)\1: (['"])(?P<label>[A-Za-z]+)\3\s*(?:,(?=\s*['"])|\Z)"""
)


class AssetTarget(NamedTuple):
    """The label of one asset. `spans` are the places of its names in the text; empty if none is found."""

    asset: str
    spans: Spans
    label: str


class AssetExample(msgspec.Struct, frozen=True):
    """One cleaned text, with the labels of what it names.

    `label` is the headline's own; None if the set has none. `kind` is one of `NEWS_KINDS`, or None. `ts` is
    UTC ms, or None for an undated set; `where` names file and row.
    """

    text: str
    label: str | None
    kind: str | None = None
    targets: tuple[AssetTarget, ...] = ()
    ts: int | None = None
    where: str = ""

    @property
    def mixed(self) -> bool:
        """True if the assets have different labels."""
        return len({target.label for target in self.targets}) > 1


class AssetDataset(msgspec.Struct, frozen=True):
    """A loaded file, and the record for the card."""

    examples: tuple[AssetExample, ...]
    record: DatasetRecord


class Finder(Protocol):
    """Finds assets in a text, as `agent.core.symbols.AssetFinder` does."""

    @property
    def digest(self) -> str:
        """Hash of all that `find` depends on."""

    def find(self, title: str, /) -> Mapping[str, Spans]:
        """Return the (start, end) of each asset's names."""


class EntityFinder:
    """Finds in each text of `examples` the entities that its labels name, and nothing in other texts."""

    def __init__(self, examples: tuple[AssetExample, ...]) -> None:
        self._found: dict[str, dict[str, Spans]] = {}
        for example in examples:
            places = {target.asset: target.spans for target in example.targets if target.spans}
            self._found.setdefault(example.text, {}).update(places)

    @property
    def digest(self) -> str:
        """Return the number of texts, as the places are those of the set."""
        return f"entities of {len(self._found)} texts"

    def find(self, title: str, /) -> dict[str, Spans]:
        """Return the places of the text's entities."""
        return self._found.get(title, {})


def asset_name(ticker: str) -> str:
    """Return the name under which `ticker` is known here: POL for MATIC."""
    return SAME_ASSET.get(ticker.upper(), ticker.upper())


def load_assets(path: Path, format: str, finder: Finder | None = None) -> AssetDataset:
    """Read and clean a file of format "wire" or "sentfin".

    `finder` finds the assets of "wire"; by default it knows the coins of `agent.core.coin_names`. Entities of
    "sentfin" are found by their own names. Texts that are empty after cleaning are left out. Raises
    UsageError for another format, DataError (with file and row) for anything unreadable.
    """
    if format not in _READERS:
        hint = did_you_mean(format, _READERS, f"known: {', '.join(_READERS)}")
        raise UsageError(f"data format {format!r} has no labels of assets", hint=hint)
    if not path.is_file():
        raise DataError(f"{path} is not a file", hint="name a file of labelled text")
    read, published = _READERS[format]
    examples = tuple(example for example in read(path, finder or AssetFinder()) if example.text)
    if not examples:
        raise DataError(f"{path}: no labelled text in it", hint=f"is it really of format {format!r}?")
    return AssetDataset(examples, record_of(path, format, published, examples))


@register("wire")
def read_wire_texts(path: Path, _options: Options) -> Iterator[Example]:
    """Dated headlines with their own labels (columns `published_at`, `title`, `label`)."""
    for where, row in read_rows(path):
        label = canonical(str(column(row, ["label"], where)), where=where)
        ts = to_ms(column(row, ["published_at"], where), where)
        yield Example(str(column(row, ["title"], where)), label, ts, where)


@register("sentfin", published=2021)
def read_sentfin_texts(path: Path, _options: Options) -> Iterator[Example]:
    """SEntFiN's headlines whose entities all have one label, with that label."""
    for where, title, decisions in _sentfin(path):
        labels = set(decisions.values())
        if len(labels) == 1:
            yield Example(title, labels.pop(), where=where)


def _read_wire(path: Path, finder: Finder) -> Iterator[AssetExample]:
    """Yield the rows of the labelled wire. An asset with two different labels is left out."""
    for where, row in read_rows(path):
        text = clean(str(column(row, ["title"], where)))
        kind = str(column(row, ["kind"], where))
        if kind not in NEWS_KINDS:
            hint = did_you_mean(kind, NEWS_KINDS, f"known: {', '.join(NEWS_KINDS)}")
            raise DataError(f"{where}: unknown kind of news {kind!r}", hint=hint)
        labels: dict[str, set[str]] = {}
        for ticker, label in _assets(column(row, ["assets"], where), where).items():
            labels.setdefault(asset_name(ticker), set()).add(canonical(label, where=where))
        spans: dict[str, Spans] = {}
        for asset, places in finder.find(text).items():
            name = asset_name(asset)
            spans[name] = tuple(sorted({*spans.get(name, ()), *places}))
        yield AssetExample(
            text,
            canonical(str(column(row, ["label"], where)), where=where),
            kind,
            tuple(
                AssetTarget(asset, spans.get(asset, ()), next(iter(found)))
                for asset, found in labels.items()
                if len(found) == 1
            ),
            to_ms(column(row, ["published_at"], where), where),
            where,
        )


def _assets(text: object, where: str) -> dict[str, str]:
    try:
        return msgspec.json.decode(str(text or "{}"), type=dict[str, str])
    except msgspec.DecodeError as error:
        raise DataError(f"{where}: assets {text!r}: {error}", hint="a JSON object {TICKER: label}") from None


def _read_sentfin(path: Path, _finder: Finder) -> Iterator[AssetExample]:
    """Yield SEntFiN's headlines. The headline's own label is that of its entities, if they agree."""
    for where, title, decisions in _sentfin(path):
        text = clean(title)
        names = {name: _as_written(clean(name), text) for name in decisions}
        spans = _places(text, tuple(names.values()))
        labels = set(decisions.values())
        yield AssetExample(
            text,
            labels.pop() if len(labels) == 1 else None,
            targets=tuple(
                AssetTarget(names[name], spans[names[name]], label) for name, label in decisions.items()
            ),
            where=where,
        )


def _sentfin(path: Path) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Yield place, title and labels by entity of each row."""
    for where, row in read_rows(path):
        decisions = parse_decisions(str(column(row, ["Decisions"], where)), where)
        yield where, str(column(row, ["Title"], where)), decisions


def parse_decisions(text: str, where: str = "") -> dict[str, str]:
    """Return labels by name of a dict literal, such as `{'Sebi': 'neutral', 'Osian's Art Fund': 'neutral'}`.

    The set doesn't escape quotes in names, so Python can't parse it. Raises DataError with `where`.
    """
    body = text.strip()
    inner = body[1:-1].strip() if body.startswith("{") and body.endswith("}") else ""
    found: dict[str, str] = {}
    position = 0
    while position < len(inner):
        match = _DECISION.match(inner, position)
        if match is None:
            break
        found[match["name"]] = canonical(match["label"], where=where)
        position = match.end()
    if not found or position < len(inner):
        hint = "expected {'name': 'label', …}"
        raise DataError(f"{where + ': ' if where else ''}decisions {text!r}", hint=hint)
    return found


def _as_written(name: str, text: str) -> str:
    """Return the name as the text spells it, if a label was substituted in it."""
    if name not in text:
        for label, original in _RENAMED:
            restored = name.replace(label, original)
            if restored in text:
                return restored
    return name


def _places(text: str, names: tuple[str, ...]) -> dict[str, Spans]:
    """Return the places of each name: of whole words if there are any, and outside longer names if so."""
    found: dict[str, Spans] = {}
    taken: list[tuple[int, int]] = []
    for name in sorted(set(names), key=lambda name: (-len(name), name)):
        anywhere = re.escape(name) if name else r"(?!)"
        spans = tuple(match.span() for match in re.finditer(rf"(?<!\w){anywhere}(?!\w)", text)) or tuple(
            match.span() for match in re.finditer(anywhere, text)
        )
        free = tuple((start, end) for start, end in spans if not any(a < end and start < b for a, b in taken))
        found[name] = free or spans
        taken += free
    return found


_READERS: Final[dict[str, tuple[Callable[[Path, Finder], Iterator[AssetExample]], int | None]]] = {
    "wire": (_read_wire, None),
    "sentfin": (_read_sentfin, 2021),
}
