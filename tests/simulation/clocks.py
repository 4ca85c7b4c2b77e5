"""The machine's clocks: steps of the system clock, drift of monotonic time, suspensions."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Final, Never

from agent.core.events import DAY_MS, HOUR_MS, MINUTE_MS
from agent.system.clock_discipline import TOLERANCE, DisciplinedClock
from tests.simulation.fault_rates import FaultRates
from tests.simulation.simulated_market import SimulatedMarket
from tests.simulation.virtual_loop import VirtualLoop

_EVERY: Final = 150.0  # mean seconds between two events
_PPM: Final = 400e-6  # the fastest drift
_STEPS: Final = (1_000, 20_000, 5 * MINUTE_MS, HOUR_MS, 26 * HOUR_MS, 9 * DAY_MS)


class Clocks:
    """Clocks of one machine. `now` is the system clock, wrong by `skew` ms; each life of the agent
    disciplines it anew.
    """

    def __init__(
        self,
        loop: VirtualLoop,
        rng: random.Random,
        rates: FaultRates,
        market: SimulatedMarket,
        log: Callable[[str], None],
    ) -> None:
        self.skew = 0
        self._loop = loop
        self._rng = rng
        self._rates = rates
        self._market = market
        self._log = log
        self._rate = 1 + _PPM * rates.clock_drift * rng.choice((-1, 1))
        self._lost = 0.0
        self._lost_before = 0.0

    def now(self) -> int:
        """Return the system clock (UTC ms)."""
        return self._market.now() + self.skew

    def steady(self) -> float:
        """Return monotonic seconds. Some systems do not count suspensions."""
        return self._loop.time() * self._rate - self._lost

    def new_disciplined_clock(self) -> DisciplinedClock:
        """Return the clock of a new life of the agent."""
        self._lost_before = self._lost
        return DisciplinedClock(self, self.steady)

    @property
    def missed_time(self) -> bool:
        """Whether monotonic time missed a part of this life. Then no two time sources agree while the
        system clock is wrong.
        """
        return self._lost > self._lost_before

    @property
    def expected_trouble(self) -> set[str]:
        """The troubles that an agent may report after it has had time to check."""
        if abs(self.skew) > 2 * TOLERANCE:
            return {"system"}
        return {""} if abs(self.skew) < TOLERANCE / 3 else {"", "system"}

    async def disturb(self) -> Never:
        """Step the clock or suspend the machine now and then."""
        rng, rates = self._rng, self._rates
        while True:
            await asyncio.sleep(rng.expovariate(1 / _EVERY))
            if rng.random() < rates.clock_step:
                self.set_skew(rng.choice((0, 0, *(round(step * rng.uniform(-1, 1)) for step in _STEPS))))
            if rng.random() < rates.suspend * 0.5:
                seconds = rng.uniform(5, 240)
                counted = rng.random() < 0.5
                self._log(f"suspended for {seconds:.1f} s, {'' if counted else 'not '}counted")
                self._loop.suspend(seconds)
                self._lost += 0.0 if counted else seconds

    def set_skew(self, skew: int) -> None:
        """Step the system clock."""
        self._log(f"the system clock is wrong by {skew} ms")
        self.skew = skew
