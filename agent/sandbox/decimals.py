"""Numbers as the venue writes them: plain decimal texts, never in exponents."""

from __future__ import annotations

from decimal import ROUND_FLOOR, Decimal

_EIGHTH = Decimal("1e-8")
_TWELFTH = Decimal("1e-12")


def text(value: Decimal | float | int) -> str:
    """Exactly the number, without trailing zeros: 86092.0 -> `86092`."""
    # + 0: no minus zero
    plain = format((value if isinstance(value, Decimal) else Decimal(repr(value))) + 0, "f")
    return (plain.rstrip("0").rstrip(".") or "0") if "." in plain else plain


def rounded(value: Decimal | float) -> str:
    """The number to eight decimals, as amounts of coins and averages are written."""
    return text((value if isinstance(value, Decimal) else Decimal(repr(value))).quantize(_EIGHTH))


def owned(value: Decimal) -> str:
    """A balance to twelve decimals, rounded down: what is stated can be spent."""
    return text(value.quantize(_TWELFTH, ROUND_FLOOR))
