"""The trading rules of a live run: the venue's own, as far as the configuration leaves them open."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from agent.config import Config, InstrumentConfig
from agent.config.bybit import endpoint
from agent.core.errors import ConfigError, TapewireError
from agent.core.instruments import RULES, SHIPPED, Instrument, instrument_for
from agent.live.gateway.instrument_rules import fetch_rules
from agent.live.gateway.venue_port import VenuePort, VenueRules
from agent.store.database import Database
from agent.store.queries import list_runs
from agent.store.runs import RunKind

_WITHIN: Final = 5.0  # seconds within which the venue has to respond
_MOST_TICKS: Final = 100  # of the venue, in a configured tick
_log: Final = structlog.get_logger(__name__)


async def with_venue_rules(config: Config, port: VenuePort | None, database: Database) -> Config:
    """The configuration with tick, lot and minima of every traded symbol: the venue's, if the configuration leaves them open.

    If the venue returns none, the shipped table applies, else what the last live run of the symbol recorded. Raises ConfigError
    for a symbol without known rules.
    """
    if config.market.category == "equity":
        return config
    instruments = dict(config.instruments)
    symbols = config.market.symbols
    answers = await asyncio.gather(*(_ask(config, port, symbol) for symbol in symbols))
    for symbol, theirs in zip(symbols, answers, strict=True):
        given = config.instruments.get(symbol) or InstrumentConfig()
        ours: Instrument | VenueRules | InstrumentConfig = instrument_for(symbol, config)
        if theirs is not None:
            _check_tick(symbol, given, theirs)
            ours = theirs
        elif given.tick_size is None and (config.market.category, symbol) not in SHIPPED:
            ours = _recorded(config, database, symbol)
        instruments[symbol] = given.model_copy(
            update={name: getattr(ours, name) for name in RULES if getattr(given, name) is None}
        )
    return config.model_copy(update={"instruments": instruments})


def _check_tick(symbol: str, given: InstrumentConfig, theirs: VenueRules) -> None:
    """Raises ConfigError if the configured tick can't be meant: prices would be rounded by more than a few of the venue's ticks."""
    tick = given.tick_size
    if tick is not None and (tick % theirs.tick_size or tick > _MOST_TICKS * theirs.tick_size):
        raise ConfigError(
            f"instruments.{symbol}.tick_size is {tick}, and the venue's is {theirs.tick_size}",
            hint=f'leave it out, or write tick_size = "{theirs.tick_size:f}"',
        )


async def _ask(config: Config, port: VenuePort | None, symbol: str) -> VenueRules | None:
    try:
        if port is not None:
            return (await port.rules([symbol])).get(symbol)
        base = endpoint(config.bybit.endpoint).rest
        return (await fetch_rules(base, config.market.category, symbol, within=_WITHIN)).get(symbol)
    except TapewireError as error:
        _log.warning("the venue gives no trading rules", symbol=symbol, reason=error.message)
        return None


def _recorded(config: Config, database: Database, symbol: str) -> InstrumentConfig:
    """The rules that the last live run of the symbol recorded."""
    for run in list_runs(database):
        recorded = run.config.get("instruments", {}).get(symbol)
        if (
            run.kind is RunKind.LIVE
            and recorded
            and run.config["market"]["category"] == config.market.category
        ):
            _log.warning("trading rules are those of an earlier run", symbol=symbol, run=run.id)
            return InstrumentConfig.model_validate(recorded)
    raise ConfigError(
        f"the tick and lot of {symbol} are not known: the venue gives none, and no table has it",
        hint=f"start again when {config.bybit.endpoint} answers, or write instruments.{symbol}.tick_size and qty_step",
    )
