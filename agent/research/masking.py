"""The masked twin: the same headlines without the names of coins and companies, read by the same model.

A model that judges what a headline says loses little by it. One that has learned which names went up loses its edge.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
import numpy as np

from agent.analysis.significance import Difference, difference
from agent.config import Config
from agent.core.errors import UsageError
from agent.core.events import Event, News, Sentiment
from agent.core.symbols import base_of, coin_names
from agent.data.merge import merge
from agent.data.sentiment import NamedScorer
from agent.research.evidence import PERIODS_PER_YEAR
from agent.research.material import Material
from agent.research.rehearsal import Stage
from agent.research.workers import Advance

COIN: Final = "the coin"
COMPANY: Final = "the company"

COMPANIES: Final = (
    "21Shares", "a16z", "Alameda", "Alameda Research", "Amazon", "Apple", "ARK", "ARK Invest", "Bakkt", "Bank of America", "Binance",
    "Binance.US", "Bitdeer", "Bitfarms", "Bitfinex", "Bitget", "Bithumb", "BitMEX", "Bitmain", "BitMine", "Bitpanda", "Bitstamp",
    "Bitwise", "BlackRock", "Block.one", "BlockFi", "Bybit", "Cantor Fitzgerald", "Cboe", "Celsius", "Chainalysis", "Charles Schwab",
    "Circle", "Citadel", "Citi", "Citigroup", "CleanSpark", "CME", "CME Group", "Coinbase", "CoinDesk", "CoinShares", "ConsenSys",
    "Consensys", "Core Scientific", "Crypto.com", "Cumberland", "Custodia", "DBS", "Deribit", "Deutsche Bank", "Digital Currency Group",
    "Elliptic", "eToro", "Facebook", "Fidelity", "Fireblocks", "Franklin Templeton", "FTX", "Galaxy Digital", "GameStop", "Gate.io",
    "Gemini", "Genesis", "Goldman Sachs", "Google", "Grayscale", "Hashdex", "HashKey", "HSBC", "HTX", "Huobi", "Hut 8", "Invesco",
    "JPMorgan", "JP Morgan", "Jane Street", "Jump Crypto", "Jump Trading", "Kraken", "KuCoin", "MARA", "Marathon Digital", "Mastercard",
    "MEXC", "Meta", "MetaMask", "Metaplanet", "MicroStrategy", "Microsoft", "Morgan Stanley", "Mt. Gox", "Mt Gox", "Nasdaq", "Nomura",
    "Nvidia", "NYSE", "OKX", "OpenAI", "OpenSea", "Osprey", "Pantera", "Paxos", "PayPal", "ProShares", "Revolut", "Riot", "Riot Platforms",
    "Robinhood", "Samsung", "SBI", "Semler Scientific", "Signature Bank", "Silvergate", "Silvergate Bank", "Sony", "SpaceX",
    "Standard Chartered", "State Street", "Stripe", "Telegram", "Terraform Labs", "Tesla", "Tether", "Three Arrows Capital", "Twitter",
    "UBS", "Upbit", "Valkyrie", "VanEck", "Vanguard", "Visa", "Voyager", "Wells Fargo", "WisdomTree", "xAI",
)  # fmt: skip
"""Names that crypto headlines are full of, as they are written."""

_TICKER: Final = re.compile(r"\$[A-Za-z][A-Za-z0-9]{1,9}\b")


class Masker:
    """Replaces names: coins' by `COIN`, companies' by `COMPANY`. A name in lower case is found in any case, others as written."""

    def __init__(self, coins: Iterable[str], companies: Iterable[str] = COMPANIES) -> None:
        loose = [name for name in coins if name == name.lower()]
        strict = [name for name in coins if name != name.lower()]
        self._steps = [
            (_words(companies), COMPANY),
            (_TICKER, COIN),
            (_words(strict), COIN),
            (_words(loose, re.IGNORECASE), COIN),
        ]

    def mask(self, text: str) -> str:
        """The text without names."""
        for pattern, instead in self._steps:
            text = pattern.sub(instead, text)
        return text

    def title(self, news: News) -> str:
        """A headline's masked title."""
        return self.mask(news.title)


def masker_for(config: Config, names: Sequence[str] = ()) -> Masker:
    """Knows the major coins, what is traded with its aliases, the companies above, and `names`."""
    traded = [base_of(symbol) for symbol in config.market.symbols]
    aliases = [alias for rules in config.instruments.values() for alias in rules.aliases]
    return Masker([*coin_names(), *traded, *aliases], [*COMPANIES, *names])


class Masked(msgspec.Struct, frozen=True):
    """The twin runs. Passed unless the masked one is worse by more than luck explains.

    - `masked`: headlines that had a name; `relabelled`: of those, where the likeliest class changed; `reversed`: from bullish to bearish or
      back; `shift`: mean absolute change of bullish minus bearish.
    - `difference`: masked minus real, by the paired bootstrap of daily returns; None where neither moved for long enough.
    """

    passed: bool
    strategy: str
    headlines: int
    masked: int
    relabelled: int
    reversed: int
    shift: float
    total_return: float
    masked_return: float
    trades: int
    masked_trades: int
    difference: Difference | None
    examples: list[tuple[str, str]]


def check_masked(
    material: Material, scorer: NamedScorer, masker: Masker, *, seed: int = 0, advance: Advance | None = None
) -> Masked:
    """Replay a settled `material`, and its twin in which `scorer` read masked titles: which coin a headline is about stays known."""
    tell = advance or (lambda: None)
    stage = Stage(material.plan, material.config, scorer)
    history = stage.history
    if not history.news:
        raise UsageError(
            "there are no headlines to mask",
            hint="--news FILE: scores that were made elsewhere can't be made again",
        )
    wire = list(merge(history.wire(scorer=scorer, text=masker.title)))
    tell()
    real = stage.rehearse()
    tell()
    twin = stage.rehearse(wire=wire)
    tell()
    before, after = _scores(stage.wire), _scores(wire)
    changed = [news for news in history.news if masker.title(news) != news.title]
    pairs = [(before[news.id], after[news.id]) for news in changed if news.id in before and news.id in after]
    labels = [(_label(one), _label(other)) for one, other in pairs]
    compared = difference(twin.returns, real.returns, PERIODS_PER_YEAR, seed=seed)
    return Masked(
        passed=compared is None or compared.total_return.high >= 0,
        strategy=material.config.strategy.name,
        headlines=len(history.news),
        masked=len(changed),
        relabelled=sum(one != other for one, other in labels),
        reversed=sum(one * other < 0 for one, other in labels),
        shift=float(np.mean([abs(one.score - other.score) for one, other in pairs])) if pairs else 0.0,
        total_return=real.total_return,
        masked_return=twin.total_return,
        trades=real.metrics.trades.trades + real.metrics.open_trades,
        masked_trades=twin.metrics.trades.trades + twin.metrics.open_trades,
        difference=compared,
        examples=[(news.title, masker.title(news)) for news in changed[:3]],
    )


def _scores(wire: Iterable[Event]) -> dict[str, Sentiment]:
    return {event.news_id: event for event in wire if isinstance(event, Sentiment)}


def _label(sentiment: Sentiment) -> int:
    """-1 bearish, 0 neutral or abstained, 1 bullish."""
    if sentiment.abstained or sentiment.neutral >= max(sentiment.bearish, sentiment.bullish):
        return 0
    return 1 if sentiment.bullish > sentiment.bearish else -1


def _words(names: Iterable[str], flags: int = 0) -> re.Pattern[str]:
    longest = sorted(set(names), key=lambda name: (-len(name), name))
    return re.compile(r"(?<![\w$])(?:" + "|".join(map(re.escape, longest)) + r")(?:'s)?(?!\w)", flags)
