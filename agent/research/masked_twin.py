"""Masked-twin check: the same model reads the same headlines without the names of coins and companies.

A model that reads the sentence loses little by it. A model that memorised which names went up loses its edge.

A masked headline names no asset, so no single asset of it can be scored. Both replays therefore use the
scores of headlines as a whole; otherwise the check would blame the masking for what the model loses by not
knowing which asset is meant.
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
from agent.research.assessment import PERIODS_PER_YEAR
from agent.research.parallel import Advance
from agent.research.replay_inputs import ReplayInputs
from agent.research.replay_variants import count_check, evaluation_of
from agent.research.replay_window import LoadedWindow

COIN: Final = "the coin"
COMPANY: Final = "the company"

_COMPANY_NAMES: Final = """
21Shares, a16z, Alameda, Alameda Research, Amazon, Apple, ARK, ARK Invest, Bakkt, Bank of America, Binance,
Binance.US, Bitdeer, Bitfarms, Bitfinex, Bitget, Bithumb, BitMEX, Bitmain, BitMine, Bitpanda, Bitstamp,
Bitwise, BlackRock, Block.one, BlockFi, Bybit, Cantor Fitzgerald, Cboe, Celsius, Chainalysis, Charles
Schwab, Circle, Citadel, Citi, Citigroup, CleanSpark, CME, CME Group, Coinbase, CoinDesk, CoinShares,
ConsenSys, Consensys, Core Scientific, Crypto.com, Cumberland, Custodia, DBS, Deribit, Deutsche Bank,
Digital Currency Group, Elliptic, eToro, Facebook, Fidelity, Fireblocks, Franklin Templeton, FTX, Galaxy
Digital, GameStop, Gate.io, Gemini, Genesis, Goldman Sachs, Google, Grayscale, Hashdex, HashKey, HSBC, HTX,
Huobi, Hut 8, Invesco, JPMorgan, JP Morgan, Jane Street, Jump Crypto, Jump Trading, Kraken, KuCoin, MARA,
Marathon Digital, Mastercard, MEXC, Meta, MetaMask, Metaplanet, MicroStrategy, Microsoft, Morgan Stanley,
Mt. Gox, Mt Gox, Nasdaq, Nomura, Nvidia, NYSE, OKX, OpenAI, OpenSea, Osprey, Pantera, Paxos, PayPal,
ProShares, Revolut, Riot, Riot Platforms, Robinhood, Samsung, SBI, Semler Scientific, Signature Bank,
Silvergate, Silvergate Bank, Sony, SpaceX, Standard Chartered, State Street, Stripe, Telegram, Terraform
Labs, Tesla, Tether, Three Arrows Capital, Twitter, UBS, Upbit, Valkyrie, VanEck, Vanguard, Visa, Voyager,
Wells Fargo, WisdomTree, xAI
"""

COMPANIES: Final = tuple(" ".join(name.split()) for name in _COMPANY_NAMES.split(","))
"""Company names that are frequent in crypto headlines, spelled as they appear there."""

_TICKER: Final = re.compile(r"\$[A-Za-z][A-Za-z0-9]{1,9}\b")


class Masker:
    """Replaces names of coins by `COIN` and of companies by `COMPANY`.

    A name given in lower case matches in any case, others match only as given.
    """

    def __init__(self, coins: Iterable[str], companies: Iterable[str] = COMPANIES) -> None:
        any_case = [name for name in coins if name == name.lower()]
        exact_case = [name for name in coins if name != name.lower()]
        self._substitutions = [
            (_pattern(companies), COMPANY),
            (_TICKER, COIN),
            (_pattern(exact_case), COIN),
            (_pattern(any_case, re.IGNORECASE), COIN),
        ]

    def mask(self, text: str) -> str:
        """Replace all names in `text`."""
        for pattern, replacement in self._substitutions:
            text = pattern.sub(replacement, text)
        return text

    def title(self, news: News) -> str:
        """Return the masked title of a headline."""
        return self.mask(news.title)


def masker_for(config: Config, names: Sequence[str] = ()) -> Masker:
    """Build a masker for major coins, the traded symbols and their aliases, `COMPANIES`, and `names`."""
    traded = [base_of(symbol) for symbol in config.market.symbols]
    aliases = [alias for rules in config.instruments.values() for alias in rules.aliases]
    return Masker([*coin_names(), *traded, *aliases], [*COMPANIES, *names])


class MaskedCheck(msgspec.Struct, frozen=True):
    """Result of both replays. It passes unless the masked one is worse by more than luck explains.

    - `masked`: headlines with a name; `relabelled`: those of them whose likeliest class changed; `reversed`:
      those that changed from bullish to bearish or back; `shift`: mean absolute change of bullish minus
      bearish.
    - `own_answers`: headlines with scores of single assets, which both replays leave out.
    - `difference`: masked minus real, paired bootstrap of daily returns; None if neither moved for long
      enough.
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
    own_answers: int = 0


def check_masked(
    inputs: ReplayInputs,
    scorer: NamedScorer,
    masker: Masker,
    *,
    seed: int = 0,
    advance: Advance | None = None,
) -> MaskedCheck:
    """Replay settled `inputs` with real titles and with masked ones.

    Each headline keeps the symbols of its real title. Raises UsageError without headlines.
    """
    step = advance or (lambda: None)
    window = LoadedWindow(inputs.plan, inputs.config, scorer)
    history = window.history
    if not history.news:
        raise UsageError(
            "there are no headlines to mask", hint="--news FILE: scores from a file can't be computed again"
        )
    masked_events = whole_answers(merge(history.news_sources(scorer=scorer, text=masker.title)))
    step()
    real_events = whole_answers(window.news_events)
    real = window.replay(news_events=real_events)
    step()
    twin = window.replay(news_events=masked_events)
    step()
    count_check(inputs, evaluation_of(inputs, window, real, {"check": "masked"}))
    before, after = _scores(real_events), _scores(masked_events)
    changed = [news for news in history.news if masker.title(news) != news.title]
    pairs = [(before[news.id], after[news.id]) for news in changed if news.id in before and news.id in after]
    labels = [(_label(one), _label(other)) for one, other in pairs]
    compared = difference(twin.returns, real.returns, PERIODS_PER_YEAR, seed=seed)
    return MaskedCheck(
        passed=compared is None or compared.total_return.high >= 0,
        strategy=inputs.config.strategy.name,
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
        own_answers=sum(bool(own.assets) for own in _scores(window.news_events).values()),
    )


def whole_answers(events: Iterable[Event]) -> list[Event]:
    """Return the events, with only the scores of headlines as a whole."""
    return [
        msgspec.structs.replace(event, assets=()) if isinstance(event, Sentiment) and event.assets else event
        for event in events
    ]


def _scores(events: Iterable[Event]) -> dict[str, Sentiment]:
    return {event.news_id: event for event in events if isinstance(event, Sentiment)}


def _label(sentiment: Sentiment) -> int:
    """Return -1 for bearish, 1 for bullish, 0 for neutral or abstained."""
    if sentiment.abstained or sentiment.neutral >= max(sentiment.bearish, sentiment.bullish):
        return 0
    return 1 if sentiment.bullish > sentiment.bearish else -1


def _pattern(names: Iterable[str], flags: int = 0) -> re.Pattern[str]:
    longest_first = sorted(set(names), key=lambda name: (-len(name), name))
    return re.compile(r"(?<![\w$])(?:" + "|".join(map(re.escape, longest_first)) + r")(?:'s)?(?!\w)", flags)
