"""Fee, slippage, liquidity and limit-fill models of the paper exchange, chosen in the `[paper]` section.

They are classes rather than protocols because compiled code calls methods of classes directly.
"""

from __future__ import annotations

from decimal import Decimal
from math import inf, sqrt
from typing import Final

from agent.core.events import Kline, Side
from agent.core.instruments import Instrument
from agent.core.settings import PaperConfig

_BPS: Final = 1e-4
_BUY: Final = Side.BUY


class FeeModel:
    """Fee of an execution."""

    def fee(self, instrument: Instrument, qty: Decimal, price: Decimal, *, maker: bool) -> Decimal:
        """Return the fee in quote currency; a rebate is negative."""
        raise NotImplementedError


class MakerTakerFees(FeeModel):
    """A fraction of the notional, with separate rates for makers and takers."""

    def fee(self, instrument: Instrument, qty: Decimal, price: Decimal, *, maker: bool) -> Decimal:
        return qty * price * (instrument.maker_fee if maker else instrument.taker_fee)


class PerShareFees(FeeModel):
    """A fixed amount per share, as equity brokers charge."""

    def __init__(self, per_share: Decimal) -> None:
        self._per_share = per_share

    def fee(self, instrument: Instrument, qty: Decimal, price: Decimal, *, maker: bool) -> Decimal:
        return qty * self._per_share


class NoFees(FeeModel):
    """No fees."""

    def fee(self, instrument: Instrument, qty: Decimal, price: Decimal, *, maker: bool) -> Decimal:
        return Decimal(0)


class SlippageModel:
    """Price impact of a taker order, beyond the spread."""

    def offset(self, kline: Kline, price: float, qty: float) -> float:
        """Return the impact in quote currency per unit, at least 0."""
        raise NotImplementedError


class NoSlippage(SlippageModel):
    """No impact, as in an infinitely deep order book."""

    def offset(self, kline: Kline, price: float, qty: float) -> float:
        return 0.0


class FixedSlippage(SlippageModel):
    """The same fraction of the price for every taker order."""

    def __init__(self, bps: float) -> None:
        self._fraction = bps * _BPS

    def offset(self, kline: Kline, price: float, qty: float) -> float:
        return price * self._fraction


class SquareRootImpact(SlippageModel):
    """impact * (high - low) * sqrt(quantity / bar volume).

    This is the square-root law of market impact, with the bar's range as the volatility over the execution
    (Almgren, Thum, Hauptmann, Li: Direct Estimation of Equity Market Impact, 2005; Tóth et al., 2011).
    """

    def __init__(self, impact: float) -> None:
        self._impact = impact

    def offset(self, kline: Kline, price: float, qty: float) -> float:
        # In a bar without volume the order counts as all of it
        share = min(qty / kline.volume, 1.0) if kline.volume > 0 else 1.0
        return self._impact * (kline.high - kline.low) * sqrt(share)


class LiquidityModel:
    """Volume of a bar that is available to the run's orders, all together."""

    def budget(self, volume: float) -> float:
        """Return the part of a bar's volume, both in base coin or shares."""
        raise NotImplementedError


class InfiniteLiquidity(LiquidityModel):
    """Unlimited volume: every order is filled at once."""

    def budget(self, volume: float) -> float:
        return inf


class ParticipationLimit(LiquidityModel):
    """A fraction of each bar's volume; the rest of an order waits for the next bar."""

    def __init__(self, fraction: float) -> None:
        self._fraction = fraction

    def budget(self, volume: float) -> float:
        return self._fraction * volume


class LimitFillModel:
    """Condition under which a bar fills a resting limit order."""

    def reached(self, kline: Kline, side: Side, price: float) -> bool:
        """Return whether the bar's range fills a limit order at `price`."""
        raise NotImplementedError


class ThroughFill(LimitFillModel):
    """The price must go beyond the limit: at the limit itself the order may have been last in the queue."""

    def reached(self, kline: Kline, side: Side, price: float) -> bool:
        return kline.low < price if side is _BUY else kline.high > price


class TouchFill(LimitFillModel):
    """The price must reach the limit, as if the order were first in the queue. Optimistic."""

    def reached(self, kline: Kline, side: Side, price: float) -> bool:
        return kline.low <= price if side is _BUY else kline.high >= price


class FillRules:
    """The models that a run's `[paper]` section chooses."""

    def __init__(self, config: PaperConfig) -> None:
        fees: dict[str, FeeModel] = {
            "maker_taker": MakerTakerFees(),
            "per_share": PerShareFees(config.per_share_fee),
            "none": NoFees(),
        }
        slippage: dict[str, SlippageModel] = {
            "none": NoSlippage(),
            "fixed": FixedSlippage(config.slippage_bps),
            "square_root": SquareRootImpact(config.impact),
        }
        liquidity: dict[str, LiquidityModel] = {
            "participation": ParticipationLimit(config.max_participation),
            "infinite": InfiniteLiquidity(),
        }
        limit_fill: dict[str, LimitFillModel] = {"through": ThroughFill(), "touch": TouchFill()}
        self.fees = fees[config.fees]
        self.slippage = slippage[config.slippage]
        self.liquidity = liquidity[config.liquidity]
        self.limit_fill = limit_fill[config.limit_fill]
        self.half_spread = config.half_spread_bps * _BPS
