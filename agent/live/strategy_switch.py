"""Prepares another strategy for the running agent, or for one of its sleeves: reads, loads and checks it
outside of the core.

If anything is wrong with it, nothing reaches the core and the old strategy stays. Otherwise its source is in
the store before the command `use-strategy` is journalled, so that a restart at any moment folds the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import structlog

from agent.config import Config
from agent.core.engine import Engine
from agent.core.errors import ConfigError, StoreUnavailable, UsageError, VenueError
from agent.core.events import PastBars
from agent.core.settings import SleeveConfig
from agent.core.sinks import NullSink
from agent.core.sleeve import sleeve_config
from agent.core.sleeves import SleevedEngine
from agent.core.strategy import Strategy
from agent.core.strategy_version import bars_needed, label_of
from agent.core.trading_engine import TradingEngine
from agent.live.market_data.kline_producer import KlineProducer
from agent.live.pipeline import Pipeline
from agent.live.sleeve_requests import present_sleeve
from agent.replay.needed_bars import bars_needed_by, lacks_bars, needs_text
from agent.replay.strategy_versions import recorded_strategies
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
        sleeve = args.get("sleeve", "")
        self.engine_of(sleeve)
        self._check_ready("the strategy can't be changed")
        request = self._parse(action, args)
        journalled, strategy = await self._in_thread(
            request.name, partial(self._load, request, self._config_of(sleeve))
        )
        if request.source is not None:
            await self._keep(request.source)
        if sleeve:
            journalled["sleeve"] = sleeve
        if args.get("flatten") == "true":
            journalled["flatten"] = "true"
        return journalled, strategy

    async def prepare_sleeve(self, args: Mapping[str, str]) -> dict[str, str]:
        """Store the source of the strategy that `add-sleeve` with these arguments brings, if it is a single
        file; return the arguments to journal, which state the bars that the strategy needs.

        Raises TapewireError; no sleeve is added then.
        """
        self._check_ready("a sleeve can't be added")
        settings = SleeveConfig.model_validate_json(args["definition"])
        name, _, class_name = settings.strategy.name.partition(":")
        source = None
        if name.endswith(".py"):
            try:
                source = read_strategy_file(Path(name).expanduser().resolve())
            except ConfigError as error:
                _log.warning("the strategy's source is not stored", reason=error.message)
        request = _Request(
            name if source is not None else settings.strategy.name,
            class_name,
            settings.strategy.params,
            source,
        )
        own = sleeve_config(self._config, settings, self._config.account.initial_capital * settings.share)
        journalled, _ = await self._in_thread(settings.strategy.name, partial(self._load, request, own))
        given = dict(args)
        if source is not None:
            await self._keep(source)
            given[SOURCE_SHA256] = journalled["sha256"]
        return given | {"needs": journalled["needs"]}

    def lacks_bars(self, version: Mapping[str, str]) -> bool:
        """Return whether fewer bars are at hand than the strategy of these arguments needs."""
        return lacks_bars(self.engine_of(version.get("sleeve", "")), bars_needed(version))

    async def read_past(self, version: Mapping[str, str]) -> list[PastBars]:
        """Read the bars that the strategy needs from the venue; none if that fails, which is logged."""
        states = self.engine_of(version.get("sleeve", "")).states
        return await self._read({name: one.last_start for name, one in states.items()}, version)

    async def read_history(self, args: Mapping[str, str]) -> list[PastBars]:
        """Read the history for a sleeve that is about to be added, as at a start of the agent; none if that
        fails, which is logged.
        """
        states = self._pipeline.engine.states
        symbols = SleeveConfig.model_validate_json(args["definition"]).symbols or tuple(states)
        known = {symbol: states[symbol].last_start for symbol in symbols}
        return await self._read(known, args, as_at_start=True)

    async def _read(
        self, known: Mapping[str, int], args: Mapping[str, str], *, as_at_start: bool = False
    ) -> list[PastBars]:
        needed = {text: int(bars) for text, bars in bars_needed(args).items()}
        try:
            return await self._market.read_past(needed, known, as_at_start=as_at_start)
        except (VenueError, TimeoutError) as error:
            _log.warning("no history for the strategy", reason=str(error) or "timeout")
            return []

    def engine_of(self, sleeve: str) -> Engine:
        """Return the engine of a sleeve, or of the run's only strategy for "". Raises UsageError if there
        isn't one.
        """
        engine = self._pipeline.engine
        if isinstance(engine, SleevedEngine):
            if not sleeve:
                raise UsageError(
                    "this agent has several strategies: name the sleeve whose strategy is changed",
                    hint=f"--sleeve with one of {', '.join(engine.sleeves)}",
                )
            return present_sleeve(engine, sleeve).engine
        if sleeve or not isinstance(engine, Engine):
            raise UsageError(
                f"this agent has no sleeve {sleeve!r}, but one strategy", hint="leave out --sleeve"
            )
        return engine

    def _config_of(self, sleeve: str) -> Config:
        """Return the configuration of a sleeve's engine; that of the run for ""."""
        engine = self._pipeline.engine
        if not isinstance(engine, SleevedEngine):
            return self._config
        one = engine.sleeves[sleeve]
        return sleeve_config(self._config, one.settings, one.engine.portfolio.initial)

    def _check_ready(self, what: str) -> None:
        storage = self._pipeline.storage
        if self._pipeline.engine.risk.warming_up:
            raise UsageError(f"{what} while history is being read")
        if storage.failing.is_set():
            raise StoreUnavailable(f"the source can't be stored: {storage.status.error}")

    async def _in_thread(
        self, name: str, load: Callable[[], tuple[dict[str, str], Strategy]]
    ) -> tuple[dict[str, str], Strategy]:
        try:
            async with asyncio.timeout(_LONGEST):
                return await asyncio.get_running_loop().run_in_executor(self._threads, load)
        except TimeoutError:
            raise ConfigError(f"strategy {name} was not loaded within {_LONGEST:g} s") from None

    async def _keep(self, source: bytes) -> None:
        """Store a source, and keep a copy that allows it to run on this machine."""
        await self._pipeline.storage.write(partial(self._save, source))
        await asyncio.to_thread(trust_source, self._config.live.folder, source)

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
            current = self._current(args.get("sleeve", ""))
            return current._replace(params=current.params | params)
        name = args.get("strategy", "")
        if not name:
            raise UsageError("use-strategy needs a strategy")
        file, _, class_name = name.partition(":")
        if name in BUILT_IN or not file.endswith(".py"):
            return _Request(name, class_name, params, None)
        path = Path(file).expanduser().resolve()
        return _Request(str(path), class_name, params, read_strategy_file(path))

    def _current(self, sleeve: str) -> _Request:
        """Return what decides now, from its stored source."""
        version = self.engine_of(sleeve).version
        if version:
            name, class_name = version.get("file", version["strategy"]), version["class"]
            sha256, params = version["sha256"], msgspec.json.decode(version["params"], type=dict[str, Any])
        else:
            first, params, recorded = self._first(sleeve)
            name, _, class_name = first.partition(":")
            sha256 = recorded.get(SOURCE_SHA256, "")
            name = (recorded.get(SOURCE_FILE) or name) if name.endswith(".py") else first
        if not name.endswith(".py"):
            return _Request(name, class_name, params, None)
        source = read_source(self._database, sha256)
        if source is None:
            raise ConfigError(
                f"the source of {name} is not in the store, since it is not a single file",
                hint="tapewire strategy use FILE --set NAME=VALUE",
            )
        return _Request(name, class_name, params, source)

    def _first(self, sleeve: str) -> tuple[str, dict[str, Any], Mapping[str, str]]:
        """Return name, parameters and recorded source of the strategy with which a sleeve, or the run,
        began.
        """
        engine, run = self._pipeline.engine, self._pipeline.run
        if not isinstance(engine, SleevedEngine):
            name, recorded = recorded_strategies(run)[""]
            return name, dict(run.params), recorded
        one = engine.sleeves[sleeve]
        strategy, source = one.settings.strategy, one.source
        if source is None:
            _, source = recorded_strategies(run)[sleeve]
        return strategy.name, dict(strategy.params), source

    def _load(self, request: _Request, config: Config) -> tuple[dict[str, str], Strategy]:
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
        needed = self._check(kind, strategy, config)
        file = (
            {"strategy": Path(name).name, "file": name} if request.source is not None else {"strategy": name}
        )
        return {
            **file,  # the decision has the file's name only: its folder is of this machine
            "class": kind.__name__,
            "sha256": sha256,
            "params": msgspec.json.encode(strategy.params.model_dump(mode="json")).decode(),
            "needs": needs_text(needed),
        }, strategy

    @staticmethod
    def _check(kind: type[Strategy], strategy: Strategy, config: Config) -> dict[str, int]:
        """Start two more instances on made-up bars; return the bars that the strategy needs by interval."""
        for_start, for_bars = kind(strategy.params), kind(strategy.params)
        with blaming(for_start):
            Engine(config, for_start, NullSink(), run_id="check", contain_errors=True)
        return bars_needed_by(for_bars, config)

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
    """Store the sources of the strategies with which `run` begins, if they are single files and unchanged.

    Otherwise it is noted in the log: `verify` then needs the files. Raises StoreError.
    """
    for name, recorded in recorded_strategies(run).values():
        if not name.partition(":")[0].endswith(".py") or not recorded.get(SOURCE_SHA256):
            continue
        try:
            source = read_strategy_file(Path(recorded[SOURCE_FILE]))
        except ConfigError as error:
            _log.warning("the strategy's source is not stored", reason=error.message)
            continue
        if sha256_of(source) == recorded[SOURCE_SHA256]:
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
