"""A change in the middle of a recorded run: an engine that has decided so far goes on with another strategy,
or with another sleeve, as if an operator had changed it at that moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from agent.config import Config
from agent.core.engine import Engine
from agent.core.errors import UsageError, did_you_mean
from agent.core.events import Command, Event, Kline, PastBars
from agent.core.settings import SleeveConfig
from agent.core.sleeve import Sleeve, sleeve_config
from agent.core.sleeves import SleevedEngine
from agent.core.strategy_version import USE_STRATEGY, bars_needed
from agent.core.trading_engine import TradingEngine
from agent.replay.needed_bars import bars_needed_by, lacks_bars, needs_text
from agent.replay.strategy_versions import StrategyVersions, recorded_strategies
from agent.store.runs import Run
from strategies import SOURCE_SHA256, create_strategy, load_strategy, source_of, strategy_class

BY: Final = "whatif"


class MidwayChange:
    """Changes `engine`, which has handled the events `past` of `run`; the time is `now` (UTC ms)."""

    def __init__(
        self,
        engine: TradingEngine,
        config: Config,
        run: Run,
        versions: StrategyVersions,
        past: Iterable[Event],
        now: int,
    ) -> None:
        self._engine = engine
        self._config = config
        self._run = run
        self._versions = versions
        self._past = past
        self._now = now

    def use_strategy(self, name: str, params: Mapping[str, Any], sleeve: str) -> None:
        """Replace the strategy of the run or of one sleeve, as `tapewire strategy use` does.

        Without `name` the parameters of the present one are changed, as by `strategy set`. Raises ConfigError
        for a strategy or parameter that isn't valid, UsageError for a sleeve that isn't there.
        """
        engine, config, first = self._of(sleeve)
        if name:
            kind, values = strategy_class(name), dict(params)
            what = {"strategy": name, "sha256": source_of(name).get(SOURCE_SHA256, "")}
        else:
            kind = type(engine.strategy)
            values = engine.strategy.params.model_dump(mode="json") | dict(params)
            version = engine.version
            what = {key: version[key] for key in ("strategy", "file", "sha256") if key in version} or first
        label = what["strategy"]
        strategy = create_strategy(kind, values, label)
        args = what | {
            "class": kind.__name__,
            "params": msgspec.json.encode(strategy.params.model_dump(mode="json")).decode(),
            "needs": needs_text(bars_needed_by(create_strategy(kind, values, label), config)),
        }
        if sleeve:
            args["sleeve"] = sleeve
        if lacks_bars(engine, bars_needed(args)):
            self._collect_bars({"sleeve": sleeve} if sleeve else {}, engine.states)
        self._versions.prepare(args, strategy)
        self._command(USE_STRATEGY, args)

    def enable(self, settings: SleeveConfig) -> None:
        """Add a sleeve unless it is there, as `tapewire sleeve add` does. Raises UsageError if it can't."""
        engine, name = self._sleeved(), settings.name
        if name in engine.sleeves:
            return
        capital = self._config.account.initial_capital * settings.share
        if name in engine.departed:
            raise UsageError(f"sleeve {name} was removed in run {self._run.id} before this moment")
        if capital > engine.idle:
            raise UsageError(
                f"sleeve {name} has a share of {capital:,.2f}, and {engine.idle:,.2f} are idle at this moment"
            )
        own = sleeve_config(self._config, settings, capital)
        self._versions.check_new(settings.strategy.name)
        needed = bars_needed_by(load_strategy(settings.strategy.name, settings.strategy.params), own)
        self._collect_bars({}, own.market.symbols)
        enabled = settings.model_copy(update={"enabled": True})
        args = {"sleeve": name, "definition": enabled.model_dump_json(), "needs": needs_text(needed)}
        self._command("add-sleeve", args | source_of(settings.strategy.name))

    def disable(self, name: str) -> None:
        """Remove a sleeve if it is there, as `tapewire sleeve remove` does: its positions are closed."""
        sleeve = self._sleeved().sleeves.get(name)
        if sleeve is not None and not sleeve.leaving:
            self._command("remove-sleeve", {"sleeve": name})

    def _of(self, sleeve: str) -> tuple[Engine, Config, dict[str, str]]:
        """Return engine and configuration of a sleeve or the run, and name and hash of its first strategy."""
        engine = self._engine
        if isinstance(engine, Engine):
            name, recorded = recorded_strategies(self._run)[""]
            return engine, self._config, {"strategy": name, "sha256": recorded.get(SOURCE_SHA256, "")}
        one = present(self._sleeved(), sleeve)
        if one.leaving:
            raise UsageError(f"sleeve {sleeve} is being removed at this moment")
        source = one.source
        if source is None:
            _, source = recorded_strategies(self._run).get(sleeve, ("", {}))
        first = {"strategy": one.settings.strategy.name, "sha256": source.get(SOURCE_SHA256, "")}
        return one.engine, sleeve_config(self._config, one.settings, one.engine.portfolio.initial), first

    def _sleeved(self) -> SleevedEngine:
        if not isinstance(self._engine, SleevedEngine):
            raise UsageError(f"run {self._run.id} has one strategy, and no sleeves")
        return self._engine

    def _collect_bars(self, args: dict[str, str], symbols: Iterable[str]) -> None:
        """Let the core keep the run's bars so far for the strategy that is about to be used."""
        self._command("strategy-history", args)
        rows: dict[tuple[str, int], list[tuple[int, float, float, float, float, float]]] = {
            (symbol, self._config.market.interval): [] for symbol in symbols
        }
        wanted = {symbol for symbol, _ in rows}
        for one in self._past:
            if isinstance(one, Kline) and one.confirm and one.symbol in wanted:
                row = (one.start, one.open, one.high, one.low, one.close, one.volume)
                rows.setdefault((one.symbol, one.interval), []).append(row)
        for (symbol, interval), found in rows.items():
            if found:
                self._engine.handle(PastBars(symbol, interval, self._now, self._now, tuple(found)))

    def _command(self, action: str, args: dict[str, str]) -> None:
        self._engine.handle(Command(action, self._now, self._now, args, BY))


def present(engine: SleevedEngine, name: str) -> Sleeve:
    """Return a sleeve. Raises UsageError if it isn't there."""
    if name not in engine.sleeves:
        known = f"its sleeves are {', '.join(engine.sleeves) or 'none'}"
        raise UsageError(
            f"there is no sleeve {name!r} at this moment of the run",
            hint=did_you_mean(name, engine.sleeves, known),
        )
    return engine.sleeves[name]
