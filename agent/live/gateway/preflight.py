"""Checks before the first order: clock, trading rules, position mode and leverage."""

from __future__ import annotations

from functools import partial
from typing import Final

import structlog

from agent.config import Config
from agent.core.errors import ConfigError, SafetyError
from agent.core.instruments import Instrument, instrument_for
from agent.live.gateway.throttled_client import ThrottledClient
from agent.live.gateway.venue_port import OrderRejected, VenueRules

_log: Final = structlog.get_logger(__name__)


async def preflight_checks(client: ThrottledClient, config: Config) -> None:
    """Synchronise the clock, compare trading rules, and set one-way mode and leverage.

    Raises ConfigError for symbols or rules that the venue would reject, SafetyError for an account that can't
    be traded.
    """
    port, retry = client.port, client.retry
    await retry(client.sync_clock)
    symbols, leverage = config.market.symbols, config.account.leverage
    rules = await retry(lambda: port.rules(symbols))
    for symbol in symbols:
        check_rules(instrument_for(symbol, config), rules.get(symbol), client.config.venue)
    if config.market.category != "linear":
        return
    for symbol in symbols:
        if await retry(partial(port.position_mode, symbol)) == "hedge":
            _log.warning("the account is in hedge mode: switching to one-way mode", symbol=symbol)
            try:
                await retry(partial(port.use_one_way, symbol))
            except OrderRejected as error:
                raise SafetyError(
                    f"{symbol} is in hedge mode, and the venue won't change it: {error.message}",
                    hint="close its positions and orders, or switch to one-way mode by hand",
                ) from None
        try:
            await retry(partial(port.set_leverage, symbol, leverage))
        except OrderRejected as error:
            raise ConfigError(f"account.leverage {leverage} of {symbol}: {error.message}") from None


def check_rules(ours: Instrument, theirs: VenueRules | None, venue: str) -> None:
    """Raise ConfigError if `ours` allow an order that `theirs` would reject.

    `venue` is named in the error.
    """
    if theirs is None:
        hint = "see market.symbols and market.category"
        raise ConfigError(f"{ours.symbol} is not traded at {venue}", hint=hint)
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
