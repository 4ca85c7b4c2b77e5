"""Training rows of the fusion model, from klines and scored headlines, in memory-mapped files.

History passes through the code that also replays and trades: `FusionInputs` computes features and bars,
`SignalEngine` maps headlines to symbols and drops repeated stories. A row is a moment at which the engine
would call the model: the close of one of the model's bars, or a new headline about the symbol. Only the label
of a row looks ahead.
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
from agent.core.events import AssetSentiment, Event, Gap, Kline, News, Sentiment
from agent.core.features import Features
from agent.core.fusion_inputs import Forecast, FusionInputs
from agent.core.signals import SignalEngine
from agent.core.symbols import SymbolMapper, base_of
from agent.core.text_embedding import DecayedEmbedding, Vector
from agent.data.merge import merge
from agent.system.atomic import write_bytes

Progress = Callable[[int], None]
"""Called from time to time with the market time (UTC ms) reached."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ROW: Final = np.dtype(
    [("ts", "<i8"), ("symbol", "<i4"), ("vote", "<i4"), ("features", "<f8", (len(Features._fields),))]
)
"""One call of the model: time, number of the symbol, number of the symbol's last vote (-1 if none),
features.
"""
VOTE: Final = np.dtype([("ts", "<i8"), ("symbol", "<i4"), ("text", "<i4")])
"""One headline about a symbol: time, number of the symbol, number of the text. Each asset that has its own
probabilities in a headline has its own text.
"""
CLOSE: Final = np.dtype([("ts", "<i8"), ("close", "<f8")])
"""Close time and price of a bar, from which labels are computed."""

META_NAME: Final = "meta.json"

UNKNOWN: Final = -1
"""Label of a row whose horizon the data don't cover."""

_BLOCK: Final = 8_192  # records held in memory before they are written
_TICK: Final = 65_536  # events between two calls of `progress`
_VOLATILITY: Final = Features._fields.index("volatility")


class RowLabels(NamedTuple):
    """Labels of all rows (n,)."""

    kind: Ints
    """0 down, 1 flat, 2 up, or `UNKNOWN`."""
    forward: Floats
    """Return from the last close before the row to the first close at or after its horizon; NaN if
    unknown.
    """
    scale: Floats
    """volatility · sqrt(horizon / interval), the size of a usual move. The flat band is a multiple of it."""


class DatasetMeta(msgspec.Struct, frozen=True, kw_only=True):
    """Description of a data set, stored beside its arrays."""

    symbols: tuple[str, ...]
    step: int  # interval of the klines, ms
    interval: int  # interval of the model's bars, ms
    dimensions: int  # of an embedding; 0 without text
    scorer: str  # fingerprint of the sentiment model
    start: int
    end: int  # close of the last bar
    bars: int


class FusionData:
    """Memory-mapped data set in `folder`: arrays of `ROW`, `VOTE`, texts and closes. Raises DataError if
    it isn't one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.meta = msgspec.json.decode((folder / META_NAME).read_bytes(), type=DatasetMeta)
        except (OSError, msgspec.DecodeError) as error:
            raise DataError(f"{folder} holds no data set: {error}") from None
        self.rows = _mapped(folder / "rows", ROW)
        self.votes = _mapped(folder / "votes", VOTE)
        self.texts = _mapped(folder / "texts", text_type(self.meta.dimensions))
        self._closes = [
            _mapped(folder / f"closes-{number}", CLOSE) for number in range(len(self.meta.symbols))
        ]

    def labels(self, horizon: int, band: float) -> RowLabels:
        """Label all rows by their return over `horizon` ms. Returns within ± `band` usual moves are flat."""
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
        return RowLabels(np.where(np.isnan(forward), UNKNOWN, kind), forward, scale)

    def decayed_means(self, half_life: int, field: str) -> tuple[NDArray[np.float32], Floats]:
        """Compute the state of `DecayedEmbedding` for a half-life (ms).

        Return its means (votes, dimensions) after each vote, memory-mapped, and its weight (rows,) at each
        row. `field` is "embedding" or "chances".
        """
        dimensions = self.texts.dtype[field].shape[0]
        path = self.folder / f"means-{field}"
        states = [DecayedEmbedding(half_life) for _ in self.meta.symbols]
        at_vote = np.zeros(len(self.votes) + 1)  # the last one is for rows without a vote, whose number is -1
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
        voted = np.append(self.votes["ts"], 0)[vote]
        weight = at_vote[vote] * np.exp2(np.where(vote < 0, 0.0, (voted - ts) / half_life))
        return _mapped(path, np.dtype(np.float32)).reshape(-1, dimensions), weight


def text_type(dimensions: int) -> np.dtype[Any]:
    """Return the record type of a scored text, or of an asset in it: bearish, neutral and bullish, and the
    embedding.
    """
    return np.dtype([("chances", "<f4", (3,)), ("embedding", "<f2", (dimensions,))])


def build_dataset(
    klines: Sequence[Iterable[Kline | Gap]],
    news: Iterable[News | Sentiment],
    folder: Path,
    *,
    config: Config,
    interval: int,
    dimensions: int = 0,
    scorer: str = "",
    progress: Progress | None = None,
) -> FusionData:
    """Convert history to a data set in `folder`, with memory use independent of its length.

    `config` names the traded symbols, their bars, and the mapping of headlines to symbols. `interval` (ms) is
    that of the model's bars. `news` comes from `agent.data.sentiment.scored`, with embeddings of `dimensions`
    by `scorer`. A symbol takes the embedding of its asset, or that of the headline if the asset has none of
    its own. Raises DataError if no row results, ModelError if an embedding has another size.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / META_NAME).unlink(missing_ok=True)  # written last, so an incomplete folder is not a data set
    symbols = tuple(sorted(config.market.symbols))
    predictor = _VectorPredictor(interval, dimensions)
    inputs = {symbol: FusionInputs(symbol, predictor, config.market.interval) for symbol in symbols}
    number_of = {symbol: number for number, symbol in enumerate(symbols)}
    asset_of = {symbol: base_of(symbol) for symbol in symbols}
    mapper = SymbolMapper(config.market.symbols, config.instruments, config.signals.macro_keywords)
    signals = SignalEngine(config.signals, mapper)
    last_vote = dict.fromkeys(symbols, -1)
    bars, first, last = 0, 0, 0
    with (
        _RecordWriter(folder / "rows", ROW) as rows,
        _RecordWriter(folder / "votes", VOTE) as votes,
        _RecordWriter(folder / "texts", text_type(dimensions)) as texts,
        _CloseWriters(folder, len(symbols)) as closes,
    ):

        def add_row(symbol: str, now: int) -> None:
            rows.add((now, number_of[symbol], last_vote[symbol], inputs[symbol].features))

        for number, event in enumerate(merge(_typed([*klines, news]))):
            match event:
                case Kline(symbol=symbol, ts=now, close=close):
                    first, last, bars = first or event.start, now, bars + 1
                    closes.add(number_of[symbol], (now, close))
                    if inputs[symbol].on_bar(event.start, event.high, event.low, close, event.volume):
                        add_row(symbol, now)
                case Gap(symbol=symbol):
                    inputs[symbol].reset()
                case News():
                    signals.on_news(event)
                case Sentiment(available_at=now):
                    concerned = [symbol for symbol in signals.affected_symbols(event) if symbol in inputs]
                    signals.on_sentiment(event)
                    written: dict[AssetSentiment | Sentiment, int] = {}  # number of the text
                    for symbol in concerned:
                        answer = event.of(asset_of[symbol])
                        if answer not in written:
                            written[answer] = texts.count
                            probabilities = answer.bearish, answer.neutral, answer.bullish
                            texts.add((probabilities, predictor.embedding_of(event, answer)))
                        inputs[symbol].on_headline(event, now)
                        last_vote[symbol] = votes.count
                        votes.add((now, number_of[symbol], written[answer]))
                        if inputs[symbol].features.warm:
                            add_row(symbol, now)
            if progress and number % _TICK == 0:
                progress(event.available_at)
    if not rows.count:
        what = f"no bar of {format_duration(interval)} has all of its features in these klines"
        raise DataError(what, hint="name a longer window")
    meta = DatasetMeta(
        symbols=symbols,
        step=config.market.interval,
        interval=interval,
        dimensions=dimensions,
        scorer=scorer,
        start=first,
        end=last,
        bars=bars,
    )
    write_bytes(folder / META_NAME, msgspec.json.encode(meta))
    return FusionData(folder)


class _VectorPredictor:
    """`Predictor` that provides the vectors of headlines and makes no prediction."""

    fingerprint = ""
    half_life = 1

    def __init__(self, interval: int, dimensions: int) -> None:
        self.interval = interval
        self._dimensions = dimensions

    def embedding_of(self, sentiment: Sentiment, answer: AssetSentiment | Sentiment) -> NDArray[np.float16]:
        embedding = np.frombuffer(answer.embedding, "<f2")
        if len(embedding) != self._dimensions:
            size = f"{len(embedding)} dimensions, not {self._dimensions}"
            of = f" for {answer.asset}" if isinstance(answer, AssetSentiment) else ""
            what = f"headline {sentiment.news_id} has an embedding{of} of {size}"
            raise ModelError(what, hint="score all headlines with one model")
        return embedding

    def vector(self, sentiment: Sentiment, asset: str) -> Vector:
        return self.embedding_of(sentiment, sentiment.of(asset)).astype(np.float64)

    def read(self, mean: Vector) -> Any:
        return mean

    def predict(self, features: Features, reading: Any, mass: float) -> Forecast:
        raise NotImplementedError("the data set makes no predictions")


class _RecordWriter:
    """Writes records of one type to a file, block by block."""

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

    def __enter__(self) -> _RecordWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self._stream.close()


class _CloseWriters:
    """One file of closes for each symbol."""

    def __init__(self, folder: Path, count: int) -> None:
        self._writers = [_RecordWriter(folder / f"closes-{number}", CLOSE) for number in range(count)]

    def add(self, number: int, record: tuple[Any, ...]) -> None:
        self._writers[number].add(record)

    def __enter__(self) -> _CloseWriters:
        return self

    def __exit__(self, *_: object) -> None:
        for writer in self._writers:
            writer.__exit__()


def _typed(sources: Sequence[Iterable[Kline | Gap] | Iterable[News | Sentiment]]) -> list[Iterable[Event]]:
    return [chain(source) for source in sources]


def _mapped(path: Path, kind: np.dtype[Any]) -> NDArray[Any]:
    """Return a file as a memory-mapped array."""
    if not path.stat().st_size:  # an empty file can't be mapped
        return np.empty(0, kind)
    return np.memmap(path, kind, mode="r")
