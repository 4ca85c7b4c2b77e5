"""What the verbs that replay history have in common: their options, and what those come to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from agent.cli.console import err
from agent.cli.moments import parse_moment
from agent.config import Category as Categories
from agent.config import Config, load
from agent.core.durations import parse_duration
from agent.core.errors import DataError, UsageError

if TYPE_CHECKING:
    from agent.replay.history import Plan
    from agent.research.replay_inputs import ReplayInputs

ConfigFile = Annotated[
    Path | None, typer.Option("--config", "-c", help="Default: ./config.toml, else the one that ships.")
]
Klines = Annotated[
    list[str] | None, typer.Option("--klines", help="FILE or SYMBOL=FILE, parquet or CSV; may be repeated.")
]
News = Annotated[Path | None, typer.Option("--news", help="Headlines: parquet, CSV or JSONL.")]
Sentiment = Annotated[Path | None, typer.Option("--sentiment", help="Headlines that are scored already.")]
Funding = Annotated[Path | None, typer.Option("--funding", help="History of funding rates.")]
Start = Annotated[
    str | None, typer.Option("--start", help="First bar's open, e.g. 2025-01-31 or 2025-01-31T12:00Z (UTC).")
]
End = Annotated[
    str | None, typer.Option("--end", help="The same; bars that open at it or later are left out.")
]
Strategy = Annotated[
    str | None,
    typer.Option("--strategy", help="A built-in's name; mine.py, mine.py:Class, or package.module:Class."),
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="NAME=VALUE: a parameter of the strategy; may be repeated.")
]
Symbols = Annotated[
    list[str] | None,
    typer.Option("--symbol", help="Trade only these of the files' symbols; may be repeated."),
]
Category = Annotated[str | None, typer.Option("--category", help="linear, spot or equity.")]
Timezone = Annotated[
    str | None, typer.Option("--timezone", help="Of times in files that name none, e.g. UTC.")
]
Model = Annotated[str | None, typer.Option("--model", help="An exported model's folder, or starter.")]
Fusion = Annotated[str | None, typer.Option("--fusion", help="A folder made by `tapewire train fusion`.")]
AllowLeakage = Annotated[
    bool, typer.Option("--allow-leakage", help="Run although the model saw this window; reports say so.")
]
Ranges = Annotated[
    list[str] | None,
    typer.Option(
        "--range", help="A parameter to search: NAME=LOW:HIGH[:STEP|:log] or NAME=A,B,C; may be repeated."
    ),
]
Warmup = Annotated[
    str | None, typer.Option("--warmup", help="History read before what is judged [1000 bars, at least 1d].")
]
Placebo = Annotated[
    int, typer.Option("--placebo", min=0, help="Replays with the headlines shuffled in time.")
]
Jobs = Annotated[int, typer.Option("--jobs", "-j", min=0, help="Processes; 0: one a core.")]
Seed = Annotated[int, typer.Option("--seed", help="Of everything random.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]


def gather(
    config: Path | None, klines: list[str] | None, news: Path | None, sentiment: Path | None, funding: Path | None, start: str | None,
    end: str | None, strategy: str | None, settings: list[str] | None, symbol: list[str] | None, category: str | None,
    timezone: str | None, model: str | None, allow_leakage: bool, fusion: str | None = None,
) -> ReplayInputs:  # fmt: skip
    """What is to be judged, with its window and its symbols settled by the files. Raises UsageError, ConfigError, DataError."""
    from agent.replay.history import History
    from agent.research.replay_inputs import ReplayInputs

    settled = settle(load(config), strategy, settings, category, model, fusion)
    plan = make_plan(settled, klines, news, sentiment, funding, start, end, timezone, symbol)
    with err.status("checking the input files"):
        history = History(plan, settled)
    return ReplayInputs(plan._replace(start=history.start, end=history.end), history.config, allow_leakage)


def window(material: ReplayInputs) -> tuple[int, int]:
    """Start and end of a gathered window, UTC ms."""
    start, end = material.plan.start, material.plan.end
    if start is None or end is None:
        raise UsageError("the window has no start or no end")
    return start, end


def warm_up(material: ReplayInputs, text: str | None) -> int:
    """Milliseconds of `--warmup`, or its default."""
    from agent.core.events import DAY_MS
    from agent.research.walk_forward import WARMUP_BARS

    return (
        max(DAY_MS, WARMUP_BARS * material.config.market.interval)
        if text is None
        else parse_span(text, "--warmup")
    )


def placebos(material: ReplayInputs, count: int) -> int:
    """`--placebo`, where headlines are read at all."""
    return count if material.plan.news is not None or material.plan.sentiment is not None else 0


def processes(jobs: int) -> int:
    """`--jobs`, or one a core."""
    return jobs or os.cpu_count() or 1


def parse_span(text: str, option: str) -> int:
    """Milliseconds of an option such as `30d`. Raises UsageError."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from None


def settle(
    config: Config, strategy: str | None, settings: list[str] | None, category: str | None, model: str | None,
    fusion: str | None = None,
) -> Config:  # fmt: skip
    """The configuration with the command line's word in it."""
    changes: dict[str, Any] = {}
    name = strategy or config.strategy.name
    params = dict(config.strategy.params) if name == config.strategy.name else {}
    for pair in settings or []:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {pair!r} sets nothing", hint="write NAME=VALUE, e.g. --set fast=20")
        params[key.strip()] = value.strip()
    changes["strategy"] = config.strategy.model_copy(update={"name": name, "params": params})
    if category is not None:
        if category not in get_args(Categories):
            raise UsageError(
                f"unknown category {category!r}", hint=f"one of {', '.join(get_args(Categories))}"
            )
        changes["market"] = config.market.model_copy(update={"category": category})
    if model is not None:
        changes["model"] = config.model.model_copy(update={"path": model})
    if fusion is not None:
        changes["fusion"] = config.fusion.model_copy(update={"path": fusion})
    return config.model_copy(update=changes)


def make_plan(
    config: Config, klines: list[str] | None, news: Path | None, sentiment: Path | None, funding: Path | None, start: str | None,
    end: str | None, timezone: str | None, symbols: list[str] | None,
) -> Plan:  # fmt: skip
    """What to replay; headlines are left out where neither the strategy nor its model hears them, and missed where one does."""
    from agent.data.klines import KlineFile
    from agent.replay.fusion_model import wants_headlines
    from agent.replay.history import Plan
    from agent.system.resources import resource

    history, given = config.history, (news, sentiment)
    named = klines or list(history.klines)
    if not named:
        samples = resource("sample_data")
        named = [f"{symbol}={samples / f'{symbol}-1m.csv'}" for symbol in ("BTCUSDT", "ETHUSDT")]
        news = news or (None if sentiment else samples / "headlines.csv")
        err.print(
            f"no kline files are named: replaying the sample data in {samples}",
            highlight=False,
            soft_wrap=True,
        )
    files = tuple(KlineFile.parse_argument(text) for text in named)
    for path, _ in files:
        if not path.exists():
            raise DataError(f"no such file: {path}")
    if symbols:
        by_symbol = {symbol or KlineFile(path).symbol: (path, symbol) for path, symbol in files}
        missing = [s for s in symbols if s.upper() not in by_symbol]
        if missing:
            raise UsageError(
                f"no klines for {', '.join(missing)}", hint=f"the files hold {', '.join(by_symbol)}"
            )
        files = tuple(by_symbol[s.upper()] for s in symbols)
    begin = parse_moment(start, "--start") if start else None
    finish = parse_moment(end, "--end") if end else None
    if begin is not None and finish is not None and begin >= finish:
        raise UsageError(f"--start {start} is not before --end {end}")
    news, sentiment = news or _path(history.news), sentiment or _path(history.sentiment)
    if not wants_headlines(config):
        for unread in filter(None, given):
            err.print(
                f"note: {unread} is not read: strategy {config.strategy.name} uses no headlines",
                markup=False,
                soft_wrap=True,
            )
        news = sentiment = None
    elif news is None and sentiment is None:
        raise UsageError(
            f"strategy {config.strategy.name} or its model reads headlines, and none are named",
            hint="--news FILE or --sentiment FILE, or a strategy of prices alone: --strategy sma_cross",
        )
    return Plan(
        files,
        news,
        sentiment,
        funding or _path(history.funding),
        begin,
        finish,
        timezone or history.timezone or None,
    )


def _path(text: str) -> Path | None:
    return Path(text) if text else None
