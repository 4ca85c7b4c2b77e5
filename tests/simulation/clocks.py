"""The machine's clocks, and what becomes of them: steps of the system clock, drift of steady time, suspensions."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Final, Never

from agent.core.events import DAY_MS, HOUR_MS, MINUTE_MS
from agent.system.clock_discipline import TOLERANCE, DisciplinedClock
from tests.simulation.loop import VirtualLoop
from tests.simulation.market import Market
from tests.simulation.weather import Weather

_EVERY: Final = 150.0  # seconds between two events, about
_PPM: Final = 400e-6  # the fastest drift
_STEPS: Final = (1_000, 20_000, 5 * MINUTE_MS, HOUR_MS, 26 * HOUR_MS, 9 * DAY_MS)


class Clocks:
    """One machine: `now` is its system clock, wrong by `skew` ms. Each life of the agent disciplines it anew."""

    def __init__(
        self,
        loop: VirtualLoop,
        dice: random.Random,
        weather: Weather,
        market: Market,
        say: Callable[[str], None],
    ) -> None:
        self.skew = 0
        self._loop = loop
        self._dice = dice
        self._weather = weather
        self._market = market
        self._say = say
        self._rate = 1 + _PPM * weather.clock_drift * dice.choice((-1, 1))
        self._lost = 0.0
        self._lost_before = 0.0

    def now(self) -> int:
        """The system clock, UTC ms."""
        return self._market.now() + self.skew

    def steady(self) -> float:
        """Seconds of steady time; some systems do not count suspensions."""
        return self._loop.time() * self._rate - self._lost

    def disciplined(self) -> DisciplinedClock:
        """What a life of the agent makes of them."""
        self._lost_before = self._lost
        return DisciplinedClock(self, self.steady)

    @property
    def stood_still(self) -> bool:
        """Whether steady time has missed a part of this life: then a wrong system clock leaves no two sources that agree."""
        return self._lost > self._lost_before

    @property
    def expected(self) -> set[str]:
        """What an agent that has had time to look may find wrong about them."""
        if abs(self.skew) > 2 * TOLERANCE:
            return {"system"}
        return {""} if abs(self.skew) < TOLERANCE / 3 else {"", "system"}

    async def turn(self) -> Never:
        """Something happens now and then."""
        dice, weather = self._dice, self._weather
        while True:
            await asyncio.sleep(dice.expovariate(1 / _EVERY))
            if dice.random() < weather.clock_step:
                self.set(dice.choice((0, 0, *(round(step * dice.uniform(-1, 1)) for step in _STEPS))))
            if dice.random() < weather.suspend * 0.5:
                seconds = dice.uniform(5, 240)
                counted = dice.random() < 0.5
                self._say(f"suspended for {seconds:.1f} s, {'' if counted else 'not '}counted")
                self._loop.suspend(seconds)
                self._lost += 0.0 if counted else seconds

    def set(self, skew: int) -> None:
        """Step the system clock."""
        self._say(f"the system clock is wrong by {skew} ms")
        self.skew = skew
