"""Prepares another strategy for the running agent: reads, loads and checks it outside of the core.

If anything is wrong with it, nothing reaches the core and the old strategy stays. Otherwise its source is in
the store before the command `use-strategy` is journalled, so that a restart at any moment folds the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import structlog

from agent.config import Config
from agent.core.engine import Engine
from agent.core.errors import ConfigError, StoreUnavailable, UsageError, VenueError
from agent.core.events import PastBars
from agent.core.intervals import parse_interval
from agent.core.sinks import NullSink
from agent.core.strategy import Strategy
from agent.core.strategy_version import bars_needed, label_of
from agent.core.trading_engine import TradingEngine
from agent.live.market_data.kline_producer import KlineProducer
from agent.live.pipeline import Pipeline
from agent.replay.needed_bars import bars_needed_by
from agent.store.database import Database
from agent.store.runs import Run
from agent.store.strategy_sources import read_source, save_source, trust_source
from agent.system.daemon_threads import DaemonThreads
from strategies import (
    BUILT_IN,
    SOURCE_FILE,
    SOURCE_SHA256,
    blaming,
    create_strategy,
    imported_sha256,
    source_of,
    strategy_class,
)
from strategies.stored_source import class_of_source, read_strategy_file, sha256_of

USE, SET = "use-strategy", "set-strategy"
"""Actions of an operator: another strategy, or other parameters of the same one."""

HISTORY: Final = "strategy-history"
"""Command after which the core keeps the run's bars for the strategy that is about to be used."""

_LONGEST: Final = 30.0  # seconds for loading and checking
_HEADLINES: Final = ("on_news", "on_sentiment", "on_signal", "on_signal_expired")
_log: Final = structlog.get_logger(__name__)


class _Request(NamedTuple):
    """What to load: `source` is that of a file, otherwise `name` is built in or in an installed package."""

    name: str
    class_name: str
    params: dict[str, Any]
    source: bytes | None


class StrategySwitch:
    """Loads strategies for the agent of `pipeline`, and history from `market`.

    `reads_headlines` states whether the agent has news and a model.
    """

    def __init__(
        self,
        config: Config,
        database: Database,
        pipeline: Pipeline,
        market: KlineProducer,
        *,
        reads_headlines: bool,
    ) -> None:
        self._market = market
        self._config = config
        self._database = database
        self._pipeline = pipeline
        self._reads_headlines = reads_headlines
        self._threads = DaemonThreads("strategy")  # a source may hang while it is imported

    async def prepare(self, action: str, args: Mapping[str, str]) -> tuple[dict[str, str], Strategy]:
        """Load and check what an operator's command names; return the arguments to journal, and the strategy.

        Raises TapewireError; the old strategy then stays.
        """
        storage = self._pipeline.storage
        self._engine()
        if args.get("sleeve"):
            raise UsageError(f"this agent has no sleeve {args['sleeve']!r}")
        if self._pipeline.engine.risk.warming_up:
            raise UsageError("the strategy can't be changed while history is being read")
        if storage.failing.is_set():
            raise StoreUnavailable(f"the source can't be stored: {storage.status.error}")
        request = self._parse(action, args)
        try:
            async with asyncio.timeout(_LONGEST):
                journalled, strategy = await asyncio.get_running_loop().run_in_executor(
                    self._threads, self._load, request
                )
        except TimeoutError:
            raise ConfigError(f"strategy {request.name} was not loaded within {_LONGEST:g} s") from None
        source = request.source
        if source is not None:
            await storage.write(partial(self._save, source))
            await asyncio.to_thread(trust_source, self._config.live.folder, source)
        if args.get("flatten") == "true":
            journalled["flatten"] = "true"
        return journalled, strategy

    def lacks_bars(self, version: Mapping[str, str]) -> bool:
        """Return whether fewer bars are at hand than the strategy of these arguments needs."""
        needed = {parse_interval(text): int(bars) for text, bars in bars_needed(version).items()}
        for state in self._engine().states.values():
            series = {} if state.history is None else state.history.series
            known = {one.interval: one.count for one in series.values()}
            if state.next_start >= 0 and any(known.get(one, 0) < bars for one, bars in needed.items()):
                return True
        return False

    async def read_past(self, version: Mapping[str, str]) -> list[PastBars]:
        """Read the bars that the strategy needs from the venue; none if that fails, which is logged."""
        needed = {text: int(bars) for text, bars in bars_needed(version).items()}
        states = self._pipeline.engine.states
        try:
            return await self._market.read_past(
                needed, {name: one.last_start for name, one in states.items()}
            )
        except (VenueError, TimeoutError) as error:
            _log.warning("no history for the strategy", reason=str(error) or "timeout")
            return []

    def _engine(self) -> Engine:
        """Return the engine of the run's only strategy. Raises UsageError if the account has sleeves."""
        engine = self._pipeline.engine
        if not isinstance(engine, Engine):
            raise UsageError(
                "the strategy of a sleeve can't be replaced",
                hint="tapewire sleeve remove NAME, then tapewire sleeve add with another name",
            )
        return engine

    def _save(self, source: bytes, *, again: bool) -> None:
        save_source(self._database, source)

    def _parse(self, action: str, args: Mapping[str, str]) -> _Request:
        try:
            params = msgspec.json.decode(args.get("params") or "{}", type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise UsageError(f"params is not a JSON object: {error}") from None
        if action == SET:
            if not params:
                raise UsageError("set-strategy needs params")
            current = self._current()
            return current._replace(params=current.params | params)
        name = args.get("strategy", "")
        if not name:
            raise UsageError("use-strategy needs a strategy")
        file, _, class_name = name.partition(":")
        if name in BUILT_IN or not file.endswith(".py"):
            return _Request(name, class_name, params, None)
        path = Path(file).expanduser().resolve()
        return _Request(str(path), class_name, params, read_strategy_file(path))

    def _current(self) -> _Request:
        """Return what decides now, from its stored source."""
        version, run = self._pipeline.engine.version, self._pipeline.run
        if version:
            name, class_name = version.get("file", version["strategy"]), version["class"]
            sha256, params = version["sha256"], msgspec.json.decode(version["params"], type=dict[str, Any])
        else:
            name, _, class_name = run.strategy.partition(":")
            params, sha256 = dict(run.params), run.versions.get(SOURCE_SHA256, "")
            if not name.endswith(".py"):
                name = run.strategy
            elif run.versions.get(SOURCE_FILE):
                name = run.versions[SOURCE_FILE]
        if not name.endswith(".py"):
            return _Request(name, class_name, params, None)
        source = read_source(self._database, sha256)
        if source is None:
            raise ConfigError(
                f"the source of {name} is not in the store, since it is not a single file",
                hint="tapewire strategy use FILE --set NAME=VALUE",
            )
        return _Request(name, class_name, params, source)

    def _load(self, request: _Request) -> tuple[dict[str, str], Strategy]:
        """Load and check a strategy; return the arguments to journal and the strategy to use."""
        name, sha256 = request.name, ""
        if request.source is not None:
            kind = class_of_source(request.source, Path(name), request.class_name)
            sha256 = sha256_of(request.source)
        else:
            kind = strategy_class(name)
            sha256 = _module_sha256(name)
        self._check_inputs(kind, name)
        strategy = create_strategy(kind, request.params, name)
        needed = self._check(kind, strategy)
        file = (
            {"strategy": Path(name).name, "file": name} if request.source is not None else {"strategy": name}
        )
        return {
            **file,  # the decision has the file's name only: its folder is of this machine
            "class": kind.__name__,
            "sha256": sha256,
            "params": msgspec.json.encode(strategy.params.model_dump(mode="json")).decode(),
            "needs": msgspec.json.encode({text: str(bars) for text, bars in needed.items()}).decode(),
        }, strategy

    def _check(self, kind: type[Strategy], strategy: Strategy) -> dict[str, int]:
        """Start two more instances on made-up bars; return the bars that the strategy needs by interval."""
        for_start, for_bars = kind(strategy.params), kind(strategy.params)
        with blaming(for_start):
            Engine(self._config, for_start, NullSink(), run_id="check", contain_errors=True)
        return bars_needed_by(for_bars, self._config)

    def _check_inputs(self, kind: type[Strategy], name: str) -> None:
        """Raise ConfigError if the strategy reads what this agent does not have."""
        if kind.overrides(*_HEADLINES) and not self._reads_headlines:
            raise ConfigError(
                f"strategy {name} reads headlines, and this agent was started without a sentiment model",
                hint="set strategy.name in the configuration and start the agent again",
            )
        if kind.overrides("on_prediction") and not self._config.fusion.path:
            raise ConfigError(
                f"strategy {name} reads predictions, and this agent has no fusion model",
                hint="set fusion.path and start the agent again",
            )


def keep_first_source(config: Config, database: Database, run: Run) -> None:
    """Store the source of the strategy with which `run` begins, if it is a single file and unchanged.

    Otherwise it is noted in the log: `verify` then needs the files. Raises StoreError.
    """
    name = run.strategy.partition(":")[0]
    if not name.endswith(".py") or not run.versions.get(SOURCE_SHA256):
        return
    try:
        source = read_strategy_file(Path(run.versions[SOURCE_FILE]))
    except ConfigError as error:
        _log.warning("the strategy's source is not stored", reason=error.message)
        return
    if sha256_of(source) == run.versions[SOURCE_SHA256]:
        save_source(database, source)
        trust_source(config.live.folder, source)


def current_label(engine: TradingEngine, run: Run) -> str:
    """Return a short name of the strategy that decides."""
    version = engine.version
    return label_of(version["strategy"], version["class"]) if version else run.strategy


def current_params(engine: TradingEngine, run: Run) -> dict[str, Any]:
    """Return the parameters of the strategy that decides."""
    if not engine.version:
        return run.params
    return msgspec.json.decode(engine.version["params"], type=dict[str, Any])


def _module_sha256(name: str) -> str:
    """Return the hash of an installed module; empty for a built-in strategy.

    Raises ConfigError if it has changed since it was imported, since the old code would run.
    """
    found = source_of(name)
    if not found:
        return ""
    file, sha256 = Path(found[SOURCE_FILE]), found[SOURCE_SHA256]
    if imported_sha256(file) != sha256:
        raise ConfigError(
            f"{file} has changed since it was imported",
            hint="use a file, mine.py, or start the agent again",
        )
    return sha256
