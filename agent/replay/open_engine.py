"""Makes the engine of a run: of one strategy, or of several in one account (`[[sleeves]]`)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from agent.config import Config
from agent.core.engine import EQUITY_BLOCK, Engine
from agent.core.errors import ConfigError
from agent.core.fusion_inputs import Predictor
from agent.core.sinks import SleevedSink
from agent.core.sleeves import SleevedEngine, engines_of
from agent.core.strategy import Strategy
from agent.core.strategy_version import no_loader
from agent.core.trading_engine import TradingEngine
from agent.replay.strategy_versions import StrategyVersions
from agent.store.runs import Run, RunKind
from strategies import blaming, check_source, load_strategy, source_of


def open_engine(
    config: Config,
    sink: SleevedSink,
    *,
    run_id: str,
    strategy: Strategy | None = None,
    versions: StrategyVersions | None = None,
    params: Mapping[str, Any] | None = None,
    predictor: Predictor | None = None,
    live: bool = False,
    trusted: bool = False,
) -> TradingEngine:
    """Return a fresh engine.

    Args:
        config: of the run.
        sink: receives the decisions.
        run_id: part of the client order ids.
        strategy: in place of the configured one, without sleeves.
        versions: strategies of a recorded run: the first ones, and those that commands use.
        params: of the strategies by sleeve, in place of the configured ones.
        predictor: the fusion model.
        live: the decisions are a live run's: errors of strategies are contained, and the equity is sampled
            after each bar.
        trusted: without `versions`: the strategies of added sleeves are imported even if their files have
            changed.

    Raises ConfigError, StrategyError, and what the strategy's `on_start` raises.
    """
    block = 1 if live else EQUITY_BLOCK
    if config.sleeves:
        check_sleeved(config)
        load = _load_trusted if trusted else load_checked
        return SleevedEngine(
            _with_params(config, params_of(config) if params is None else params),
            load if versions is None else versions.for_sleeve,
            sink,
            run_id=run_id,
            predictor=predictor,
            equity_block=block,
            loader=no_loader if versions is None else versions,
            account=config.execution.account(),
        )
    if strategy is None:
        if versions is None:
            strategy = load_strategy(config.strategy.name, config.strategy.params)
        else:
            strategy = versions.first()
    with blaming(strategy):
        return Engine(
            config,
            strategy,
            sink,
            run_id=run_id,
            exchange=config.execution.exchange(),
            predictor=predictor,
            equity_block=block,
            contain_errors=live,
            loader=no_loader if versions is None else versions,
        )


def _with_params(config: Config, params: Mapping[str, Any]) -> Config:
    """Return the configuration with the parameters of the sleeves' strategies, including defaults.

    A state has them, so that of a live run equals that of its verification.
    """
    sleeves = [
        one.model_copy(update={"strategy": one.strategy.model_copy(update={"params": params[one.name]})})
        if one.name in params
        else one
        for one in config.sleeves
    ]
    return config.model_copy(update={"sleeves": tuple(sleeves)})


def _load_trusted(name: str, params: Mapping[str, Any], _: Mapping[str, str] | None) -> Strategy:
    """Load a strategy without a check of its source."""
    return load_strategy(name, params)


def load_checked(name: str, params: Mapping[str, Any], source: Mapping[str, str] | None) -> Strategy:
    """Load a strategy; see `LoadStrategy`. Raises SafetyError if it is not the recorded `source`."""
    if source is not None:
        check_source(name, source)
    return load_strategy(name, params)


def reopen_engine(
    config: Config,
    sink: SleevedSink,
    run: Run,
    versions: StrategyVersions,
    *,
    predictor: Predictor | None = None,
) -> TradingEngine:
    """Return a fresh engine with the strategies of a recorded run; see `open_engine`.

    Raises SafetyError if one is not imported, because it is not the one of the run.
    """
    return open_engine(
        config,
        sink,
        run_id=run.id,
        versions=versions,
        params=run.params,
        predictor=predictor,
        live=run.kind is RunKind.LIVE,
    )


def check_sleeved(config: Config) -> None:
    """Raise ConfigError if the sleeves of a configuration can't be traded."""
    if config.execution.mode != "paper" and config.execution.testnet.foreign == "adopt":
        raise ConfigError(
            'execution.testnet.foreign is "adopt", and adopted positions would be of none of the [[sleeves]]',
            hint='write foreign = "refuse" or "ignore", or one [strategy] in place of the sleeves',
        )


def blaming_any(engine: TradingEngine) -> AbstractContextManager[None]:
    """Convert errors of the strategy's own code; see `blaming`. Sleeves contain those of theirs."""
    engines = engines_of(engine)
    return blaming(engines[""].strategy) if "" in engines else nullcontext()


def name_of(config: Config) -> str:
    """Return the name for `Run.strategy`: that of the strategy, or `sleeve: strategy` of each sleeve."""
    if not config.sleeves:
        return config.strategy.name
    return ", ".join(f"{sleeve}: {one.name}" for sleeve, one in config.strategies().items())


def params_of(config: Config, strategy: Strategy | None = None) -> dict[str, Any]:
    """Return the parameters for `Run.params`, including defaults: the strategy's, or those by sleeve.

    Raises ConfigError for a strategy or parameter that is not valid.
    """
    if strategy is not None:
        params: dict[str, Any] = strategy.params.model_dump(mode="json")
        return params
    loaded: dict[str, dict[str, Any]] = {
        sleeve: load_strategy(one.name, one.params).params.model_dump(mode="json")
        for sleeve, one in config.strategies().items()
    }
    return loaded if config.sleeves else loaded[""]


def sources_of(config: Config) -> dict[str, str]:
    """Return path and SHA-256 of the strategies' sources, for `Run.versions`; see `source_of`."""
    found: dict[str, str] = {}
    for sleeve, one in config.strategies().items():
        suffix = f":{sleeve}" if sleeve else ""
        found |= {f"{key}{suffix}": value for key, value in source_of(one.name).items()}
    return found
