"""Routes a live run's orders: to a venue through a gateway in testnet mode; paper orders stay in the core."""

from __future__ import annotations

import random
from collections.abc import Callable

from agent.config import Config
from agent.core.errors import ConfigError
from agent.core.events import RiskState
from agent.core.risk import KILL
from agent.core.sleeves import venue_of
from agent.live.emergency_close import EmergencyExit, EmergencyReport, share_of
from agent.live.gateway.venue_gateway import VenueGateway
from agent.live.gateway.venue_port import VenuePort
from agent.live.kill_file import KillSwitch
from agent.live.kill_guard import KillGuard
from agent.live.pipeline import Pipeline
from agent.system.addresses import is_loopback
from agent.system.clock import Clock

_DATA: dict[str, str] = {"testnet": "testnet", "demo": "mainnet"}
"""The market whose prices a venue has: demo trading is at real prices."""


def check_venue(config: Config) -> None:
    """Raise ConfigError if bars and orders are of different markets, since their prices differ by far."""
    if config.execution.mode == "paper":
        return
    venue, data = config.execution.testnet.venue, config.bybit.endpoint
    fits = is_loopback(data) if is_loopback(venue) else data == _DATA[venue]
    if not fits:
        wanted = venue if is_loopback(venue) else _DATA[venue]
        raise ConfigError(
            f"orders go to {venue}, and market data come from {data}: their prices are not the same",
            hint=f'write bybit.endpoint = "{wanted}"',
        )


def venue_port(config: Config, clock: Clock) -> VenuePort | None:
    """Return a port to the configured venue; None in paper mode.

    Raises ConfigError without keys, SafetyError if other users can read them.
    """
    if config.execution.mode == "paper":
        return None
    from agent.live.gateway.bybit_port import (
        open_port,
    )  # ccxt is slow to import, and paper mode does not need it
    from agent.live.gateway.credentials import load_credentials

    settings = config.execution.testnet
    return open_port(settings, config.market.category, load_credentials(settings.key_file), clock)


def open_guard(
    config: Config,
    switch: KillSwitch,
    pipeline: Pipeline,
    clock: Clock,
    done: Callable[[EmergencyReport], None],
) -> KillGuard:
    """Start the guard of `switch`; in testnet mode it has a port of its own."""
    engine, storage = pipeline.engine, pipeline.storage
    port = venue_port(config, clock)
    emergency_exit = None
    if port is not None:
        emergency_exit = EmergencyExit(config, port, clock, random.Random(), lambda: share_of(engine, config))
    guard = KillGuard(
        switch,
        within=config.live.kill_within / 1000,
        is_killed=lambda: engine.risk.state is RiskState.HALTED and engine.risk.rule == KILL,
        is_store_failing=storage.failing.is_set,
        emergency_exit=emergency_exit,
        done=done,
    )
    guard.start()
    return guard


def open_gateway(
    config: Config, port: VenuePort, pipeline: Pipeline, clock: Clock, rng: random.Random
) -> VenueGateway:
    """Return a gateway that knows what the core has rebuilt from its journal, and observes it from now on."""
    exchange = venue_of(pipeline.engine)
    if exchange is None:
        hint = 'write execution.mode = "testnet"'
        raise ConfigError("a venue was given, and execution.mode is paper", hint=hint)
    gateway = VenueGateway(config, port, exchange.open_state(), exchange.account_state, clock, rng=rng)
    pipeline.observers.append(gateway)
    return gateway
