"""Trade failures and listings the moment they are reported, and leave when the signal fades."""

from typing import Literal

from pydantic import Field

from tapewire import BUY, Market, Signal, Strategy, StrategyParams


class Params(StrategyParams):
    weight: float = Field(0.3, gt=0, le=1)  # fraction of equity, in each symbol
    confidence: float = Field(0.7, ge=0.5, le=1)  # least confidence of a signal
    stop: float = Field(0.015, gt=0, lt=0.2)
    kinds: Literal["all", "events"] = "all"  # events: failures, regulation and access only
    allow_short: bool = True


class NewsMomentum(Strategy[Params]):
    """Follows confident signals with a stop and a take-profit of three times its distance."""

    def on_signal(self, signal: Signal, market: Market) -> None:
        params, symbol = self.params, signal.symbol
        if not signal.actionable or signal.confidence < params.confidence:
            return
        if params.kinds == "events" and signal.kind not in ("failure", "regulation", "access"):
            return
        side = 1 if signal.direction is BUY else -1
        if side < 0 and not params.allow_short:
            self.target(symbol, weight=0, reason="bearish news")
        elif market.position(symbol) * side <= 0:
            self.target(
                symbol,
                weight=side * params.weight,
                stop=-side * params.stop,
                take_profit=side * 3 * params.stop,
                reason=f"news: {signal.kind or 'unknown kind'}",
            )

    def on_signal_expired(self, signal: Signal, market: Market) -> None:
        self.target(signal.symbol, weight=0, reason="signal expired")
