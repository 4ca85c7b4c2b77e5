"""What a backtest keeps of its sleeves: hourly samples, fills and payments of each, and internal crosses."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import UNSET

from agent.analysis.sleeve_study import InternalTally, SleeveHistory
from agent.config import Config
from agent.core.events import HOUR_MS, Fill, FillKind, FundingPayment
from agent.core.sinks import SleevedSink

_Sample = tuple[int, float, float, float]


class SleeveSampler:
    """Forwards the first sample of each hour and the last of all to `inner`; drops those up to `after`."""

    def __init__(self, inner: SleevedSink, config: Config, *, after: int = 0) -> None:
        self.histories: dict[str, SleeveHistory] = {}
        """By sleeve; empty without sleeves."""
        self.internal = InternalTally(config)
        self._inner = inner
        self._after = after
        self._last: dict[str, _Sample] = {}  # not yet forwarded, by sleeve

    def add(self, move: Fill | FundingPayment) -> bool:
        """Add a fill or payment of a sleeve; return whether it moves the account."""
        if move.sleeve is not UNSET:
            self._history(move.sleeve).add(move)
        if isinstance(move, Fill) and move.kind is FillKind.INTERNAL:
            self.internal.add(move)
            return False
        return True

    def sample(
        self,
        sleeve: str,
        ts: Sequence[int],
        equity: Sequence[float],
        cash: Sequence[float],
        exposure: Sequence[float],
    ) -> None:
        """Receive samples, in order of time (UTC ms)."""
        history = self._history(sleeve)
        hour = history.ts[-1] // HOUR_MS if history.ts else -1
        for sample in zip(ts, equity, cash, exposure, strict=True):
            at = sample[0]
            if at <= self._after:
                continue
            if at // HOUR_MS == hour:
                self._last[sleeve] = sample
                continue
            hour = at // HOUR_MS
            self._last.pop(sleeve, None)
            self._forward(sleeve, sample)

    def close(self) -> None:
        """Forward the last sample of each sleeve, after the engine's end."""
        for sleeve, sample in self._last.items():
            self._forward(sleeve, sample)
        self._last.clear()

    def _forward(self, sleeve: str, sample: _Sample) -> None:
        at, equity, cash, exposure = sample
        self._history(sleeve).extend([at], [equity])
        self._inner.sleeve_equity(sleeve, [at], [equity], [cash], [exposure])

    def _history(self, name: str) -> SleeveHistory:
        return self.histories.setdefault(name, SleeveHistory())
