"""Checks of a configuration file that a run's recorded configuration need not pass: slips that are valid TOML and valid types."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, Final

from agent.core.errors import ConfigError
from agent.core.symbol_names import normalise

SYMBOL: Final = re.compile(r"[\^]?[A-Z0-9]+(?:[.=-][A-Z0-9]+)*")
_LARGEST: Final = {
    "paper.maker_fee": "0.009",  # 0.01 and 0.02 are 0.01 % and 0.02 %, written as percentages
    "paper.taker_fee": "0.015",  # likewise; the dearest tier of a venue is 1.2 %
    "paper.liquidation_fee": "0.02",
    "paper.funding_rate": "0.004",  # a constant; 0.005 is 0.005 %, as stamps of four hours have it
    "instruments.*.maintenance_margin": "0.25",
    "signals.fade_below": "10",
    "bybit.max_jump": "1",
}
"""Fractions beyond which a percentage was written."""

_BRACED: Final = re.compile(r"\$\{[^}]*\}")
_VARIABLE: Final = re.compile(r"(?:sqlite:/{3,4}|[\w.^-]+=)?(\$[A-Za-z_]\w*)")
_FREE_TEXT: Final = frozenset(("aliases", "currencies", "macro_keywords", "name"))
"""Keys of texts that may begin with a `$`, such as the ticker `$LINK`."""


def check_symbols(key: str, names: Iterable[str], *, category: str) -> None:
    """Raises ConfigError for a name that is not written as venues do, and for one that is there twice."""
    names = tuple(names)
    for name in names:
        # BTC-USD is one of Yahoo's
        right = name if category == "equity" and SYMBOL.fullmatch(name) else normalise(name)
        if right != name or not SYMBOL.fullmatch(name):
            right = re.sub(r"[^A-Z0-9.^=-]", "", right)
            raise ConfigError(
                f"{key}: {name!r} is no symbol", hint=f"write {right}" if right else "e.g. BTCUSDT"
            )
    if len(set(names)) < len(names):
        raise ConfigError(f"{key}: a symbol is there twice")


def check_fractions(where: str, config: Any) -> None:
    """Raises ConfigError for fractions that are so large that a percentage was written."""
    for pattern, largest in _LARGEST.items():
        for key, value in _values(config, pattern.split(".")):
            if value is not None and abs(value) > Decimal(largest):
                number = Decimal(str(value))
                raise ConfigError(
                    f"{where}: {key}: {value} is {number * 100:f} %, more than is usual anywhere",
                    hint=f"write fractions: {number / 100:f} is {number:f} %",
                )


def check_limits(where: str, risk: Any, written: Mapping[str, Any]) -> None:
    """Raises ConfigError for a `written` limit of risk that another one keeps from being reached.

    An order can turn a position round, so it may be of twice the largest position.
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
    """Raises ConfigError for `${NAME}`, and for `$NAME` at the beginning of a value or its path: nothing replaces them."""
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
            raise ConfigError(
                f"{where}: {key}: {name} is not replaced",
                hint="write the value itself; ~ stands for your home folder",
            )


def fraction_hint(item: Mapping[str, Any]) -> str:
    """What to write instead, if pydantic's error is of a fraction above 1; else ""."""
    value, context = item["input"], item.get("ctx", {})
    if (
        context.get("le", context.get("lt")) != 1
        or isinstance(value, bool)
        or not isinstance(value, int | float)
    ):
        return ""
    return (
        f"write fractions: {value / 100:g} is {value:g} %"
        if 1 < value <= 100
        else "write fractions: 0.05 is 5 %"
    )


def _values(section: Any, path: list[str], key: str = "") -> list[tuple[str, Any]]:
    """The values at `path`, in which `*` stands for every name, with their keys."""
    if not path:
        return [(key, section)]
    inside = section.items() if path[0] == "*" else [(path[0], getattr(section, path[0]))]
    return [
        found
        for name, value in inside
        for found in _values(value, path[1:], f"{key}.{name}" if key else name)
    ]
