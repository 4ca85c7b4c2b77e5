"""From klines and scored headlines to the rows that a fusion model learns from, in files that are mapped, not loaded.

History is folded through the code that replays and trades: `FusionInputs` with its features and bars, the signals' own mapping of
headlines to symbols and stories. A row is a moment at which the engine would ask the model: the close of one of its bars, or a
headline that is news to the symbol. Everything in a row is known at its time; its label alone looks ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from math import sqrt
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.config import Config
from agent.core.durations import format_duration
from agent.core.errors import DataError, ModelError
from agent.core.events import Event, Gap, Kline, News, Sentiment
from agent.core.features import Features
from agent.core.fusion_inputs import Forecast, FusionInputs
from agent.core.signals import SignalEngine
from agent.core.symbols import SymbolMapper
from agent.core.text_embedding import DecayedEmbedding, Vector
from agent.data.merge import merge
from agent.system.atomic import write_bytes

Progress = Callable[[int], None]
"""Called now and then with the market time (UTC ms) that was reached."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ROW: Final = np.dtype(
    [("ts", "<i8"), ("symbol", "<i4"), ("vote", "<i4"), ("features", "<f8", (len(Features._fields),))]
)
"""A question to the model: when, on which symbol, the last headline heard by then (number of a vote, -1: none), the features."""
VOTE: Final = np.dtype([("ts", "<i8"), ("symbol", "<i4"), ("text", "<i4")])
"""A headline heard by a symbol: when, by which, and the number of its text."""
CLOSE: Final = np.dtype([("ts", "<i8"), ("close", "<f8")])
"""A bar's close, as labels need it."""

META_NAME: Final = "meta.json"

UNKNOWN: Final = -1
"""The label of a row whose horizon isn't covered."""

_BLOCK: Final = 8_192  # records in memory until they are written
_TICK: Final = 65_536
_VOLATILITY: Final = Features._fields.index("volatility")


class Labels(NamedTuple):
    """What became of each row (n,)."""

    kind: Ints
    """0 down, 1 flat, 2 up; `UNKNOWN`."""
    forward: Floats
    """Return from the last close before the row to the first close at or after its horizon; NaN where unknown."""
    scale: Floats
    """volatility · sqrt(horizon / interval): the size of a usual move, by which the band is drawn."""


class Meta(msgspec.Struct, frozen=True, kw_only=True):
    """What the files hold."""

    symbols: tuple[str, ...]
    step: int  # ms, of the bars that were folded
    interval: int  # ms, of the model's bars
    dimensions: int  # of an embedding; 0: there is no text
    scorer: str  # fingerprint of the model that read the headlines
    start: int
    end: int  # the last bar's close
    bars: int


class FusionData:
    """A data set in `folder`, mapped: arrays of `ROW`, `VOTE`, texts and closes. Raises DataError where it is not one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.meta = msgspec.json.decode((folder / META_NAME).read_bytes(), type=Meta)
        except (OSError, msgspec.DecodeError) as error:
            raise DataError(f"{folder} holds no data set: {error}") from None
        self.rows = _mapped(folder / "rows", ROW)
        self.votes = _mapped(folder / "votes", VOTE)
        self.texts = _mapped(folder / "texts", text_type(self.meta.dimensions))
        self._closes = [
            _mapped(folder / f"closes-{number}", CLOSE) for number in range(len(self.meta.symbols))
        ]

    def labels(self, horizon: int, band: float) -> Labels:
        """Forward returns over `horizon` ms, against a flat band of ± `band` usual moves."""
        rows = self.rows
        forward = np.full(len(rows), np.nan)
        for number, closes in enumerate(self._closes):
            mine = np.flatnonzero(rows["symbol"] == number)
            ts = rows["ts"][mine]
            times, prices = closes["ts"], closes["close"]
            before = np.searchsorted(times, ts, side="right") - 1
            after = np.searchsorted(times, ts + horizon, side="left")
            inside = np.minimum(after, len(times) - 1)
            covered = (before >= 0) & (after < len(times)) & (times[inside] < ts + horizon + self.meta.step)
            forward[mine[covered]] = prices[inside[covered]] / prices[before[covered]] - 1.0
        scale = rows["features"][:, _VOLATILITY] * sqrt(horizon / self.meta.interval)
        kind = np.where(forward > band * scale, 2, np.where(forward < -band * scale, 0, 1))
        return Labels(np.where(np.isnan(forward), UNKNOWN, kind), forward, scale)

    def states(self, half_life: int, field: str) -> tuple[NDArray[np.float32], Floats]:
        """What was read, as `DecayedEmbedding` has it with this half-life.

        Means [votes, dimensions] after each vote, mapped, and the mass (rows,) at each row. `field` is `embedding` or `chances`.
        """
        dimensions = self.texts.dtype[field].shape[0]
        path = self.folder / f"means-{field}"
        states = [DecayedEmbedding(half_life) for _ in self.meta.symbols]
        at_vote = np.zeros(len(self.votes) + 1)  # the last is of rows without a vote
        with path.open("wb") as stream:
            for begin in range(0, len(self.votes), _BLOCK):
                votes = self.votes[begin : begin + _BLOCK]
                block = np.empty((len(votes), dimensions), np.float32)
                for number, (ts, symbol, text) in enumerate(votes.tolist()):
                    state = states[symbol]
                    state.update(self.texts[field][text].astype(np.float64), ts)
                    block[number] = state.mean
                    at_vote[begin + number] = state.weight(ts)
                block.tofile(stream)
        vote, ts = self.rows["vote"], self.rows["ts"]
        heard = np.append(self.votes["ts"], 0)[vote]
        mass = at_vote[vote] * np.exp2(np.where(vote < 0, 0.0, (heard - ts) / half_life))
        return _mapped(path, np.dtype(np.float32)).reshape(-1, dimensions), mass


def text_type(dimensions: int) -> np.dtype[Any]:
    """The record of a text that was scored: bearish, neutral and bullish, and the embedding."""
    return np.dtype([("chances", "<f4", (3,)), ("embedding", "<f2", (dimensions,))])


def build_dataset(
    klines: Sequence[Iterable[Kline | Gap]],
    wire: Iterable[News | Sentiment],
    folder: Path,
    *,
    config: Config,
    interval: int,
    dimensions: int = 0,
    scorer: str = "",
    progress: Progress | None = None,
) -> FusionData:
    """Fold history into `folder`, in memory that doesn't grow with it.

    `config` says which symbols are traded on which bars, and how headlines are mapped; `interval` (ms) is the model's. `wire` is
    the scored news of `agent.data.sentiment.scored`, with embeddings of `dimensions` by `scorer`.
    Raises DataError where nothing can be learned from it, ModelError where an embedding is of another model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / META_NAME).unlink(missing_ok=True)  # it comes last: without it the folder is no data set
    symbols = tuple(sorted(config.market.symbols))
    watch = _Watch(interval, dimensions)
    outlooks = {symbol: FusionInputs(symbol, watch, config.market.interval) for symbol in symbols}
    place = {symbol: number for number, symbol in enumerate(symbols)}
    mapper = SymbolMapper(config.market.symbols, config.instruments, config.signals.macro_keywords)
    signals = SignalEngine(config.signals, mapper)
    last_vote = dict.fromkeys(symbols, -1)
    bars, first, last = 0, 0, 0
    with (
        _Writer(folder / "rows", ROW) as rows,
        _Writer(folder / "votes", VOTE) as votes,
        _Writer(folder / "texts", text_type(dimensions)) as texts,
        _Writers(folder, len(symbols)) as closes,
    ):

        def ask(symbol: str, now: int) -> None:
            rows.add((now, place[symbol], last_vote[symbol], outlooks[symbol].features))

        for number, event in enumerate(merge(_typed([*klines, wire]))):
            match event:
                case Kline(
                    symbol=symbol, start=start, ts=now, high=high, low=low, close=close, volume=volume
                ):
                    first, last, bars = first or start, now, bars + 1
                    closes.add(place[symbol], (now, close))
                    if outlooks[symbol].on_bar(start, high, low, close, volume):
                        ask(symbol, now)
                case Gap(symbol=symbol):
                    outlooks[symbol].reset()
                case News():
                    signals.on_news(event)
                case Sentiment(available_at=now):
                    concerned = [symbol for symbol in signals.affected_symbols(event) if symbol in outlooks]
                    signals.on_sentiment(event)
                    if concerned:
                        texts.add(((event.bearish, event.neutral, event.bullish), watch.read_from(event)))
                    for symbol in concerned:
                        outlooks[symbol].on_headline(event, now)
                        last_vote[symbol] = votes.count
                        votes.add((now, place[symbol], texts.count - 1))
                        if outlooks[symbol].features.warm:
                            ask(symbol, now)
            if progress and number % _TICK == 0:
                progress(event.available_at)
    if not rows.count:
        raise DataError(
            f"no bar of {format_duration(interval)} has all of its features in these klines",
            hint="name a longer window",
        )
    meta = Meta(
        symbols=symbols, step=config.market.interval, interval=interval, dimensions=dimensions, scorer=scorer, start=first,
        end=last, bars=bars,
    )  # fmt: skip
    write_bytes(folder / META_NAME, msgspec.json.encode(meta))
    return FusionData(folder)


class _Watch:
    """A `Predictor` that only says what is to be remembered; nothing is asked of it."""

    fingerprint = ""
    half_life = 1

    def __init__(self, interval: int, dimensions: int) -> None:
        self.interval = interval
        self._dimensions = dimensions

    def read_from(self, sentiment: Sentiment) -> NDArray[np.float16]:
        embedding = np.frombuffer(sentiment.embedding, "<f2")
        if len(embedding) != self._dimensions:
            raise ModelError(
                f"headline {sentiment.news_id} has an embedding of {len(embedding)} dimensions, not {self._dimensions}",
                hint="score all headlines with one model",
            )
        return embedding

    def vector(self, sentiment: Sentiment) -> Vector:
        return self.read_from(sentiment).astype(np.float64)

    def read(self, mean: Vector) -> Any:
        return mean

    def predict(self, features: Features, reading: Any, mass: float) -> Forecast:
        raise NotImplementedError("the data set asks no questions")


class _Writer:
    """Appends records of one type to a file, a block at a time."""

    def __init__(self, path: Path, kind: np.dtype[Any]) -> None:
        self.count = 0
        self._kind = kind
        self._stream = path.open("wb")
        self._waiting: list[tuple[Any, ...]] = []

    def add(self, record: tuple[Any, ...]) -> None:
        self.count += 1
        self._waiting.append(record)
        if len(self._waiting) >= _BLOCK:
            self._flush()

    def _flush(self) -> None:
        np.array(self._waiting, self._kind).tofile(self._stream)
        self._waiting.clear()

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self._stream.close()


class _Writers:
    """The closes of each symbol."""

    def __init__(self, folder: Path, count: int) -> None:
        self._writers = [_Writer(folder / f"closes-{number}", CLOSE) for number in range(count)]

    def add(self, number: int, record: tuple[Any, ...]) -> None:
        self._writers[number].add(record)

    def __enter__(self) -> _Writers:
        return self

    def __exit__(self, *_: object) -> None:
        for writer in self._writers:
            writer.__exit__()


def _typed(sources: Sequence[Iterable[Kline | Gap] | Iterable[News | Sentiment]]) -> list[Iterable[Event]]:
    return [chain(source) for source in sources]


def _mapped(path: Path, kind: np.dtype[Any]) -> NDArray[Any]:
    """A file as an array; an empty one can't be mapped."""
    if not path.stat().st_size:
        return np.empty(0, kind)
    return np.memmap(path, kind, mode="r")
