"""Trading rules (tick, lot, minima) of a run's instruments, resolved before it begins and recorded with it.

Their sources, in order: the configuration, the table of Bybit's instruments (from `tapewire download
instruments`, else the shipped one), the decimals of the file's first bars.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from decimal import Decimal
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

import msgspec

from agent.config import Config, InstrumentConfig
from agent.core.errors import ConfigError, DataError
from agent.core.events import Kline
from agent.core.instruments import RULES, SHIPPED, Rules, instrument_for
from agent.data.klines import KlineFile
from agent.system.atomic import write_bytes

DOWNLOADED_TABLE: Final = Path("var") / "instruments.json"
"""Table that `tapewire download instruments` writes in the working folder."""

MAX_RELATIVE_TICK: Final = Decimal("0.001")
"""The largest tick, as a fraction of the price."""

_BARS: Final = 500  # first bars that are searched for decimals
_DIGITS: Final = 8  # significant digits of a price; more are binary rounding errors


class DerivedRules(NamedTuple):
    """Rules derived from the first bars of a file."""

    price: Decimal  # the median close
    tick_size: Decimal
    qty_step: Decimal


def resolve_rules(config: Config, files: Sequence[KlineFile]) -> tuple[Config, list[str]]:
    """Return the configuration with rules for every file's symbol, and notes on those derived from a file.

    Raises ConfigError if a configured tick is more than 0.1 % of the price, DataError as reading the files
    does.
    """
    table = read_table(DOWNLOADED_TABLE) if DOWNLOADED_TABLE.is_file() else SHIPPED
    instruments, notes = dict(config.instruments), list[str]()
    for file in files:
        symbol, category = file.symbol, config.market.category
        given = instruments.get(symbol) or InstrumentConfig()
        known = dict(table.get((category, symbol)) or SHIPPED.get((category, symbol)) or {})
        derived = derive_rules(file)
        if given.tick_size is not None and _is_coarse(given.tick_size, derived):
            found = f"{given.tick_size}, which is more than 0.1 % of its price, about {derived.price}"
            hint = f'write tick_size = "{derived.tick_size:f}"'
            raise ConfigError(f"instruments.{symbol}.tick_size is {found}", hint=hint)
        default = instrument_for(symbol, config)
        if category == "equity":
            coarse = _is_coarse(default.tick_size, derived)
            own = {"tick_size": min(default.tick_size, derived.tick_size) if coarse else default.tick_size}
        else:
            own = {"tick_size": derived.tick_size, "qty_step": derived.qty_step, "min_qty": derived.qty_step}
        if "tick_size" in known and _is_coarse(known["tick_size"], derived):
            known = {}  # the file's prices aren't the venue's
        rules = {name: known.get(name, own.get(name, getattr(default, name))) for name in RULES}
        rules |= {name: value for name in RULES if (value := getattr(given, name)) is not None}
        if given.qty_step is not None and given.min_qty is None and not known:
            rules["min_qty"] = given.qty_step
        steps = []
        for name, unit in (("tick_size", "ticks"), ("qty_step", "lots")):
            unstated = name in own and name not in known and getattr(given, name) is None
            if unstated and rules[name] != getattr(default, name):
                steps.append(f"{unit} of {rules[name]:f}")
        if steps:
            notes.append(f"{symbol} trades in {' and '.join(steps)}, derived from {file.path.name}")
        instruments[symbol] = given.model_copy(update=rules)
    return config.model_copy(update={"instruments": instruments}), notes


def derive_rules(file: KlineFile) -> DerivedRules:
    """Derive tick and lot from the first bars of a file, regardless of its window.

    The tick is the largest power of ten that divides all prices, at most 0.1 % of the lowest (0.01 % if all
    are whole numbers). The lot is the largest power of ten that is worth at most 1 at the median close.
    """
    whole = copy(file)
    whole.start = whole.end = None
    whole.warmup_bars = 0
    bars = list(islice((event for event in whole if isinstance(event, Kline)), _BARS))
    prices = [price for bar in bars for price in (bar.open, bar.high, bar.low, bar.close) if price > 0]
    if not prices:
        raise DataError(f"{file.path}: no price above 0 in its first bars")
    lowest = Decimal(repr(min(prices)))
    exact = [Decimal(repr(price)).normalize() for price in prices]
    finest = lowest.adjusted() - _DIGITS + 1
    exponent = max(finest, min(int(price.as_tuple().exponent) for price in exact))
    # whole prices hardly restrict the tick
    exponent = min(exponent, lowest.adjusted() - (3 if exponent < 0 else 4))
    middle = Decimal(repr(median(bar.close for bar in bars)))
    return DerivedRules(middle, Decimal(1).scaleb(exponent), Decimal(1).scaleb((1 / middle).adjusted()))


def _is_coarse(tick: Decimal, derived: DerivedRules) -> bool:
    return tick > MAX_RELATIVE_TICK * derived.price


def read_table(path: Path) -> dict[tuple[str, str], Rules]:
    """Read a table that `write_table` wrote. Raises ConfigError if it can't be read."""
    try:
        raw = msgspec.json.decode(path.read_bytes(), type=dict[str, dict[str, dict[str, Decimal]]])
    except (OSError, msgspec.MsgspecError) as error:
        hint = "write it again with `tapewire download instruments`"
        raise ConfigError(f"{path} can't be read: {error}", hint=hint) from None
    return {(category, symbol): rules for category, rows in raw.items() for symbol, rules in rows.items()}


def write_table(path: Path, category: str, rules: Iterable[tuple[str, Mapping[str, Decimal]]]) -> int:
    """Write the rules of a category's symbols to a table, keeping other categories; return their number."""

    def texts(known: Mapping[str, Decimal]) -> dict[str, str]:
        return {name: f"{value:f}" for name, value in known.items()}

    table: dict[str, dict[str, dict[str, str]]] = {}
    for (kind, symbol), known in (read_table(path) if path.is_file() else {}).items():
        if kind != category:
            table.setdefault(kind, {})[symbol] = texts(known)
    table[category] = {symbol: texts(known) for symbol, known in sorted(rules)}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, msgspec.json.format(msgspec.json.encode(table), indent=1))
    return len(table[category])
