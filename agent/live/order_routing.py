"""Where a live run's orders go: nowhere but into the core on paper, through a gateway in testnet mode."""

from __future__ import annotations

import random
from collections.abc import Callable

from agent.config import Config
from agent.core.errors import ConfigError
from agent.core.events import RiskState
from agent.core.risk import KILL
from agent.core.venue import VenueExchange
from agent.live.emergency_close import EmergencyExit, EmergencyReport, share_of
from agent.live.gateway.venue_gateway import Gateway
from agent.live.gateway.venue_port import VenuePort
from agent.live.kill_file import KillSwitch
from agent.live.kill_guard import KillGuard
from agent.live.pipeline import Core
from agent.system.addresses import is_loopback
from agent.system.clock import Clock

_DATA: dict[str, str] = {"testnet": "testnet", "demo": "mainnet"}
"""Whose prices a venue trades at: demo trading is at the real market's."""


def check_venue(config: Config) -> None:
    """Raises ConfigError where orders would go to another market than the one that the bars are of: prices differ by far."""
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
    """The configured venue; None on paper. Raises ConfigError without keys, SafetyError for keys that others can read."""
    if config.execution.mode == "paper":
        return None
    from agent.live.gateway.bybit_port import open_port  # ccxt takes its time, and paper needs none of it
    from agent.live.gateway.credentials import load_credentials

    settings = config.execution.testnet
    return open_port(settings, config.market.category, load_credentials(settings.key_file), clock)


def open_guard(
    config: Config,
    switch: KillSwitch,
    core: Core,
    clock: Clock,
    done: Callable[[EmergencyReport], None],
) -> KillGuard:
    """The started guard of `switch`; in testnet mode with a port of its own."""
    engine, storage = core.engine, core.storage
    port = venue_port(config, clock)
    way_out = None
    if port is not None:
        way_out = EmergencyExit(config, port, clock, random.Random(), lambda: share_of(engine, config))
    guard = KillGuard(
        switch,
        within=config.live.kill_within / 1000,
        killed=lambda: engine.risk.state is RiskState.HALTED and engine.risk.rule == KILL,
        unable=storage.failing.is_set,
        way_out=way_out,
        done=done,
    )
    guard.start()
    return guard


def open_gateway(config: Config, port: VenuePort, core: Core, clock: Clock, rng: random.Random) -> Gateway:
    """A gateway that looks on from the end of the core's journal on."""
    ledger = core.engine.exchange
    if not isinstance(ledger, VenueExchange):
        raise ConfigError(
            "a venue was given, and execution.mode is paper", hint='write execution.mode = "testnet"'
        )
    gateway = Gateway(config, port, ledger, clock, rng=rng)
    core.observers.append(gateway)
    return gateway
