"""Synchronising with the venue's clock while another source corrects ours."""

from __future__ import annotations

import random
from typing import Any

import pytest

from agent.config.execution import TestnetConfig as Settings
from agent.core.events import DAY_MS
from agent.live.gateway.gateway_health import GatewayHealth
from agent.live.gateway.throttled_client import ThrottledClient
from tests.system.test_clock_discipline import T0, ClockHarness


class Port:
    """Responds after `took` ms; halfway, the market data measure the venue's time as well."""

    def __init__(self, harness: ClockHarness, took: float) -> None:
        self.harness, self.took, self.corrected = harness, took, None

    async def server_time(self) -> int:
        self.harness.time += self.took / 2
        stamp = round(T0 + self.harness.time + self.harness.venue)
        self.harness.measure()
        self.harness.time += self.took / 2
        return stamp

    def correct_clock(self, skew: int) -> None:
        self.corrected = skew


@pytest.mark.parametrize("took", [100.0, 8_000.0])  # the second is too long for a measurement
async def test_a_clock_that_is_corrected_while_the_venue_responds_is_not_refused(took: float) -> None:
    harness = ClockHarness(system=DAY_MS)
    port: Any = Port(harness, took)
    health = GatewayHealth("gateway")
    skew = await ThrottledClient(port, Settings(), harness.clock, health, random.Random(0)).sync_clock()
    assert abs(skew) < 100
    assert port.corrected == skew
