"""The ten price features."""

from __future__ import annotations

from typing import NamedTuple


class Features(NamedTuple):
    """The ten features at the close of one bar; each is NaN until warm and after a gap."""

    return_1: float
    return_5: float
    return_20: float
    volume_ratio: float
    volatility: float
    rsi: float
    macd: float
    bollinger: float
    atr_ratio: float
    vwap_distance: float
