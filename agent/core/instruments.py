"""Trading rules of an instrument: tick, lot and minimum sizes, fees, margin. Defaults are Bybit's at VIP 0."""

from __future__ import annotations

import json
from decimal import ROUND_CEILING, ROUND_DOWN, ROUND_FLOOR, Decimal
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from agent.core.events import DAY_MS, MINUTE_MS, Side
from agent.core.settings import Category, CoreConfig, InstrumentConfig

AnyConfig = TypeVar("AnyConfig", bound=CoreConfig)


class Instrument(NamedTuple):
    """What the exchange enforces for one symbol. Prices in quote currency, sizes in base coin or shares."""

    symbol: str
    category: Category
    tick_size: Decimal
    qty_step: Decimal
    min_qty: Decimal
    min_notional: Decimal
    maker_fee: Decimal  # fraction of notional
    taker_fee: Decimal
    maintenance_margin: Decimal  # fraction of notional
    max_leverage: Decimal

    @property
    def is_margined(self) -> bool:
        """Can be sold short and held on margin."""
        return self.category == "linear"

    @property
    def trades_around_the_clock(self) -> bool:
        """Every missing bar is a gap; equities rest at night, at weekends and on holidays."""
        return self.category != "equity"

    def round_qty(self, qty: Decimal) -> Decimal:
        """Towards zero to a multiple of the lot step."""
        return (qty / self.qty_step).to_integral_value(ROUND_DOWN) * self.qty_step

    def round_price(self, price: Decimal, side: Side) -> Decimal:
        """To the tick, against the trader: up for a buy, down for a sell."""
        return (price / self.tick_size).to_integral_value(
            ROUND_CEILING if side is Side.BUY else ROUND_FLOOR
        ) * self.tick_size


_D = Decimal
_LINEAR = Instrument(
    "",
    "linear",
    _D("0.01"),
    _D("0.001"),
    _D("0.001"),
    _D(5),
    _D("0.0002"),
    _D("0.00055"),
    _D("0.005"),
    _D(100),
)
_SPOT = Instrument(
    "", "spot", _D("0.01"), _D("0.000001"), _D("0.000001"), _D(5), _D("0.001"), _D("0.001"), _D(0), _D(1)
)
_EQUITY = Instrument("", "equity", _D("0.01"), _D(1), _D(1), _D(0), _D(0), _D(0), _D(0), _D(1))
_BY_CATEGORY: dict[Category, Instrument] = {"linear": _LINEAR, "spot": _SPOT, "equity": _EQUITY}
RULES: Final = ("tick_size", "qty_step", "min_qty", "min_notional")
Rules = dict[str, Decimal]
"""Fields of `Instrument` that are known of a symbol."""


def _shipped() -> dict[tuple[str, str], Rules]:
    raw = json.loads(Path(__file__).with_name("instruments.json").read_text(encoding="utf-8"))
    return {
        (category, symbol): {name: _D(text) for name, text in rules.items()}
        for category, rows in raw.items()
        for symbol, rules in rows.items()
    }


SHIPPED: Final = _shipped()
"""Bybit's rules by category and symbol, as they ship with the program."""

_FIRST_KNOWN: Final = (("linear", "BTCUSDT"), ("linear", "ETHUSDT"))
"""What runs of the first revision of the core knew; all else had the category's defaults."""


def with_first_rules(config: AnyConfig) -> AnyConfig:
    """The configuration of a run that recorded no rules, with those that it had: the defaults of its category."""
    category = config.market.category
    instruments = dict(config.instruments)
    for symbol in config.market.symbols:
        if (category, symbol) in SHIPPED and (category, symbol) not in _FIRST_KNOWN:
            given = instruments.get(symbol) or InstrumentConfig()
            names = [name for name in SHIPPED[category, symbol] if getattr(given, name) is None]
            instruments[symbol] = given.model_copy(
                update={name: getattr(_BY_CATEGORY[category], name) for name in names}
            )
    return config.model_copy(update={"instruments": instruments})


def with_rules_of(other: CoreConfig, config: AnyConfig) -> AnyConfig:
    """`config` with the trading rules that `other` states and `config` leaves open."""
    instruments = dict(config.instruments)
    for symbol, theirs in other.instruments.items():
        ours = instruments.get(symbol) or InstrumentConfig()
        stated = {
            name: value
            for name in RULES
            if getattr(ours, name) is None and (value := getattr(theirs, name)) is not None
        }
        if stated:
            instruments[symbol] = ours.model_copy(update=stated)
    return config.model_copy(update={"instruments": instruments})


def instrument_for(symbol: str, config: CoreConfig) -> Instrument:
    """The rules of `symbol`: category defaults, what is known of the symbol, then what the configuration states."""
    category = config.market.category
    overrides = config.instruments.get(symbol)
    given = overrides.model_dump(exclude={"aliases"}, exclude_none=True) if overrides else {}
    fees = {"maker_fee": config.paper.maker_fee, "taker_fee": config.paper.taker_fee}
    given |= {key: fee for key, fee in fees.items() if fee is not None}
    return _BY_CATEGORY[category]._replace(symbol=symbol, **(SHIPPED.get((category, symbol), {}) | given))


_YEAR_MS = 365 * DAY_MS


def periods_per_year(category: Category, interval: int, per_session: float = 0.0) -> float:
    """Bars of `interval` ms in a year, for annualising: 365 days around the clock for crypto, 252 sessions for equities.

    Bars longer than a day count by the calendar in every category: 365/7 weeks, 12 months, 4 quarters. Intraday equity bars count
    `per_session` a session, the average of the data at hand (0: sessions of 390 minutes).
    """
    if interval > DAY_MS:
        months = round(interval / (_YEAR_MS / 12))
        is_months = months > 0 and abs(interval - months * _YEAR_MS / 12) <= 3 * DAY_MS
        return 12 / months if is_months else _YEAR_MS / interval
    if category != "equity":
        return _YEAR_MS / interval
    return 252.0 if interval == DAY_MS else 252 * (per_session or 390 * MINUTE_MS / interval)
