"""How many bars before its lookback an indicator must see until its value no longer depends on the first one.

An exponential average of n bars gives its start value the weight (1 - 2 / (n + 1))^k after k bars, Wilder's
the weight (1 - 1 / n)^k. The bound for a cascade of averages is above their binomial sum. The bounds of
functions whose weights depend on the prices are measured. Tests compare all of them with the whole history.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import ceil, log
from typing import Any, Final

WEIGHT: Final = 1e-10
"""Remaining weight of an indicator's start value."""

CUMULATIVE: Final = ("AD", "CUMSUM", "NVI", "OBV", "PVI", "PVT", "VWAP", "WAD")
"""Functions that add up from the first bar on, and so need a window from the caller."""

NOT_ON_WINDOWS: Final = {
    "MAVP": "it needs a column of periods",
    **dict.fromkeys(
        ("MAXINDEX", "MININDEX", "MINMAXINDEX"),
        "its result is a position in the history; use market.bars(…).high.argmax()",
    ),
}
"""Functions that are left out, with the reason."""

_FINITE: Final = """
AC ACCBANDS ACOS ADD ADR AO APO AROON AROONOSC ASIN ATAN AVGDEV AVGPRICE BBANDS BETA BOP CCI CEIL
CMF CMOU COPPOCK CORREL COS COSH DIV DONCHIAN DPO ER EXP FLOOR FOSC FRACTAL HMA IMI KDJ LINEARREG
LINEARREG_ANGLE LINEARREG_INTERCEPT LINEARREG_SLOPE LN LOG10 MA MACDEXT MARKETFI MAX MEDPRICE MFI
MIDPOINT MIDPRICE MIN MINMAX MOM MULT PERCENTILE PERCENTRANK PPO PVO QSTICK ROC ROCP ROCR ROCR100
RVOL SIN SINH SMA SQRT STDDEV STOCH STOCHF SUB SUM TAN TANH TRANGE TRIMA TSF TYPPRICE ULTOSC VAR VHF
VORTEX VWMA WCLPRICE WILLR WMA
"""
"""Functions whose value depends on the bars of their lookback alone, unless a moving average is chosen."""

_HILBERT: Final = 600  # measured: less than 400
_KAMA: Final = 1_500  # measured: 600 for 30 bars; depends on how directed the prices are
_REVERSALS: Final = 400  # measured: less than 100; paths meet at the first reversal that they share

Values = Mapping[str, Any]


def _ema(bars: float, stages: int = 1) -> int:
    """Return the bars until the start of a cascade of exponential averages has no weight."""
    return ceil(log(WEIGHT) / log(1 - 2 / (bars + 1)) * (0.8 + 0.2 * stages)) if bars > 1 else 0


def _wilder(bars: float, stages: int = 1) -> int:
    return _ema(2 * bars - 1, stages)


def _average(kind: int, bars: float) -> int:
    """Return the same for a moving average of TA-Lib's type `kind` (MA_Type)."""
    stages = {1: 1, 3: 2, 4: 3, 8: 6, 11: 3, 12: 1}
    if kind in stages:
        return _ema(bars, stages[kind])
    return {6: _KAMA, 7: _mama(0.05), 13: _wilder(bars)}.get(kind, 0)


def _mama(slow_limit: float) -> int:
    return _ema(4 / max(slow_limit, 0.01) - 1) + _HILBERT


_RECURSIVE: dict[str, Callable[[Values], int]] = {
    "ADOSC": lambda p: _ema(max(p["fastperiod"], p["slowperiod"])),
    "ADX": lambda p: _wilder(p["timeperiod"], 2),
    "ADXR": lambda p: _wilder(p["timeperiod"], 2),
    "CVI": lambda p: _ema(p["timeperiod"]),
    "DEMA": lambda p: _ema(p["timeperiod"], 2),
    "EFI": lambda p: _ema(p["timeperiod"]),
    "EMA": lambda p: _ema(p["timeperiod"]),
    "ERI": lambda p: _ema(p["timeperiod"]),
    "HA": lambda _: _ema(3),
    "KAMA": lambda _: _KAMA,
    "KC": lambda p: max(_ema(p["timeperiod"]), _wilder(p["atrperiod"])),
    "MACD": lambda p: _ema(max(p["fastperiod"], p["slowperiod"])) + _ema(p["signalperiod"]),
    "MACDFIX": lambda p: _ema(26) + _ema(p["signalperiod"]),
    "MAMA": lambda p: _mama(p["slowlimit"]),
    "MASSI": lambda p: _ema(p["fastperiod"], 2),
    "SAR": lambda _: _REVERSALS,
    "SAREXT": lambda _: _REVERSALS,
    "SMI": lambda p: _ema(p["fastperiod"]) + _ema(p["slowperiod"]) + _ema(p["signalperiod"]),
    "STOCHRSI": lambda p: _wilder(p["timeperiod"]),
    "SUPERTREND": lambda p: _wilder(p["timeperiod"]) + _REVERSALS,
    "T3": lambda p: _ema(p["timeperiod"], 6),
    "TEMA": lambda p: _ema(p["timeperiod"], 3),
    "TRIX": lambda p: _ema(p["timeperiod"], 3),
    "TSI": lambda p: _ema(p["firstperiod"]) + _ema(p["secondperiod"]),
    "ZLEMA": lambda p: _ema(p["timeperiod"]),
}
_WILDER: Final = "ATR CMO DX MINUS_DI MINUS_DM NATR PLUS_DI PLUS_DM RMA RSI RVI"
_RECURSIVE |= dict.fromkeys(_WILDER.split(), lambda p: _wilder(p["timeperiod"]))
_CYCLES: Final = "HT_DCPERIOD HT_DCPHASE HT_PHASOR HT_SINE HT_TRENDLINE HT_TRENDMODE"
_RECURSIVE |= dict.fromkeys(_CYCLES.split(), lambda _: _HILBERT)


def bars_before(name: str, values: Values) -> int | None:
    """Return the bars before the lookback of a function with these values of its parameters; None if it adds
    up from the first bar on or isn't known.
    """
    if name not in _RECURSIVE and name not in _FINITE.split() and not name.startswith("CDL"):
        return None
    before = _RECURSIVE[name](values) if name in _RECURSIVE else 0
    for parameter, kind in values.items():
        if parameter.endswith("matype"):
            prefix = parameter.removesuffix("matype")
            names = ("timeperiod", "fastperiod", "slowperiod") if not prefix else (f"{prefix}period",)
            before += _average(int(kind), max(values.get(one, 0) for one in names))
    return before
