"""Commands for the sleeves of a running agent, checked before they are journalled; the sleeves' status."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from pydantic import ValidationError

from agent.config import Config
from agent.core.errors import ConfigError, SafetyError, UsageError, did_you_mean
from agent.core.settings import SleeveConfig
from agent.core.sleeve import Sleeve
from agent.core.sleeves import SleevedEngine
from agent.core.strategy_version import label_of
from agent.core.trading_engine import TradingEngine
from agent.live.interfaces.status import SleeveStatus
from strategies import load_strategy, source_of

ADD: Final = "add-sleeve"
REMOVE: Final = "remove-sleeve"
_FOR_ONE: Final = ("pause", "resume", "halt", "flatten", REMOVE)
_NEWS: Final = ("on_news", "on_sentiment", "on_signal", "on_signal_expired")


def checked_args(
    engine: TradingEngine, config: Config, action: str, args: Mapping[str, str], *, reads_news: bool
) -> dict[str, str]:
    """Return the arguments to journal of a command.

    One that names no sleeve is returned as it is. `reads_news` states that the agent reads headlines. Raises
    UsageError or ConfigError if a sleeve can't be added, isn't there or doesn't trade the symbol to close,
    and SafetyError for a resume while the account is halted.
    """
    if "sleeve" not in args and action not in (ADD, REMOVE):
        return dict(args)
    if not isinstance(engine, SleevedEngine):
        raise UsageError(
            "this agent has one strategy, and no sleeves", hint="[[sleeves]] in the configuration define some"
        )
    name = args.get("sleeve", "")
    if action == ADD:
        return _definition(engine, config, name, args, reads_news=reads_news)
    if action not in _FOR_ONE:
        raise UsageError(f"{action} concerns the whole account, not one sleeve")
    own = tuple(present_sleeve(engine, name).engine.states)
    if action == "flatten" and args.get("symbol", own[0]) not in own:
        hint = did_you_mean(args["symbol"], own, f"its symbols are {', '.join(own)}")
        raise UsageError(f"sleeve {name} doesn't trade {args['symbol']}", hint=hint)
    if action == "resume" and engine.risk.halted:
        raise SafetyError(
            f"the account is HALTED by {engine.risk.rule}, so sleeve {name} can't be resumed",
            hint="tapewire resume resumes the account and all sleeves",
        )
    return dict(args)


def present_sleeve(engine: SleevedEngine, name: str) -> Sleeve:
    """Return a sleeve. Raises UsageError if it doesn't exist, or if it is being removed."""
    if name not in engine.sleeves:
        known = f"its sleeves are {', '.join(engine.sleeves) or 'none'}"
        raise UsageError(f"the agent has no sleeve {name!r}", hint=did_you_mean(name, engine.sleeves, known))
    if engine.sleeves[name].leaving:
        raise UsageError(f"sleeve {name} is being removed")
    return engine.sleeves[name]


def _definition(
    engine: SleevedEngine, config: Config, name: str, args: Mapping[str, str], *, reads_news: bool
) -> dict[str, str]:
    """Return the arguments of `add-sleeve`: the sleeve's name, its definition, and its strategy's source."""
    if name in engine.sleeves:
        raise UsageError(f"the agent has a sleeve {name!r} already")
    if name in engine.departed:
        raise UsageError(f"a sleeve {name!r} was removed in this run", hint="choose another name")
    defined = next((one for one in config.sleeves if one.name == name), None)
    if args.get("strategy"):
        settings = _parse(name, args)
    elif defined is not None:
        settings = defined
    else:
        off = [one.name for one in config.sleeves if not one.enabled]
        hint = f"or name one of the configuration that is not enabled: {', '.join(off)}" if off else ""
        raise UsageError(f"sleeve {name!r} needs a strategy and a share", hint=hint)
    for symbol in settings.symbols:
        if symbol not in config.market.symbols:
            hint = f"market.symbols are {', '.join(config.market.symbols)}"
            raise UsageError(f"sleeve {name}: {symbol} is not traded", hint=hint)
    strategy = load_strategy(settings.strategy.name, settings.strategy.params)
    if strategy.overrides(*_NEWS) and not reads_news:
        raise UsageError(f"strategy {settings.strategy.name} reads headlines, and this agent reads none")
    if strategy.overrides("on_prediction") and not config.fusion.path:
        raise UsageError(f"strategy {settings.strategy.name} trades on predictions, and there is no model")
    capital = engine.capital * settings.share
    if capital > engine.idle:
        raise UsageError(
            f"a share of {settings.share} is {capital:,.2f} {config.account.currency}, and "
            f"{engine.idle:,.2f} are idle",
            hint="a smaller share, or remove another sleeve before",
        )
    params = strategy.params.model_dump(mode="json")
    settings = settings.model_copy(
        update={"strategy": settings.strategy.model_copy(update={"params": params}), "enabled": True}
    )
    return {
        "sleeve": name,
        "definition": settings.model_dump_json(),
        **source_of(settings.strategy.name),
    }


def _parse(name: str, args: Mapping[str, str]) -> SleeveConfig:
    """Return the sleeve that the arguments `strategy`, `params`, `share`, `symbols` and `risk` define."""
    try:
        return SleeveConfig.model_validate(
            {
                "name": name,
                "strategy": {"name": args["strategy"], "params": json.loads(args.get("params", "{}"))},
                "share": args.get("share", ""),
                "symbols": [one for one in args.get("symbols", "").split(",") if one],
                "risk": json.loads(args.get("risk", "{}")),
            }
        )
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, one['loc']))}: {one['msg'].removeprefix('Value error, ')}"
            for one in error.errors()
        ]
        raise ConfigError(f"sleeve {name}: {'; '.join(problems)}") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise UsageError(f"sleeve {name}: params and risk are JSON objects: {error}") from None


def result_of(engine: TradingEngine, action: str, name: str) -> dict[str, Any]:
    """Return what the reply to a command for a sleeve adds. Raises ConfigError if it was not added."""
    if not isinstance(engine, SleevedEngine):
        return {}
    sleeve = engine.sleeves.get(name)
    if sleeve is None:
        if action == ADD:
            raise ConfigError(f"sleeve {name} was not added", hint="tapewire status shows why")
        return {"sleeve": name, "state": "removed"}
    state = "leaving" if sleeve.leaving else sleeve.engine.risk.state.value
    found: dict[str, Any] = {"sleeve": name, "state": state}
    if action == ADD:
        found["short"] = sleeve.engine.short_histories(sleeve.needs)
    return found


def sleeve_strategy(sleeve: Sleeve) -> str:
    """Return a short name of the strategy that decides in a sleeve."""
    version = sleeve.engine.version
    return label_of(version["strategy"], version["class"]) if version else sleeve.settings.strategy.name


def sleeve_statuses(engine: TradingEngine) -> list[SleeveStatus]:
    """Return the status of each sleeve; empty without sleeves."""
    if not isinstance(engine, SleevedEngine):
        return []
    found = []
    for name, sleeve in engine.sleeves.items():
        own, risk, portfolio = sleeve.engine, sleeve.engine.risk, sleeve.engine.portfolio
        found.append(
            SleeveStatus(
                name=name,
                strategy=sleeve_strategy(sleeve),
                symbols=tuple(own.states),
                capital=portfolio.initial,
                equity=portfolio.equity(),
                cash=portfolio.cash_float,
                exposure=portfolio.gross_notional(),
                positions={one.symbol: one.qty for one in portfolio.open},
                open_orders=sum(len(state.book) for state in own.states.values()),
                risk=risk.state,
                risk_rule=risk.rule,
                risk_detail=risk.detail,
                risk_since=risk.since,
                leaving=sleeve.leaving,
                flattening=own.flattener.open,
            )
        )
    return found


def unassigned_of(engine: TradingEngine) -> dict[str, Decimal]:
    """Return the positions that no sleeve has, by symbol; empty without sleeves."""
    if not isinstance(engine, SleevedEngine):
        return {}
    return {one.symbol: one.qty for one in engine.unassigned.open}
