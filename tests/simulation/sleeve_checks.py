"""Several strategies in one account: random sleeves, and invariants of each and of their sum."""

from __future__ import annotations

import random
import re
from decimal import Decimal
from typing import Any, Final

from msgspec import UNSET
from msgspec.structs import replace

from agent.config import Config, parse
from agent.core.events import (
    AccountSnapshot,
    Amend,
    Cancel,
    CashAdjustment,
    Command,
    Decision,
    Event,
    Fill,
    FillKind,
    FundingPayment,
    FundingSettlement,
    Order,
    OrderUpdate,
    RiskState,
)
from agent.core.settings import SleeveConfig
from agent.core.sleeve import sleeve_config
from agent.core.sleeve_roster import id_prefix
from agent.core.sleeves import SleevedEngine
from agent.core.venue import VenueExchange
from tests.simulation.generated_data import SYMBOLS
from tests.simulation.invariants import Invariants, require
from tests.simulation.ledger_checks import PaperInvariants, RecordGapInvariants, VenueInvariants

_RESTLESS: Final = "tests.simulation.restless_strategy:RestlessStrategy"
_STRATEGIES: Final[tuple[dict[str, Any], ...]] = (
    {"name": _RESTLESS, "params": {"every": 1, "largest": 0.6}},
    {"name": _RESTLESS, "params": {"every": 1, "largest": 0.25}},
    {"name": _RESTLESS, "params": {"every": 3, "largest": 0.9, "rich": True}},
    {"name": "sma_cross", "params": {"fast": 1, "slow": 3, "weight": 0.4, "allow_short": True}},
    {
        "name": "sentiment",
        "params": {"position_size": 0.3, "allow_short": True, "stop": 0.01, "take_profit": 0.02},
    },
)
_REST: Final = re.compile(r"; order (\S+) is for the rest")
_ZERO: Final = Decimal(0)
_ROUNDING: Final = Decimal("1e-12")
"""Ledgers have 28 digits: an amount at a price that is a quotient is rounded in each."""
NAMES: Final = ("one", "two", "three")


def random_sleeve(rng: random.Random, name: str, share: str) -> dict[str, Any]:
    """Draw the section of a sleeve."""
    limits = {"max_drawdown": rng.choice((0.03, 0.9)), "max_orders_per_minute": rng.choice((1, 60))}
    return {
        "name": name,
        "strategy": rng.choice(_STRATEGIES),
        "share": share,
        "symbols": rng.choice(([], [], [rng.choice(SYMBOLS)])),
        "risk": rng.choice(({}, limits, {"max_leverage": 3.0, "max_position": 2.0, "max_order": 2.0})),
    }


def with_sleeves(config: Config, rng: random.Random) -> Config:
    """Return the configuration with two or three random sleeves."""
    raw = config.model_dump(mode="json")
    if raw["execution"]["testnet"]["foreign"] == "adopt":  # refused with sleeves
        raw["execution"]["testnet"]["foreign"] = "refuse"
    shares = rng.choice((("0.5", "0.5"), ("0.4", "0.3"), ("0.5", "0.2", "0.3"), ("0.2", "0.2", "0.2")))
    raw["sleeves"] = [random_sleeve(rng, name, share) for name, share in zip(NAMES, shares, strict=False)]
    return parse(raw, where="tests/simulation/sleeve_checks.py")


def random_command(rng: random.Random, number: int) -> tuple[str, dict[str, str]]:
    """Draw a command for a sleeve; some name one that isn't there."""
    actions = ("pause", "halt", "flatten", "remove-sleeve", "add-sleeve", *["resume"] * 5)
    action = rng.choice(actions)
    if action != "add-sleeve":
        return action, {"sleeve": rng.choice(NAMES)}
    section = random_sleeve(rng, f"later-{number}", rng.choice(("0.1", "0.3")))
    definition = SleeveConfig.model_validate(section)
    return action, {
        "sleeve": definition.name,
        "strategy": definition.strategy.name,
        "params": definition.model_dump_json(include={"strategy"})[len('{"strategy":') : -1],
        "share": str(definition.share),
    }


class _OfOne(Invariants):
    """Books of one sleeve; its inputs are checked in those of the account."""

    @property
    def is_exposed(self) -> bool:
        """True if a position is open."""
        return any(self._positions.values())

    def follow(self, *, warming: bool, unreconciled: bool) -> None:
        """Note whether history is being read, and whether the account is unknown."""
        self._warming = warming
        self._unreconciled = unreconciled


class SleeveBooks(_OfOne, PaperInvariants):
    """On paper."""


class SleeveVenueBooks(_OfOne, VenueInvariants):
    """At a venue: each fill is of an order of this sleeve, or names it by its id."""

    def __init__(self, prefix: str, *of: Any, **more: Any) -> None:
        super().__init__(*of, **more)
        self._prefix = prefix
        self._rests: set[str] = set()  # ids of orders for what crossing has left of another

    def on_decision(self, decision: Decision) -> None:
        if isinstance(decision, OrderUpdate) and (rest := _REST.search(decision.reason)):
            self._rests.add(rest[1])
        super().on_decision(decision)

    def _check_order(self, order: Order) -> None:
        require(order.id.startswith(self._prefix), f"the id does not name the sleeve: {order}")
        if order.id in self._rests:  # the limits have been applied to the whole
            require(order.id not in self.orders, f"duplicate client order id: {order}")
            self.orders[order.id] = order
        else:
            super()._check_order(order)

    def _check_fill(self, fill: Fill) -> None:
        gives_up = fill.kind is FillKind.INTERNAL and not fill.order_id
        own = fill.order_id in self.orders or fill.order_id.startswith(self._prefix)
        require(own or gives_up, f"fill of an order that is not the sleeve's: {fill}")

    def _check_payment(self, payment: FundingPayment) -> None:
        pass  # the account's books check the sum

    def _check_cash(self, event: Event) -> None:
        Invariants._check_cash(self, event)


class SleeveInvariants(Invariants):
    """Independent books of the account and of each sleeve. A sleeve's must hold as if it were alone."""

    engine: Any

    def __init__(self, *of: Any, **more: Any) -> None:
        super().__init__(*of, **more)
        self._of, self._more = of, more
        self._sleeves: dict[str, _OfOne] = {}
        self.crosses = 0

    def _books(self, name: str) -> _OfOne:
        """Return the books of a sleeve, made when it is first met."""
        account: SleevedEngine = self.engine
        books = self._sleeves.get(name)
        if books is None:
            sleeve = account.sleeves[name]
            capital = sleeve.engine.portfolio.initial
            own = sleeve_config(self._config, sleeve.settings, capital)
            books = self._begin_books(name, self._config.model_copy(update=dict(own)))
            self._sleeves[name] = books
        if name in account.sleeves:
            books.engine = account.sleeves[name].engine
        books.follow(warming=self._warming, unreconciled=self._unknown_account)
        return books

    def _begin_books(self, name: str, config: Config) -> _OfOne:
        return SleeveBooks(config, self._of[-1], **self._more)

    @property
    def _unknown_account(self) -> bool:
        return False

    def on_decision(self, decision: Decision) -> None:
        """Check a decision in the books of its sleeve, and book what moves the account."""
        sleeve = getattr(decision, "sleeve", UNSET)
        if sleeve is UNSET:
            super().on_decision(decision)
            return
        if isinstance(decision, Order):
            self.orders[decision.id] = decision
            state = self._state
            require(
                decision.reduce_only or state is RiskState.ACTIVE,
                f"new order while the account is {state.value}: {decision}",
            )
        if isinstance(decision, Fill):
            require(decision.id not in self.fills, f"duplicate fill: {decision}")
            self.fills.add(decision.id)
            self._book(decision)
        elif isinstance(decision, FundingPayment):
            self._cash += decision.amount
        self._books(sleeve).on_decision(decision)

    def _book(self, fill: Fill) -> None:
        if fill.kind is FillKind.INTERNAL:
            require(not fill.fee and not fill.slippage, f"internal fill with costs: {fill}")
            mark = self.engine.portfolio.positions[fill.symbol].mark_decimal
            require(fill.price == mark, f"internal fill at {fill.price}, mark {mark}")
            self.crosses += 1
            return
        signed = fill.side.sign * fill.qty
        self._positions[fill.symbol] += signed
        self._cash -= signed * fill.price + fill.fee

    def after_event(self, event: Event) -> None:
        """Check the account, each sleeve, and that they add up."""
        account: SleevedEngine = self.engine
        account.portfolio.reconcile()
        account.check()
        self._check_cash(event)
        require(self.crosses % 2 == 0, "an internal fill has no other side")
        for symbol, position in account.portfolio.positions.items():
            require(position.qty == self._positions[symbol], f"{symbol}: {position.qty}, from the fills")
        require(account.risk.state is self._state, f"state {account.risk.state}, from the decisions")
        held = [one.engine.portfolio for one in account.sleeves.values()]
        summed = sum((one.cash for one in held), account.idle)
        cash = account.portfolio.cash
        require(abs(summed - cash) <= _ROUNDING, f"cash {cash}, of the sleeves {summed}")
        for name, sleeve in account.sleeves.items():
            self._books(name).after_event(_as_seen_by(name, event))
            if self._state is RiskState.HALTED:
                require(sleeve.engine.risk.halted, f"the account is halted, and sleeve {name} is not")
        for name, left in account.departed.items():
            closed = self._sleeves.get(name)
            require(closed is None or not closed.is_exposed, f"sleeve {name} left with a position: {left}")


class VenueSleeveInvariants(SleeveInvariants, VenueInvariants):
    """Sleeves at a venue: the account's books must equal the venue's, and the sleeves' add up to them."""

    def __init__(self, *of: Any, **more: Any) -> None:
        super().__init__(*of, **more)
        self._payments: list[FundingPayment] = []  # of the present event

    def _begin_books(self, name: str, config: Config) -> _OfOne:
        venue, store, restored, _, market = self._of
        prefix = id_prefix(self.engine.roster._run_id, name)
        return SleeveVenueBooks(prefix, venue, store, restored, config, market, **self._more)

    @property
    def _unknown_account(self) -> bool:
        return self._unreconciled

    @property
    def _ledger(self) -> VenueExchange:
        account: Any = self.engine.venue
        return account  # type: ignore[no-any-return]

    def before_event(self, event: Event) -> None:
        super().before_event(event)
        self._payments.clear()

    def on_decision(self, decision: Decision) -> None:
        """Note what the venue must have in the end, whichever sleeve it is of."""
        if isinstance(decision, Fill) and decision.kind is FillKind.INTERNAL and not decision.sleeve:
            self._book(decision)  # the other side of what a leaving sleeve has given up
            return
        super().on_decision(decision)
        if not getattr(decision, "sleeve", UNSET):
            return
        match decision:
            case Order():
                require(
                    decision.reduce_only or not self._unreconciled,
                    f"new order while the account is not reconciled: {decision}",
                )
                self._requested_at[decision.id] = self._market.loop.time()
            case Amend() | Cancel():
                self._requested_at[decision.order_id] = self._market.loop.time()
                if isinstance(decision, Cancel):
                    self._cancelled.add(decision.order_id)
            case OrderUpdate(status=status) if status.final:
                self.ended[decision.order_id] = decision
            case Fill():
                self._filled[decision.order_id] = self._filled.get(decision.order_id, _ZERO) + decision.qty
            case FundingPayment():
                self._payments.append(decision)
            case CashAdjustment():
                self._cash += decision.amount

    def _book(self, fill: Fill) -> None:
        if fill.kind is not FillKind.INTERNAL:
            self._check_fill(fill)
        super()._book(fill)

    def _check_payment(self, payment: FundingPayment) -> None:
        self._payments.append(payment)

    def after_event(self, event: Event) -> None:
        super().after_event(event)
        if isinstance(event, FundingSettlement):
            stamp, paid = (event.symbol, event.ts), [one.amount for one in self._payments]
            require(stamp not in self._paid or not paid, f"duplicate funding: {event}")
            require(stamp in self._paid or sum(paid) == event.amount, f"{paid} of {event} are attributed")
            self._paid.add(stamp)
        else:
            require(not self._payments, f"funding without a settlement: {self._payments}")
        if isinstance(event, AccountSnapshot) and not self._ledger.drift:
            self._unreconciled = False
        self._accepts_next_account = self._ledger.accepting

    def before_send(self, order: Order) -> None:
        """Check an order that is about to be sent; the venue gets it without the flag reduce-only."""
        require(not order.reduce_only, f"reduce-only would act on the parts of other sleeves: {order}")
        decided = self.orders.get(order.id)
        require(decided is not None, f"order sent that no sleeve has decided: {order}")
        assert decided is not None
        super().before_send(replace(order, reduce_only=decided.reduce_only))

    def _opens(self, name: str) -> bool:
        return name not in self.orders or not self.orders[name].reduce_only


class SleeveGapInvariants(RecordGapInvariants):
    """Life of sleeves whose store lost records of sent orders; see `RecordGapInvariants`."""

    def on_decision(self, decision: Decision) -> None:
        """Check a decision, and note orders: the venue gets them without the flag reduce-only."""
        super().on_decision(decision)
        if isinstance(decision, Order):
            self.orders[decision.id] = decision

    def before_send(self, order: Order) -> None:
        """Check that the order does not open a position."""
        decided = self.orders.get(order.id)
        super().before_send(order if decided is None else replace(order, reduce_only=decided.reduce_only))


def _as_seen_by(name: str, event: Event) -> Event:
    """Return the event, or a command that means nothing if it is for another sleeve."""
    if isinstance(event, Command) and event.args.get("sleeve", name) != name:
        return replace(event, action="for another sleeve")
    return event
