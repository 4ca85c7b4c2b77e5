"""Protection of positions: stops, trailing stops and take-profits, one or several levels."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET

from agent.core.events import Order, OrderType, Side
from agent.core.orders import WorkingOrder


class Protection(NamedTuple):
    """Protection of a position: triggers in quote currency, None where it is to stay as it is."""

    stop: Decimal | None = None
    take_profit: Decimal | None = None
    trail: Decimal | None = None  # distance of a trailing stop from the best price
    levels: tuple[tuple[Decimal, Decimal], ...] = ()  # take-profits: trigger and share, nearest first

    @property
    def empty(self) -> bool:
        """True if there is nothing to place or to move."""
        return self.stop is None and self.take_profit is None and self.trail is None and not self.levels


def protective_order(
    id: str, symbol: str, now: int, side: Side, kind: OrderType, qty: Decimal, trigger: Decimal, oco: str
) -> Order:
    """Return the stop or take-profit of a position."""
    reason = kind.value.lower().replace("_", "-")
    return Order(id, symbol, now, side, kind, qty, trigger=trigger, reduce_only=True, oco=oco, reason=reason)


def protects(entry: Order) -> bool:
    """Return whether an entry attaches protection once it is filled."""
    return (
        entry.stop is not None
        or entry.take_profit is not None
        or entry.trail is not UNSET
        or entry.take_profits is not UNSET
    )


def protection_in(entry: Order) -> Protection:
    """Return the protection that an entry attaches."""
    trail = None if entry.trail is UNSET else entry.trail
    levels = () if entry.take_profits is UNSET else entry.take_profits
    return Protection(entry.stop, entry.take_profit, trail, levels)


def with_protection(entry: Order, protection: Protection) -> Order:
    """Return the entry with other protection to attach; what is None in `protection` stays as it is."""
    changes: dict[str, Any] = {}
    if protection.stop is not None:
        changes["stop"] = protection.stop
    if protection.trail is not None:
        changes["trail"] = protection.trail
    if protection.take_profit is not None:
        changes |= {"take_profit": protection.take_profit, "take_profits": UNSET}
    elif protection.levels:
        changes |= {"take_profit": None, "take_profits": protection.levels}
    return msgspec.structs.replace(entry, **changes)


def are_levels(working: Sequence[WorkingOrder], levels: Sequence[tuple[Decimal, Decimal]]) -> bool:
    """Return whether these take-profits are the levels, of which the first may have been filled."""
    wanted = [trigger for trigger, _ in levels]
    found = [w.order.trigger for w in working if w.share is not None]
    return bool(found) and (wanted[-len(found) :] == found or found[-len(wanted) :] == wanted)


def shares_of_rest(levels: Sequence[tuple[Decimal, Decimal]]) -> list[Decimal]:
    """Return for each level its share of the position that is left once the levels before it are filled."""
    shares: list[Decimal] = []
    rest = Decimal(1)
    for _, share in levels:
        shares.append(min(share / rest, Decimal(1)) if rest > 0 else Decimal(1))
        rest -= share
    return shares
