"""Several strategies in one account: random sleeves, and invariants of each and of their sum."""

from __future__ import annotations

import random
from typing import Any, Final

from msgspec import UNSET
from msgspec.structs import replace

from agent.config import Config, parse
from agent.core.events import Command, Decision, Event, Fill, FillKind, FundingPayment, Order, RiskState
from agent.core.settings import SleeveConfig
from agent.core.sleeve import sleeve_config
from agent.core.sleeves import SleevedEngine
from tests.simulation.generated_data import SYMBOLS
from tests.simulation.invariants import Invariants, require
from tests.simulation.ledger_checks import PaperInvariants

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
    """Return the configuration with two or three random sleeves, on paper."""
    raw = config.model_dump(mode="json")
    raw["execution"]["mode"] = "paper"
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


class SleeveBooks(PaperInvariants):
    """Books of one sleeve; its inputs are checked in those of the account."""

    @property
    def is_exposed(self) -> bool:
        """True if a position is open."""
        return any(self._positions.values())

    def follow(self, *, warming: bool) -> None:
        """Note whether history is being read."""
        self._warming = warming


class SleeveInvariants(Invariants):
    """Independent books of the account and of each sleeve. A sleeve's must hold as if it were alone."""

    engine: Any

    def __init__(self, *of: Any, **more: Any) -> None:
        super().__init__(*of, **more)
        self._of, self._more = of, more
        self._sleeves: dict[str, SleeveBooks] = {}
        self.crosses = 0

    def _books(self, name: str) -> SleeveBooks:
        """Return the books of a sleeve, made when it is first met."""
        account: SleevedEngine = self.engine
        books = self._sleeves.get(name)
        if books is None:
            sleeve = account.sleeves[name]
            capital = sleeve.engine.portfolio.initial
            config, market = self._of
            own = sleeve_config(config, sleeve.settings, capital)
            books = SleeveBooks(config.model_copy(update=dict(own)), market, **self._more)
            self._sleeves[name] = books
        if name in account.sleeves:
            books.engine = account.sleeves[name].engine
        books.follow(warming=self._warming)
        return books

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
        require(summed == account.portfolio.cash, f"cash {account.portfolio.cash}, of the sleeves {summed}")
        for name, sleeve in account.sleeves.items():
            self._books(name).after_event(_as_seen_by(name, event))
            if self._state is RiskState.HALTED:
                require(sleeve.engine.risk.halted, f"the account is halted, and sleeve {name} is not")
        for name, left in account.departed.items():
            closed = self._sleeves.get(name)
            require(closed is None or not closed.is_exposed, f"sleeve {name} left with a position: {left}")


def _as_seen_by(name: str, event: Event) -> Event:
    """Return the event, or a command that means nothing if it is for another sleeve."""
    if isinstance(event, Command) and event.args.get("sleeve", name) != name:
        return replace(event, action="for another sleeve")
    return event
