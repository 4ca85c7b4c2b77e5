"""A strategy that holds a protected position and hangs once a file exists."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

from agent.core.strategy import Kline, Market, Strategy, StrategyParams


class Hanging(Strategy):
    """Opens one long position in each symbol, with a distant stop and take-profit."""

    class Params(StrategyParams):
        trigger: str = ""  # hangs once this file exists
        after: int = 40  # bars, including the history
        how: str = "spin"  # or sleep
        seconds: float = 600.0

    def __init__(self, params: StrategyParams | None = None) -> None:
        super().__init__(params)
        self.bars: Counter[str] = Counter()

    def on_kline(self, kline: Kline, market: Market) -> None:
        given = self.params
        assert isinstance(given, self.Params)
        self.bars[kline.symbol] += 1
        if self.bars[kline.symbol] == given.after:
            self.target(kline.symbol, weight=0.1, stop=-0.4, take_profit=0.4, reason="once")
        if given.trigger and Path(given.trigger).exists():
            until = time.monotonic() + given.seconds
            if given.how == "sleep":
                time.sleep(given.seconds)
            while time.monotonic() < until:
                pass
