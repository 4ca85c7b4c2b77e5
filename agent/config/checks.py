"""Checks for mistakes in a configuration file that are valid TOML and valid types.

A run's recorded configuration need not pass them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, Final

from agent.core.errors import ConfigError
from agent.core.symbol_names import normalise

SYMBOL: Final = re.compile(r"[\^]?[A-Z0-9]+(?:[.=-][A-Z0-9]+)*")
_LARGEST: Final = {
    "paper.maker_fee": "0.009",  # 0.01 and 0.02 are usual fees written as percentages
    "paper.taker_fee": "0.015",  # likewise; the highest tier of a venue is 1.2 %
    "paper.liquidation_fee": "0.02",
    "paper.funding_rate": "0.004",  # 0.005 is the usual 0.005 % of four hours, written as a percentage
    "instruments.*.maintenance_margin": "0.25",
    "signals.fade_below": "10",
    "bybit.max_jump": "1",
}
"""Largest plausible fractions; a larger value is a percentage by mistake."""

_BRACED: Final = re.compile(r"\$\{[^}]*\}")
_VARIABLE: Final = re.compile(r"(?:sqlite:/{3,4}|[\w.^-]+=)?(\$[A-Za-z_]\w*)")
_FREE_TEXT: Final = frozenset(("aliases", "currencies", "macro_keywords", "name"))
"""Keys whose values may begin with a `$`, such as the ticker `$LINK`."""


def check_symbols(key: str, names: Iterable[str], *, category: str) -> None:
    """Raise ConfigError if a name is not written as venues write symbols, or occurs twice."""
    names = tuple(names)
    for name in names:
        # equities may have Yahoo's form, e.g. BTC-USD
        right = name if category == "equity" and SYMBOL.fullmatch(name) else normalise(name)
        if right != name or not SYMBOL.fullmatch(name):
            right = re.sub(r"[^A-Z0-9.^=-]", "", right)
            raise ConfigError(
                f"{key}: {name!r} is not a symbol", hint=f"write {right}" if right else "e.g. BTCUSDT"
            )
    if len(set(names)) < len(names):
        raise ConfigError(f"{key}: a symbol occurs twice")


def check_fractions(where: str, config: Any) -> None:
    """Raise ConfigError if a fraction is so large that it must be a percentage."""
    for pattern, largest in _LARGEST.items():
        for key, value in _values(config, pattern.split(".")):
            if value is not None and abs(value) > Decimal(largest):
                number = Decimal(str(value))
                raise ConfigError(
                    f"{where}: {key}: {value} is {number * 100:f} %, more than is usual anywhere",
                    hint=f"write fractions: {number / 100:f} is {number:f} %",
                )


def check_limits(where: str, risk: Any, written: Mapping[str, Any]) -> None:
    """Raise ConfigError if a risk limit in `written` can't be reached because another limit is lower.

    An order can reverse a position, so it may be twice as large as the largest position.
    """
    for name, times in (("max_position", 1), ("max_order", 2)):
        value = getattr(risk, name)
        most = times * risk.max_leverage
        if name in written and value > most:
            limit = "risk.max_leverage" if times == 1 else "twice risk.max_leverage"
            raise ConfigError(
                f"{where}: risk.{name}: {value:g} is never reached: {limit} is {most:g}",
                hint=f"write {name} = {most:g}, or max_leverage = {value / times:g}; 1 is all of the equity",
            )


def refuse_variables(value: Any, where: str, key: str = "") -> None:
    """Raise ConfigError for `${NAME}` and for `$NAME` at the start of a value: neither is expanded."""
    if isinstance(value, dict):
        for name, inside in value.items():
            refuse_variables(inside, where, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for inside in value:
            refuse_variables(inside, where, key)
    elif isinstance(value, str):
        found = _BRACED.search(value)
        name = found[0] if found else ""
        if not name and key.rpartition(".")[2] not in _FREE_TEXT and (begins := _VARIABLE.match(value)):
            name = begins[1]
        if name:
            hint = "write the value itself; ~ stands for your home folder"
            raise ConfigError(f"{where}: {key}: {name} is not replaced", hint=hint)


def fraction_hint(item: Mapping[str, Any]) -> str:
    """Return a hint if pydantic's error `item` is about a fraction above 1, else ""."""
    value, context = item["input"], item.get("ctx", {})
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if context.get("le", context.get("lt")) != 1 or not is_number:
        return ""
    example = f"{value / 100:g} is {value:g} %" if 1 < value <= 100 else "0.05 is 5 %"
    return f"write fractions: {example}"


def _values(section: Any, path: list[str], key: str = "") -> list[tuple[str, Any]]:
    """Return the values at `path` with their keys; `*` in `path` matches every name."""
    if not path:
        return [(key, section)]
    inside = section.items() if path[0] == "*" else [(path[0], getattr(section, path[0]))]
    prefix = f"{key}." if key else ""
    return [found for name, value in inside for found in _values(value, path[1:], f"{prefix}{name}")]


def check_sleeves(where: str, config: Any, raw: Mapping[str, Any]) -> None:
    """Raise ConfigError if sleeves contradict another section of the file."""
    if not config.sleeves:
        return
    if "strategy" in raw:
        raise ConfigError(
            f"{where}: [strategy] and [[sleeves]] are both given",
            hint="each sleeve has its own strategy: remove [strategy]",
        )
    symbols = config.market.symbols
    for number, sleeve in enumerate(config.sleeves):
        check_symbols(f"{where}: sleeves.{number}.symbols", sleeve.symbols, category=config.market.category)
        for symbol in sleeve.symbols if "symbols" in raw.get("market", {}) else ():
            if symbol not in symbols:
                raise ConfigError(
                    f"{where}: sleeve {sleeve.name}: {symbol} is not traded",
                    hint=f"market.symbols are {', '.join(symbols)}",
                )
    if not any(sleeve.enabled for sleeve in config.sleeves):
        raise ConfigError(f"{where}: no sleeve is enabled", hint="write enabled = true in one of them")
