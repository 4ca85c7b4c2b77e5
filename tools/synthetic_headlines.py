"""Generate labelled statements of fictional companies: figures, contracts, closures, funding, routine.

Company reports compare figures with those of the previous year, but headlines seldom do, and the direction of
such a comparison follows from the numbers alone. The training texts therefore include generated statements.
Names, amounts and periods are random and describe no real event.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from models.labels import LABELS
from models.sentiment.train.datasets import Example

_GOOD: Final = (
    "Operating profit",
    "Net sales",
    "Turnover",
    "Net profit",
    "Revenue",
    "Profit before taxes",
    "Earnings per share",
    "EBITDA",
    "Order intake",
    "The order book",
    "Pre-tax profit",
    "Cash flow from operations",
    "Sales",
    "Gross margin",
    "Market share",
    "Passenger numbers",
    "Deliveries",
    "Trading volume",
    "Assets under management",
    "Production",
)
"""Quantities whose rise is bullish."""
_BAD: Final = (
    "Net loss",
    "Operating loss",
    "Pre-tax loss",
    "Credit losses",
    "Net debt",
    "Interest expenses",
    "The loss per share",
)
_NAMES: Final = (
    "Halvard",
    "Norvane",
    "Torvex",
    "Quillex",
    "Pelagon",
    "Sarnholm",
    "Oskari Steel",
    "Vantolin",
    "Merisalo",
    "Brightquay",
    "Kestrion",
    "Lumivaara",
    "Aldergate",
    "Rautio Group",
    "Fenmark",
    "Tivola",
    "Corvane",
    "Ellswick",
    "Ostrava Tools",
    "Numerra",
)
_COINS: Final = (
    "bitcoin",
    "ether",
    "Solana",
    "Cardano",
    "stablecoin",
    "XRP",
    "crypto",
    "NFT",
    "DeFi",
    "token",
)
_GOODS: Final = (
    "cranes",
    "engines",
    "mobile networks",
    "software",
    "paperboard",
    "elevators",
    "steel parts",
    "turbines",
    "chargers",
)
_BRANCHES: Final = (
    "a bank",
    "a city",
    "a shipyard",
    "a power company",
    "a retail chain",
    "the defence forces",
    "a hospital",
)
_REGULATORS: Final = (
    "Regulator",
    "Central bank",
    "Watchdog",
    "Tax authority",
    "Court",
    "Financial supervisor",
    "Prosecutors",
)
_UP: Final = ("rose", "increased", "grew", "climbed", "went up", "improved")
_DOWN: Final = ("fell", "decreased", "declined", "dropped", "went down", "slipped")
_WIDENED: Final = ("widened", "increased", "grew")
_NARROWED: Final = ("narrowed", "shrank", "decreased")
_PERIODS: Final = (
    "the quarter",
    "the second quarter",
    "the first half",
    "the financial year",
    "the review period",
    "the nine months",
)
_BEFORE: Final = (
    "a year earlier",
    "in the corresponding period",
    "a year ago",
    "in the previous year",
    "in the same period last year",
)

_BULLISH: Final = (
    "{name} wins a contract to supply {goods} to {branch}",
    "{name} has been awarded an order worth {amount} by {branch}",
    "{name} signs a long-term agreement to deliver {goods}",
    "{name} to expand its plant and hire {count} people",
    "The investment of {amount} doubles the capacity of {name}'s factory",
    "{name} acquires {other} to strengthen its position",
    "{name} receives regulatory approval for its new product",
    "{name} opens a new office as demand for {goods} grows",
    "The agreement is expected to have a positive effect on {name}'s result",
    "{name} raises its full-year outlook",
    "{name} and {other} agree to cooperate on the development of {goods}",
    "{name} returns to profit in {period}",
    "{name} raises {amount} in a funding round led by {other}",
    "{coin} platform {name} closes {amount} round",
    "{name} launches {coin} trading for its clients",
    "{name} to let customers pay with {coin}",
    "{name} now accepts {coin}",
    "{name} partners with {other} to bring {coin} to more people",
    "{name} buys {amount} of {coin} for its balance sheet",
    "{name} adds support for {coin}",
    "{name} unveils {coin} marketplace",
    "Fund of {amount} set up to back {coin} projects",
    "{name} gets licence to offer {coin} services",
    "{coin} adoption grows as {name} joins in",
    "{coin} leads gains among top coins",
    "{name} plans listing on the stock exchange at a valuation of {amount}",
    "Bank {name} is on a hiring spree for its {coin} desk",
    "{name} chief: {coin} is here to stay",
    "{name} integrates {other} to speed up {coin} payments",
)
_BEARISH: Final = (
    "{name} to lay off {count} people",
    "{name} closes its plant and cuts {count} jobs",
    "{name} lowers its full-year outlook",
    "{name} starts negotiations on temporary lay-offs of {count} employees",
    "{name} cuts production of {goods} as orders dry up",
    "The result of {name} turned to a loss in {period}",
    "{name} issues a profit warning",
    "{name} loses an order of {goods} to {other}",
    "{name} writes down {amount} of its assets",
    "Weak demand for {goods} weighed on the result of {name}",
    "{branch} cancels its order of {goods} from {name}",
    "{name} recalls {goods} after faults",
    "Strike halts the mills of {name}",
    "{name} is fined {amount} for overcharging",
    "{name} expects the market for {goods} to weaken further",
    "{regulator} opens investigation into {coin} exchange {name}",
    "{regulator} proposes tighter rules for {coin} firms",
    "{regulator} bars {name} from offering {coin}",
    "{regulator} orders seizure of {coin} wallets",
    "{regulator} sues {name} over {coin}",
    "{regulator} warns consumers against {coin}",
    "{name} loses {amount} in {coin} exploit",
    "{name} suspends {coin} withdrawals",
    "Founder of {coin} project {name} arrested",
    "{coin} slides as sellers take over",
    "Investors pull {amount} out of {coin} funds",
    "{name} stops selling {coin} miners in the country",
    "Ransom of {amount} in {coin} demanded from {branch}",
)
_NEUTRAL: Final = (
    "{name} will publish its report for {period} in the morning",
    "{name} employs {count} people",
    "{name} makes {goods}",
    "The annual general meeting of {name} elected the members of the board",
    "{name} is headquartered in the capital",
    "The value of the deal between {name} and {other} was not disclosed",
    "The shares of {name} are listed on the stock exchange",
    "{name} has appointed a new head of communications",
    "Net sales of {name} were {amount} and it had {count} employees",
    "Operating profit totalled {amount} in {period}",
    "Revenue of the unit was {amount} in {period}",
    "The holding of {other} in {name} crossed the limit of one twentieth of the votes",
    "The building will have {count} square metres",
    "{name} expects net sales to remain at the level of the previous year",
    "The subscription period of the options begins today",
    "The plant uses some {count} tonnes of raw material a year",
    "The transaction is subject to the customary approvals",
    "The contract also covers maintenance for {count} months",
    "{name} and {other} are the owners of the joint company",
    "What is {coin} and how does it work?",
    "How to store {coin} safely",
    "{coin} explained: what the terms mean",
    "A brief history of {coin}",
    "{name} lawyer answers questions on {coin} taxes",
    "Opinion: the case for and against {coin}",
    "{name} chief of {coin} steps down",
    "Survey asks what people think of {coin}",
    "{coin} price little changed",
    "Why some people own {coin} and others do not",
    "{name} publishes research paper on {coin}",
    "{branch} studies {coin}",
)


def statements(count: int, seed: int) -> list[Example]:
    """Return `count` distinct statements, a third of them per class.

    If `count` is not divisible by three, it is rounded down. The same `seed` gives the same statements.
    """
    rng = random.Random(seed)
    kinds: dict[str, tuple[Callable[[random.Random], str], ...]] = {
        "bearish": (lambda r: _compared(r, better=False), lambda r: _filled(r, _BEARISH)),
        "neutral": (lambda r: _filled(r, _NEUTRAL),),
        "bullish": (lambda r: _compared(r, better=True), lambda r: _filled(r, _BULLISH)),
    }
    found: dict[str, str] = {}
    for label in LABELS:
        wanted = len(found) + count // len(LABELS)
        while len(found) < wanted:
            found.setdefault(rng.choice(kinds[label])(rng), label)
    return [Example(text, label, where="statements") for text, label in found.items()]


def _compared(rng: random.Random, *, better: bool) -> str:
    """Compare a quantity with an earlier period; `better` means that the company improved."""
    bad = rng.random() < 0.25
    rises = better != bad
    low, high = sorted((rng.uniform(1, 400), rng.uniform(1, 400)))
    high = max(high, low * 1.08)
    unit = rng.choice(("EUR {} mn", "{} million euros", "$ {} million", "EUR{} m", "{} million"))
    now, before = (unit.format(f"{figure:.1f}") for figure in ((high, low) if rises else (low, high)))
    what, name, period, earlier = (
        rng.choice(some) for some in (_BAD if bad else _GOOD, _NAMES, _PERIODS, _BEFORE)
    )
    verb = rng.choice((_WIDENED if rises else _NARROWED) if bad else _UP if rises else _DOWN)
    inner = what.removeprefix("The ")
    inner = inner if inner.isupper() else inner[0].lower() + inner[1:]
    if rng.random() < 0.1:
        turns = ("swung to a profit of {} from a loss of {}", "turned to a loss of {} from a profit of {}")
        return f"{name} {turns[not better].format(now, before)} {earlier}"
    return rng.choice(
        (
            f"{what} {verb} to {now} from {before} {earlier}",
            f"{name}'s {inner} {verb} to {now} in {period} from {before} {earlier}",
            f"{what} totalled {now}, compared to {before} {earlier}",
            f"{what} was {now}, against {before} {earlier}",
            f"{name} posted {inner} of {now} in {period}, {'up' if rises else 'down'} from {before} "
            f"{earlier}",
            f"{name} said its {inner} for {period} came in at {now} versus {before} {earlier}",
            f"In {period}, {name}'s {inner} {verb} by {rng.uniform(3, 60):.1f} % to {now}",
            f"{what} of {name} {verb} {rng.uniform(3, 60):.0f} % on the year to {now}",
        )
    )


def _filled(rng: random.Random, patterns: tuple[str, ...]) -> str:
    name, other = rng.sample(_NAMES, 2)
    text = rng.choice(patterns).format(
        name=name,
        other=other,
        amount=rng.choice(("${} million", "EUR {} mn", "{} million euros")).format(rng.randint(2, 600)),
        count=rng.randint(20, 900),
        goods=rng.choice(_GOODS),
        branch=rng.choice(_BRANCHES),
        period=rng.choice(_PERIODS),
        coin=rng.choice(_COINS),
        regulator=rng.choice(_REGULATORS),
    )
    return text[0].upper() + text[1:]
