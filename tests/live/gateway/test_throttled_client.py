"""Synchronising with the venue's clock while another source corrects ours."""

from __future__ import annotations

import random
from typing import Any

import pytest

from agent.config.execution import TestnetConfig as Settings
from agent.core.events import DAY_MS
from agent.live.gateway.gateway_health import GatewayHealth
from agent.live.gateway.throttled_client import ThrottledClient
from tests.system.test_clock_discipline import T0, World


class Port:
    """Responds after `took` ms; halfway, the market data measure the venue's time as well."""

    def __init__(self, world: World, took: float) -> None:
        self.world, self.took, self.corrected = world, took, None

    async def server_time(self) -> int:
        self.world.time += self.took / 2
        stamp = round(T0 + self.world.time + self.world.venue)
        self.world.measure()
        self.world.time += self.took / 2
        return stamp

    def correct_clock(self, skew: int) -> None:
        self.corrected = skew


@pytest.mark.parametrize("took", [100.0, 8_000.0])  # the second is too long for a measurement
async def test_a_clock_that_is_corrected_while_the_venue_responds_is_not_refused(took: float) -> None:
    world = World(system=DAY_MS)
    port: Any = Port(world, took)
    health = GatewayHealth("gateway")
    skew = await ThrottledClient(port, Settings(), world.clock, health, random.Random(0)).sync_clock()
    assert abs(skew) < 100
    assert port.corrected == skew
