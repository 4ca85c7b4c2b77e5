"""Trading rules of a live run: the venue's, unless they are configured."""

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

_TIMEOUT: Final = 5.0  # seconds for the venue's response
_MOST_TICKS: Final = 100  # ticks of the venue in a configured tick
_log: Final = structlog.get_logger(__name__)


async def with_venue_rules(config: Config, port: VenuePort | None, database: Database) -> Config:
    """Return the configuration with tick, lot and minima of every traded symbol.

    Rules that the configuration leaves open come from the venue, else from the shipped table, else from the
    last live run of the symbol. Raises ConfigError for a symbol without known rules.
    """
    if config.market.category == "equity":
        return config
    instruments = dict(config.instruments)
    symbols = config.market.symbols
    fetched = await asyncio.gather(*(_fetch(config, port, symbol) for symbol in symbols))
    for symbol, venue_rules in zip(symbols, fetched, strict=True):
        given = config.instruments.get(symbol) or InstrumentConfig()
        rules: Instrument | VenueRules | InstrumentConfig = instrument_for(symbol, config)
        if venue_rules is not None:
            _check_tick(symbol, given, venue_rules)
            rules = venue_rules
        elif given.tick_size is None and (config.market.category, symbol) not in SHIPPED:
            rules = _recorded(config, database, symbol)
        instruments[symbol] = given.model_copy(
            update={name: getattr(rules, name) for name in RULES if getattr(given, name) is None}
        )
    return config.model_copy(update={"instruments": instruments})


def _check_tick(symbol: str, given: InstrumentConfig, venue_rules: VenueRules) -> None:
    """Raise ConfigError for an implausible tick.

    It must be a multiple of the venue's and not much coarser, or it would distort prices.
    """
    tick = given.tick_size
    if tick is not None and (tick % venue_rules.tick_size or tick > _MOST_TICKS * venue_rules.tick_size):
        raise ConfigError(
            f"instruments.{symbol}.tick_size is {tick}, but the venue's is {venue_rules.tick_size}",
            hint=f'leave it out, or write tick_size = "{venue_rules.tick_size:f}"',
        )


async def _fetch(config: Config, port: VenuePort | None, symbol: str) -> VenueRules | None:
    try:
        if port is not None:
            return (await port.rules([symbol])).get(symbol)
        base = endpoint(config.bybit.endpoint).rest
        return (await fetch_rules(base, config.market.category, symbol, within=_TIMEOUT)).get(symbol)
    except TapewireError as error:
        _log.warning("the venue returned no trading rules", symbol=symbol, reason=error.message)
        return None


def _recorded(config: Config, database: Database, symbol: str) -> InstrumentConfig:
    """Return the rules that the last live run of the symbol recorded."""
    for run in list_runs(database):
        recorded = run.config.get("instruments", {}).get(symbol)
        if (
            run.kind is RunKind.LIVE
            and recorded
            and run.config["market"]["category"] == config.market.category
        ):
            _log.warning("using the trading rules of an earlier run", symbol=symbol, run=run.id)
            return InstrumentConfig.model_validate(recorded)
    raise ConfigError(
        f"the tick and lot of {symbol} are unknown: neither the venue nor the shipped table has them",
        hint=f"start again when {config.bybit.endpoint} responds, "
        f"or set instruments.{symbol}.tick_size and qty_step",
    )
