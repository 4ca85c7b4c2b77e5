"""Trading rules of instruments: tick, lot, minimum sizes, fees, margin. Defaults are Bybit's at VIP 0."""

from __future__ import annotations

import json
from decimal import ROUND_CEILING, ROUND_DOWN, ROUND_FLOOR, Decimal
from pathlib import Path
from typing import Any, Final, TypeVar

from agent.core.events import DAY_MS, MINUTE_MS, Side
from agent.core.settings import Category, CoreConfig, InstrumentConfig

AnyConfig = TypeVar("AnyConfig", bound=CoreConfig)

_NOTHING_GIVEN: Final = InstrumentConfig.model_validate({})
_BUY: Final = Side.BUY  # read from the class it costs as much as an addition of decimals
_FIELDS: Final = (
    *("symbol", "category", "tick_size", "qty_step", "min_qty", "min_notional"),
    *("maker_fee", "taker_fee", "maintenance_margin", "max_leverage"),
)


class Instrument:
    """Trading rules of one symbol. Prices are in quote currency, sizes in base coin or shares."""

    def __init__(
        self,
        symbol: str,
        category: Category,
        tick_size: Decimal,
        qty_step: Decimal,
        min_qty: Decimal,
        min_notional: Decimal,
        maker_fee: Decimal,
        taker_fee: Decimal,
        maintenance_margin: Decimal,
        max_leverage: Decimal,
    ) -> None:
        self.symbol = symbol
        self.category: Category = category
        self.tick_size = tick_size
        self.qty_step = qty_step
        self.min_qty = min_qty
        self.min_notional = min_notional
        self.maker_fee = maker_fee  # fraction of notional
        self.taker_fee = taker_fee
        self.maintenance_margin = maintenance_margin  # fraction of notional
        self.max_leverage = max_leverage
        self.lot = float(qty_step)
        self.maintenance = float(maintenance_margin)
        # True if it can be sold short and held on margin
        self.is_margined = category == "linear"
        # True if every missing bar is a gap; equities don't trade at night, on weekends and on holidays
        self.trades_around_the_clock = category != "equity"

    def replace(self, **changes: Any) -> Instrument:
        """Return a copy with other values of some fields."""
        return Instrument(**({name: getattr(self, name) for name in _FIELDS} | changes))

    def round_qty(self, qty: Decimal) -> Decimal:
        """Round towards zero to a multiple of the lot step."""
        return (qty / self.qty_step).to_integral_value(ROUND_DOWN) * self.qty_step

    def round_price(self, price: Decimal, side: Side) -> Decimal:
        """Round to the tick, against the trader: up for a buy, down for a sell."""
        rounding = ROUND_CEILING if side is _BUY else ROUND_FLOOR
        return (price / self.tick_size).to_integral_value(rounding) * self.tick_size


def _default(category: Category, numbers: str) -> Instrument:
    """Make an `Instrument` from the fields after `category`, in order."""
    return Instrument("", category, *map(Decimal, numbers.split()))


_BY_CATEGORY: dict[Category, Instrument] = {
    "linear": _default("linear", "0.01 0.001 0.001 5 0.0002 0.00055 0.005 100"),
    "spot": _default("spot", "0.01 0.000001 0.000001 5 0.001 0.001 0 1"),
    "equity": _default("equity", "0.01 1 1 0 0 0 0 1"),
}
RULES: Final = ("tick_size", "qty_step", "min_qty", "min_notional")
Rules = dict[str, Decimal]
"""Known trading rules of a symbol: fields of `Instrument` by name."""


def _shipped() -> dict[tuple[str, str], Rules]:
    raw = json.loads(Path(__file__).with_name("instruments.json").read_text(encoding="utf-8"))
    return {
        (category, symbol): {name: Decimal(text) for name, text in rules.items()}
        for category, rows in raw.items()
        for symbol, rules in rows.items()
    }


SHIPPED: Final = _shipped()
"""Bybit's rules by category and symbol, as shipped with the program."""

_FIRST_KNOWN: Final = (("linear", "BTCUSDT"), ("linear", "ETHUSDT"))
"""Symbols whose rules the first revision of the core knew; others had their category's defaults."""


def with_first_rules(config: AnyConfig) -> AnyConfig:
    """Add the rules that a run of an early version used but did not record: its category's defaults."""
    category = config.market.category
    instruments = dict(config.instruments)
    for symbol in config.market.symbols:
        if (category, symbol) in SHIPPED and (category, symbol) not in _FIRST_KNOWN:
            given = instruments.get(symbol) or _NOTHING_GIVEN
            names = [name for name in SHIPPED[category, symbol] if getattr(given, name) is None]
            instruments[symbol] = given.model_copy(
                update={name: getattr(_BY_CATEGORY[category], name) for name in names}
            )
    return config.model_copy(update={"instruments": instruments})


def with_rules_of(other: CoreConfig, config: AnyConfig) -> AnyConfig:
    """Return `config`, completed with trading rules that only `other` states."""
    instruments = dict(config.instruments)
    for symbol, source in other.instruments.items():
        given = instruments.get(symbol) or _NOTHING_GIVEN
        missing = [name for name in RULES if getattr(given, name) is None]
        stated = {name: value for name in missing if (value := getattr(source, name)) is not None}
        if stated:
            instruments[symbol] = given.model_copy(update=stated)
    return config.model_copy(update={"instruments": instruments})


def instrument_for(symbol: str, config: CoreConfig) -> Instrument:
    """Return a symbol's rules: defaults of the category, overridden by shipped rules, then by `config`."""
    category = config.market.category
    overrides = config.instruments.get(symbol)
    given = overrides.model_dump(exclude={"aliases"}, exclude_none=True) if overrides else {}
    fees = {"maker_fee": config.paper.maker_fee, "taker_fee": config.paper.taker_fee}
    given |= {key: fee for key, fee in fees.items() if fee is not None}
    return _BY_CATEGORY[category].replace(symbol=symbol, **(SHIPPED.get((category, symbol), {}) | given))


_YEAR_MS = 365 * DAY_MS


def periods_per_year(category: Category, interval: int, per_session: float = 0.0) -> float:
    """Return the number of bars of `interval` ms in a year, for annualising.

    Crypto trades 365 days around the clock, equities 252 sessions. Bars longer than a day follow the calendar
    in every category: 365/7 weeks, 12 months, 4 quarters. `per_session` is the average number of intraday
    equity bars in a session; 0 stands for sessions of 390 minutes.
    """
    if interval > DAY_MS:
        months = round(interval / (_YEAR_MS / 12))
        is_months = months > 0 and abs(interval - months * _YEAR_MS / 12) <= 3 * DAY_MS
        return 12 / months if is_months else _YEAR_MS / interval
    if category != "equity":
        return _YEAR_MS / interval
    return 252.0 if interval == DAY_MS else 252 * (per_session or 390 * MINUTE_MS / interval)
