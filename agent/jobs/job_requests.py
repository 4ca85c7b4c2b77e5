"""What a remote caller may have run: one struct for each kind of job, and the command that it stands for.

A caller chooses data files and strategies by name only, and no file that is written. Each value becomes one
argument `--option=VALUE`, so that none can be taken for another option.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Protocol

import msgspec
from msgspec import Meta

from agent.core.durations import format_duration, parse_duration
from agent.core.errors import UsageError
from agent.core.symbol_names import is_symbol, normalise
from agent.jobs.data_folders import DataFolders
from agent.jobs.known_strategies import KnownStrategies

_Span = Annotated[
    str, Meta(pattern=r"^[0-9]{1,7}(ms|s|m|h|d)$", description="A duration, such as 250ms, 4h or 30d.")
]
_When = Annotated[
    str,
    Meta(pattern=r"^[0-9][0-9T:Z+. -]{3,39}$", description="A UTC time, such as 2025-01-31T12:00Z."),
]
_DataName = Annotated[
    str,
    Meta(
        min_length=3, max_length=340, description="Name of a data file, FOLDER/FILE, as GET /data lists it."
    ),
]
_KlineName = Annotated[
    str,
    Meta(min_length=3, max_length=340, description="Name of a data file, or SYMBOL=NAME."),
]
_SymbolName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9^][A-Za-z0-9._:/=^-]{0,39}$")]
_ParameterName = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,59}$")]
_Value = bool | int | float | Annotated[str, Meta(max_length=200, pattern=r"^[^\u0000-\u001f]*$")]
_Range = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,59}=[^\u0000-\u001f]{1,200}$",
        description="NAME=LOW:HIGH[:STEP|:log] or NAME=A,B,C.",
    ),
]
_Ranges = Annotated[
    tuple[_Range, ...],
    Meta(max_length=20, description="Parameters to search; empty: those with bounds, between them."),
]
_Seed = Annotated[int, Meta(ge=0, le=2**31 - 1)]
_Points = Annotated[int, Meta(ge=1, le=100)]
_Placebos = Annotated[int, Meta(ge=0, le=500, description="Replays with the headlines shuffled in time.")]


class JobSurroundings(NamedTuple):
    """What the server adds to a request: data, strategies, its folder, and the venue of downloads."""

    data: DataFolders
    strategies: KnownStrategies
    folder: Path
    venue: str
    model: str = "starter"  # the configured sentiment model


class RequestedCommand(Protocol):
    """A request, which stands for a command."""

    def arguments(self, at: JobSurroundings) -> tuple[str, ...]:
        """Return the arguments of `tapewire`. Raises UsageError for a file or strategy that isn't listed."""
        ...


class _JobRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", kw_only=True):
    def arguments(self, at: JobSurroundings) -> tuple[str, ...]:
        """Return the arguments of `tapewire`. Raises UsageError for a file or strategy that isn't listed."""
        raise NotImplementedError


class _Replay(_JobRequest, frozen=True, kw_only=True):
    """History, strategy and window. What is left out is that of the server's configuration."""

    strategy: Annotated[
        str, Meta(max_length=200, description="Name, as GET /strategies lists it; empty: the configured one.")
    ] = ""
    params: Annotated[
        dict[_ParameterName, _Value], Meta(max_length=50, description="Parameters of the strategy.")
    ] = {}
    klines: Annotated[
        tuple[_KlineName, ...],
        Meta(max_length=50, description="Empty: the configured ones, else sample data."),
    ] = ()
    news: _DataName | None = None
    sentiment: _DataName | None = None
    funding: _DataName | None = None
    start: _When | None = None
    end: _When | None = None
    symbols: Annotated[tuple[_SymbolName, ...], Meta(max_length=50)] = ()
    category: Literal["linear", "spot", "equity"] | None = None
    timezone: Annotated[str, Meta(pattern=r"^[A-Za-z][A-Za-z0-9_+/-]{0,59}$")] | None = None

    def _replay(self, at: JobSurroundings) -> Iterator[str]:
        if self.strategy:
            yield f"--strategy={at.strategies.find(self.strategy)}"
        for name, value in self.params.items():
            yield f"--set={name}={_text(value)}"
        for klines in self.klines:
            symbol, equals, name = klines.partition("=")
            if equals and is_symbol(symbol):
                yield f"--klines={normalise(symbol)}={at.data.find(name)}"
            else:
                yield f"--klines={at.data.find(klines)}"
        for option in ("news", "sentiment", "funding"):
            if name := getattr(self, option):
                yield f"--{option}={at.data.find(name)}"
        for symbol in self.symbols:
            yield f"--symbol={symbol}"
        yield from _options(self, "start", "end", "category", "timezone")


class BacktestRequest(_Replay, frozen=True, kw_only=True, tag="backtest"):
    """Replay history through a strategy; the run is recorded."""

    def arguments(self, at: JobSurroundings) -> tuple[str, ...]:
        return ("backtest", *self._replay(at), "--json")


class WalkForwardRequest(_Replay, frozen=True, kw_only=True, tag="walkforward"):
    """Judge a strategy fold by fold; each fold is a recorded run."""

    train: _Span = "180d"
    test: _Span = "30d"
    embargo: _Span = "1d"
    purge: _Span = "0d"
    anchored: bool = False
    fit: Literal["none", "refit"] = "none"
    ranges: _Ranges = ()
    points: _Points = 5
    warmup: _Span | None = None
    placebo: _Placebos = 20
    seed: _Seed = 0

    def arguments(self, at: JobSurroundings) -> tuple[str, ...]:
        cut = _options(
            self, "train", "test", "embargo", "purge", "fit", "points", "warmup", "placebo", "seed"
        )
        anchored = ("--anchored",) if self.anchored else ()
        ranges = (f"--range={one}" for one in self.ranges)
        return ("walkforward", *self._replay(at), *cut, *anchored, *ranges, "--jobs=1", "--json")


class SweepRequest(_Replay, frozen=True, kw_only=True, tag="sweep"):
    """Replay history once for all combinations of the ranges."""

    ranges: _Ranges = ()
    points: _Points = 5
    limit: Annotated[int, Meta(ge=1, le=2_000, description="Most variants.")] = 500
    store: Annotated[bool, Meta(description="Also record each variant as a run.")] = False

    def arguments(self, at: JobSurroundings) -> tuple[str, ...]:
        options = _options(self, "points", "limit")
        store = ("--store",) if self.store else ()
        ranges = (f"--range={one}" for one in self.ranges)
        return ("sweep", *self._replay(at), *options, *store, *ranges, "--jobs=1", "--json")


class TuneRequest(_Replay, frozen=True, kw_only=True, tag="tune"):
    """Search a strategy's parameters, and judge the best on time that the search has not seen."""

    ranges: _Ranges = ()
    trials: Annotated[int, Meta(ge=1, le=2_000)] = 50
    batch: Annotated[int, Meta(ge=1, le=64)] = 8
    folds: Annotated[int, Meta(ge=1, le=50)] = 4
    holdout: _Span | None = None
    embargo: _Span = "1d"
    warmup: _Span | None = None
    prune: bool = True
    placebo: _Placebos = 20
    seed: _Seed = 0

    def arguments(self, at: JobSurroundings) -> tuple[str, ...]:
        names = ("trials", "batch", "folds", "holdout", "embargo", "warmup", "placebo", "seed")
        ranges = (f"--range={one}" for one in self.ranges)
        prune = "--prune" if self.prune else "--no-prune"
        storage = f"--storage=sqlite:///{at.folder.absolute() / 'tune.db'}"
        return ("tune", *self._replay(at), *_options(self, *names), prune, *ranges, storage, "--json")


class _Check(_Replay, frozen=True, kw_only=True):
    OPTIONS: ClassVar[tuple[str, ...]] = ()

    def arguments(self, at: JobSurroundings) -> tuple[str, ...]:
        _, _, command = str(self.__struct_config__.tag).partition("-")
        options = _options(self, *self.OPTIONS)
        return ("check", command, *self._replay(at), *options, "--json")


class LookaheadRequest(_Check, frozen=True, kw_only=True, tag="check-lookahead"):
    """Test whether a strategy uses information that it can't have yet."""

    OPTIONS: ClassVar = ("cuts", "jobs", "seed")
    cuts: Annotated[int, Meta(ge=2, le=100)] = 12
    seed: _Seed = 0
    jobs: ClassVar = 1


class StartupRequest(_Check, frozen=True, kw_only=True, tag="check-startup"):
    """Test whether decisions change if the strategy reads more bars before the start."""


class PlaceboRequest(_Check, frozen=True, kw_only=True, tag="check-placebo"):
    """Test whether the news makes the result."""

    OPTIONS: ClassVar = ("draws", "jobs", "seed")
    draws: Annotated[int, Meta(ge=19, le=500)] = 40
    seed: _Seed = 0
    jobs: ClassVar = 1


class MaskedRequest(_Check, frozen=True, kw_only=True, tag="check-masked"):
    """Test whether the model reads the text or recalls names."""

    OPTIONS: ClassVar = ("seed",)
    seed: _Seed = 0

    def arguments(self, at: JobSurroundings) -> tuple[str, ...]:
        if self.sentiment is not None:
            raise UsageError("check-masked scores the headlines itself", hint="give news, not sentiment")
        return super().arguments(at)


class CostsRequest(_Check, frozen=True, kw_only=True, tag="check-costs"):
    """Find the costs and the latency at which the profit is gone."""

    OPTIONS: ClassVar = ("margin", "jobs")
    margin: Annotated[float, Meta(ge=1, le=100)] = 1.5
    jobs: ClassVar = 1


class DownloadRequest(_JobRequest, frozen=True, kw_only=True, tag="download"):
    """Download klines into the first data folder, SYMBOL-INTERVAL.parquet; again: continue there."""

    symbol: Annotated[str, Meta(pattern=r"^[A-Za-z0-9^][A-Za-z0-9.^=-]{0,39}$")]
    start: _When
    end: _When | None = None
    interval: Annotated[str, Meta(pattern=r"^[0-9]{1,4}(m|h|d)$")] | None = None
    category: Literal["linear", "spot"] = "linear"
    source: Literal["bybit", "yahoo"] = "bybit"

    def arguments(self, at: JobSurroundings) -> tuple[str, ...]:
        interval = self.interval or ("1d" if self.source == "yahoo" else "1m")
        length = format_duration(parse_duration(interval))
        market = "-spot" if self.category == "spot" and self.source == "bybit" else ""
        output = at.data.output(f"{self.symbol.upper()}{market}-{length}.parquet", new=False)
        options = [f"--from={self.start}", f"--interval={interval}", f"--output={output}"]
        options += [f"--to={self.end}"] if self.end else []
        options += _options(self, "category", "source")
        options += [f"--url={at.venue}"] if self.source == "bybit" else []
        return ("download", "klines", *options, "--json", "--", self.symbol)


class ImportRequest(_JobRequest, frozen=True, kw_only=True, tag="import"):
    """Convert a file of headlines that lies in a data folder, into the first one."""

    file: _DataName
    name: Annotated[
        str, Meta(pattern=r"^[A-Za-z0-9_-]{1,60}$", description="Name of the new file, without .parquet.")
    ]
    timezone: Annotated[str, Meta(pattern=r"^[A-Za-z][A-Za-z0-9_+/-]{0,59}$")] | None = None

    def arguments(self, at: JobSurroundings) -> tuple[str, ...]:
        output = at.data.output(f"{self.name}.parquet", new=True)
        options = (f"--output={output}", *_options(self, "timezone"))
        return ("import", "news", *options, "--json", "--", str(at.data.find(self.file)))


JobRequest = (
    BacktestRequest
    | WalkForwardRequest
    | SweepRequest
    | TuneRequest
    | LookaheadRequest
    | StartupRequest
    | PlaceboRequest
    | MaskedRequest
    | CostsRequest
    | DownloadRequest
    | ImportRequest
)
"""A job to start, told apart by `kind`."""


def kind_of(request: Any) -> str:
    """Return the kind of a request."""
    return str(type(request).__struct_config__.tag)


def _text(value: bool | int | float | str) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _options(request: Any, *names: str) -> list[str]:
    """Return `--name=VALUE` of the fields that have a value."""
    values = ((name, getattr(request, name)) for name in names)
    return [f"--{name}={_text(value)}" for name, value in values if value is not None]
