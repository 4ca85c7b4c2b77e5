"""Before the first order: the venue's rules are ours, its clock is right, a symbol has one position, and the leverage is set."""

from __future__ import annotations

from typing import Final

import structlog

from agent.config import Config
from agent.core.errors import ConfigError, SafetyError
from agent.core.instruments import Instrument, instrument_for
from agent.live.gateway.throttled_client import ThrottledClient
from agent.live.gateway.venue_port import OrderRejected, VenueRules

_log: Final = structlog.get_logger(__name__)


async def prepare(line: ThrottledClient, config: Config) -> None:
    """Raises ConfigError for symbols and rules that the venue would not take, SafetyError for an account that can't be traded."""
    await line.ask(line.measure)
    symbols = config.market.symbols
    rules = await line.ask(lambda: line.port.rules(symbols))
    for symbol in symbols:
        check_rules(instrument_for(symbol, config), rules.get(symbol), line.config.venue)
    if config.market.category != "linear":
        return
    for symbol in symbols:
        if await line.ask(lambda symbol=symbol: line.port.position_mode(symbol)) == "hedge":  # type: ignore[misc]
            _log.warning(
                "the account has a long and a short position in a symbol: asking for one", symbol=symbol
            )
            try:
                await line.ask(lambda symbol=symbol: line.port.use_one_way(symbol))  # type: ignore[misc]
            except OrderRejected as error:
                raise SafetyError(
                    f"{symbol} is in hedge mode, and the venue won't change it: {error.message}",
                    hint="close its positions and orders, or switch to one-way mode by hand",
                ) from None
        try:
            await line.ask(lambda symbol=symbol: line.port.set_leverage(symbol, config.account.leverage))  # type: ignore[misc]
        except OrderRejected as error:
            raise ConfigError(
                f"account.leverage {config.account.leverage} of {symbol}: {error.message}"
            ) from None


def check_rules(ours: Instrument, theirs: VenueRules | None, venue: str) -> None:
    """Whether each order that our rules allow is one by the venue's, too. Raises ConfigError."""
    if theirs is None:
        raise ConfigError(
            f"{ours.symbol} is not traded at {venue}", hint="see market.symbols and market.category"
        )
    for name in ("tick_size", "qty_step"):
        mine, needed = getattr(ours, name), getattr(theirs, name)
        if mine % needed:
            raise ConfigError(
                f"instruments.{ours.symbol}.{name} is {mine}, and {venue} trades in multiples of {needed}",
                hint=f'write {name} = "{needed}"',
            )
    for name in ("min_qty", "min_notional"):
        mine, needed = getattr(ours, name), getattr(theirs, name)
        if mine < needed:
            raise ConfigError(
                f"instruments.{ours.symbol}.{name} is {mine}, and {venue} takes nothing below {needed}",
                hint=f'write {name} = "{needed}"',
            )
