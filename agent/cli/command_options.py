"""Options that several commands have in common, and the values they stand for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, get_args

import typer

from agent.cli.console import err
from agent.cli.typer_setup import option
from agent.core.durations import parse_duration
from agent.core.errors import DataError, UsageError
from agent.system.clock import parse_time as parse_time

if TYPE_CHECKING:
    from agent.config import Config
    from agent.replay.history import History, Plan
    from agent.research.replay_inputs import ReplayInputs

ConfigFile = Annotated[
    Path | None, option("--config -c", "Configuration file.", "FILE", "./config.toml, else the packaged one")
]
Json = Annotated[bool, option("--json", "Print one JSON object on standard output.")]
RunId = Annotated[
    str, typer.Argument(metavar="RUN", help="Id of a run, or its first characters; latest: the newest run.")
]
Page = Annotated[
    Path | None, option("--report", "Write the result as an HTML page to this file, too.", "FILE")
]
Seed = Annotated[int, option("--seed", "Seed of all random draws.")]
Jobs = Annotated[int, option("--jobs -j", "Worker processes; 0: one per CPU core.", min=0)]
ManyJobs = Annotated[
    int | None,
    option(
        "--jobs -j", "Worker processes; 0: one per CPU core.", default="1; of a cluster, all workers", min=0
    ),
]
Warmup = Annotated[
    str | None,
    option("--warmup", "History read before the judged window.", "DURATION", "1000 bars, at least 1d"),
]
Placebo = Annotated[int, option("--placebo", "Number of replays with the headlines shuffled in time.", min=0)]
Ranges = Annotated[
    list[str] | None,
    option(
        "--range",
        "Parameter to search: NAME=LOW:HIGH[:STEP|:log] or NAME=A,B,C; may be repeated.",
        "NAME=RANGE",
    ),
]
Start = Annotated[
    str | None,
    option(
        "--start",
        "Open time of the first bar (UTC), such as 2025-01-31 or 2025-01-31T12:00Z.",
        "TIME",
        "start of the files",
    ),
]
End = Annotated[
    str | None, option("--end", "Time before which the last bar opens (UTC).", "TIME", "end of the files")
]
FusionModel = Annotated[
    str | None,
    option("--fusion", "Fusion model, written by `tapewire train fusion`.", "FOLDER", "fusion.path"),
]
SentimentModel = Annotated[
    str | None,
    option(
        "--model",
        "Exported sentiment model, starter, openai:URL#MODEL or ensemble:FOLDER.",
        "MODEL",
        "model.path",
    ),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayOptions:
    """The history to replay, and the strategy and models to replay it with."""

    PANEL: ClassVar = "History, strategy and models"

    config: ConfigFile = None
    klines: Annotated[
        list[str] | None,
        option(
            "--klines",
            "Klines, Parquet or CSV; may be repeated.",
            "[SYMBOL=]FILE",
            "history.klines, else sample data",
        ),
    ] = None
    news: Annotated[
        Path | None,
        option("--news", "Headlines to score: Parquet, CSV or JSON lines.", "FILE", "history.news"),
    ] = None
    sentiment: Annotated[
        Path | None, option("--sentiment", "Headlines that already have scores.", "FILE", "history.sentiment")
    ] = None
    funding: Annotated[
        Path | None, option("--funding", "Funding rates.", "FILE", "history.funding, else the constant rate")
    ] = None
    start: Start = None
    end: End = None
    strategy: Annotated[
        str | None,
        option(
            "--strategy",
            "Built-in, or your own: mine.py, mine.py:Class, package.module:Class.",
            "NAME",
            "strategy.name",
        ),
    ] = None
    settings: Annotated[
        list[str] | None, option("--set", "Set a parameter of the strategy; may be repeated.", "NAME=VALUE")
    ] = None
    symbol: Annotated[
        list[str] | None,
        option("--symbol", "Trade only this symbol of the kline files; may be repeated.", "SYMBOL", "all"),
    ] = None
    category: Annotated[
        str | None, option("--category", "Kind of market: linear, spot or equity.", "NAME", "market.category")
    ] = None
    timezone: Annotated[
        str | None,
        option("--timezone", "Zone of times that state none, such as UTC.", "ZONE", "history.timezone"),
    ] = None
    model: SentimentModel = None
    fusion: FusionModel = None
    allow_leakage: Annotated[
        bool,
        option("--allow-leakage", "Run even if the model was trained on this window; all reports state it."),
    ] = False
    mqtt_workers: Annotated[
        bool,
        option("--mqtt-workers", "Let the sentiment workers at mqtt.broker score the headlines."),
    ] = False

    def configured(self) -> Config:
        """Return the configuration with the strategy, category and models given here.

        Raises ConfigError, or UsageError for an option that can't be used.
        """
        from agent.config import Category, load

        config = load(self.config)
        name = self.strategy or config.strategy.name
        params = dict(config.strategy.params) if name == config.strategy.name else {}
        params |= parse_settings(self.settings or [], "--set ")
        strategy = config.strategy.model_copy(update={"name": name, "params": params})
        changes: dict[str, Any] = {"strategy": strategy}
        if config.sleeves and self.strategy is not None:
            err.print(f"note: {self.strategy} takes the place of the {len(config.sleeves)} sleeves")
            changes["sleeves"] = ()
        elif config.sleeves and self.settings:
            raise UsageError(
                "--set sets a parameter of one strategy, and the configuration has several, in [[sleeves]]",
                hint="write it there, or name the strategy to replay: --strategy NAME",
            )
        if self.category is not None:
            if self.category not in get_args(Category):
                raise UsageError(
                    f"unknown category {self.category!r}", hint=f"one of {', '.join(get_args(Category))}"
                )
            changes["market"] = config.market.model_copy(update={"category": self.category})
        if self.model is not None:
            changes["model"] = config.model.model_copy(update={"path": self.model})
        if self.fusion is not None:
            changes["fusion"] = config.fusion.model_copy(update={"path": self.fusion})
        return config.model_copy(update=changes)

    def plan(self, config: Config) -> Plan:
        """Return the files and the window to replay; files not given here are those of `config`.

        Headlines are required if the strategy or its fusion model reads them, and dropped if neither does.
        """
        from agent.data.klines import KlineFile
        from agent.replay.fusion_model import wants_headlines
        from agent.replay.history import Plan
        from agent.system.resources import resource

        history, news, named = config.history, self.news, self.klines or list(config.history.klines)
        if not named:
            samples = resource("sample_data")
            named = [f"{symbol}={samples / f'{symbol}-1m.csv'}" for symbol in ("BTCUSDT", "ETHUSDT")]
            news = news or (None if self.sentiment else samples / "headlines.csv")
            err.print(f"no kline files given: replaying the sample data in {samples}", soft_wrap=True)
        files = tuple(KlineFile.parse_argument(text) for text in named)
        for path, _ in files:
            if not path.exists():
                raise DataError(f"no such file: {path}")
        if self.symbol:
            by_symbol = {symbol or KlineFile(path).symbol: (path, symbol) for path, symbol in files}
            if missing := [symbol for symbol in self.symbol if symbol.upper() not in by_symbol]:
                raise UsageError(
                    f"no klines for {', '.join(missing)}", hint=f"the files hold {', '.join(by_symbol)}"
                )
            files = tuple(by_symbol[symbol.upper()] for symbol in self.symbol)
        start, end = parse_window(self.start, self.end)
        news, sentiment = news or _path(history.news), self.sentiment or _path(history.sentiment)
        if not wants_headlines(config):
            for unread in filter(None, (self.news, self.sentiment)):
                note = f"note: {unread} is not read: strategy {config.strategy.name} uses no headlines"
                err.print(note, markup=False, soft_wrap=True)
            news = sentiment = None
        elif news is None and sentiment is None:
            name = config.strategy.name
            raise UsageError(
                f"strategy {name} or its model reads headlines, but no file of headlines is given",
                hint="--news FILE or --sentiment FILE, or a strategy that uses prices only: "
                "--strategy sma_cross",
            )
        timezone = self.timezone or history.timezone or None
        return Plan(files, news, sentiment, self.funding or _path(history.funding), start, end, timezone)

    def open_history(self) -> tuple[Plan, History]:
        """Return the plan and its opened files. Raises UsageError, ConfigError or DataError."""
        from agent.replay.history import History

        config = self.configured()
        plan = self.plan(config)
        with err.status("checking the input files"):
            return plan, History(plan, config)

    def material(self) -> ReplayInputs:
        """Return what the research commands replay, its window and symbols settled by the files.

        Raises UsageError, ConfigError or DataError.
        """
        from agent.config import load
        from agent.research.replay_inputs import ReplayInputs

        if self.strategy is None and load(self.config).sleeves:
            raise UsageError(
                "this command judges one strategy, and the configuration has several, in [[sleeves]]",
                hint="name one of them: --strategy NAME",
            )
        _, history = self.open_history()
        return ReplayInputs(
            history.plan._replace(start=history.start, end=history.end),
            history.config,
            self.allow_leakage,
            acting_as(),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerOptions:
    """Where independent replays run."""

    PANEL: ClassVar = "Workers"

    backend: Annotated[
        str, option("--backend", "What runs the worker processes: loky, dask or ray.", "NAME")
    ] = "loky"
    address: Annotated[
        str | None,
        option(
            "--address",
            "Cluster: tcp://HOST:8786 (Dask), ray://HOST:10001 or HOST:6379 (Ray).",
            "ADDRESS",
            "workers of this machine",
        ),
    ] = None

    @contextmanager
    def workers(self, jobs: int) -> Iterator[int]:
        """Start the backend; yields how many replays may run at a time. Raises UsageError."""
        from agent.research.backends import open_backend

        with open_backend(self.backend, self.address, jobs if self.address else worker_count(jobs)) as found:
            yield found

    def many(self, jobs: int | None) -> int:
        """Return `--jobs` of a command that uses one process by default, or all workers of a cluster."""
        if jobs is not None:
            return jobs
        return 1 if self.address is None else 0


_asking: Final = ["cli"]


def act_as(by: str) -> None:
    """Count the evaluations of this process as tries of `by` (`Try.by`), for which it works."""
    _asking[:] = [by]


def acting_as() -> str:
    """Return who asked for the command of this process: cli, unless a server started it for another."""
    return _asking[0]


def window(material: ReplayInputs) -> tuple[int, int]:
    """Return start and end of the replayed window, UTC ms."""
    start, end = material.plan.start, material.plan.end
    if start is None or end is None:
        raise UsageError("the window has no start or no end")
    return start, end


def warmup_ms(material: ReplayInputs, text: str | None) -> int:
    """Return the milliseconds of `--warmup`."""
    from agent.core.events import DAY_MS
    from agent.research.walk_forward import WARMUP_BARS

    if text is not None:
        return parse_span(text, "--warmup")
    return max(DAY_MS, WARMUP_BARS * material.config.market.interval)


def placebo_replays(material: ReplayInputs, count: int) -> int:
    """Return `--placebo`, or 0 if the replay reads no headlines."""
    return count if material.plan.news is not None or material.plan.sentiment is not None else 0


def worker_count(jobs: int) -> int:
    """Return `--jobs`, or the number of CPU cores if it is 0."""
    return jobs or os.cpu_count() or 1


def parse_window(start: str | None, end: str | None) -> tuple[int | None, int | None]:
    """Return `--start` and `--end` in UTC milliseconds. Raises UsageError unless start is before end."""
    first = parse_time(start, "--start") if start else None
    last = parse_time(end, "--end") if end else None
    if first is not None and last is not None and first >= last:
        raise UsageError(f"--start {start} is not before --end {end}")
    return first, last


def parse_settings(pairs: list[str], prefix: str = "") -> dict[str, str]:
    """Return the texts of `NAME=VALUE` pairs by name. Raises UsageError, naming the option `prefix`."""
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageError(
                f"{prefix}{pair!r} sets nothing", hint=f"write NAME=VALUE, such as {prefix}fast=20"
            )
        found[key.strip()] = value.strip()
    return found


def parse_span(text: str, option: str) -> int:
    """Return the milliseconds of a duration such as `30d`. Raises UsageError that names `option`."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from None


def _path(text: str) -> Path | None:
    return Path(text) if text else None
