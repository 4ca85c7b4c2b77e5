"""The debatable rules of a paper fill, each a small class chosen by the configuration's [paper] section."""

from __future__ import annotations

from decimal import Decimal
from math import inf, sqrt
from typing import Protocol

from agent.core.events import Kline, Side
from agent.core.instruments import Instrument
from agent.core.settings import PaperConfig

_BPS = 1e-4


class Fees(Protocol):
    """What an execution costs."""

    def fee(self, instrument: Instrument, qty: Decimal, price: Decimal, *, maker: bool) -> Decimal:
        """In quote currency; negative is a rebate."""
        ...


class MakerTakerFees:
    """A fraction of the notional, by who provided the liquidity."""

    def fee(self, instrument: Instrument, qty: Decimal, price: Decimal, *, maker: bool) -> Decimal:
        """qty * price * rate."""
        return qty * price * (instrument.maker_fee if maker else instrument.taker_fee)


class PerShareFees:
    """A fixed amount for each share, as equity brokers charge."""

    def __init__(self, per_share: Decimal) -> None:
        self._per_share = per_share

    def fee(self, instrument: Instrument, qty: Decimal, price: Decimal, *, maker: bool) -> Decimal:
        """qty * rate."""
        return qty * self._per_share


class NoFees:
    """Free of charge."""

    def fee(self, instrument: Instrument, qty: Decimal, price: Decimal, *, maker: bool) -> Decimal:
        """Nothing."""
        return Decimal(0)


class Slippage(Protocol):
    """How far beyond the spread a taker's own size moves the price."""

    def offset(self, kline: Kline, price: float, qty: float) -> float:
        """In quote currency a unit, never negative."""
        ...


class NoSlippage:
    """The book is endlessly deep."""

    def offset(self, kline: Kline, price: float, qty: float) -> float:
        """Nothing."""
        return 0.0


class FixedSlippage:
    """The same fraction of the price for every taker."""

    def __init__(self, bps: float) -> None:
        self._fraction = bps * _BPS

    def offset(self, kline: Kline, price: float, qty: float) -> float:
        """price * bps."""
        return price * self._fraction


class SquareRootImpact:
    """impact * (high - low) * sqrt(quantity / bar volume).

    The square-root law of market impact, with the bar's range as the measure of volatility over the execution
    (Almgren, Thum, Hauptmann, Li: Direct Estimation of Equity Market Impact, 2005; Tóth et al., 2011).
    """

    def __init__(self, impact: float) -> None:
        self._impact = impact

    def offset(self, kline: Kline, price: float, qty: float) -> float:
        """Zero in a bar that did not move; a bar without volume counts as wholly taken."""
        share = min(qty / kline.volume, 1.0) if kline.volume > 0 else 1.0
        return self._impact * (kline.high - kline.low) * sqrt(share)


class Liquidity(Protocol):
    """How much of a bar's volume our orders may take together."""

    def budget(self, kline: Kline) -> float:
        """In base coin or shares."""
        ...


class InfiniteLiquidity:
    """Every order is filled at once."""

    def budget(self, kline: Kline) -> float:
        """Without end."""
        return inf


class ParticipationLimit:
    """At most a fraction of each bar's volume; what is left of an order waits for the next bar."""

    def __init__(self, fraction: float) -> None:
        self._fraction = fraction

    def budget(self, kline: Kline) -> float:
        """fraction * volume."""
        return self._fraction * kline.volume


class LimitFill(Protocol):
    """When a resting limit order is taken to be filled."""

    def reached(self, kline: Kline, side: Side, price: float) -> bool:
        """Whether the bar's range fills a limit at `price`."""
        ...


class ThroughFill:
    """The price must trade through the limit: at the limit itself we may have been last in the queue."""

    def reached(self, kline: Kline, side: Side, price: float) -> bool:
        """Strictly beyond."""
        return kline.low < price if side is Side.BUY else kline.high > price


class TouchFill:
    """A touch is enough: we were first in the queue. Optimistic."""

    def reached(self, kline: Kline, side: Side, price: float) -> bool:
        """At or beyond."""
        return kline.low <= price if side is Side.BUY else kline.high >= price


class Rules:
    """The rules of one run."""

    def __init__(self, config: PaperConfig) -> None:
        fees: dict[str, Fees] = {
            "maker_taker": MakerTakerFees(),
            "per_share": PerShareFees(config.per_share_fee),
            "none": NoFees(),
        }
        slippage: dict[str, Slippage] = {
            "none": NoSlippage(),
            "fixed": FixedSlippage(config.slippage_bps),
            "square_root": SquareRootImpact(config.impact),
        }
        liquidity: dict[str, Liquidity] = {
            "participation": ParticipationLimit(config.max_participation),
            "infinite": InfiniteLiquidity(),
        }
        limit_fill: dict[str, LimitFill] = {"through": ThroughFill(), "touch": TouchFill()}
        self.fees = fees[config.fees]
        self.slippage = slippage[config.slippage]
        self.liquidity = liquidity[config.liquidity]
        self.limit_fill = limit_fill[config.limit_fill]
        self.half_spread = config.half_spread_bps * _BPS
