"""Which traded symbols a headline is about: by the source's own tickers, and by the names and tickers in its text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby, pairwise
from typing import Final, NamedTuple

from agent.core.settings import InstrumentConfig

_COINS: Final[dict[str, str]] = {
    "BTC": "btc|xbt|bitcoin|bitcoins|₿",
    "ETH": "eth|ether|ethereum",
    "XRP": "xrp|Ripple?",
    "SOL": "SOL|solana",
    "BNB": "bnb|binance coin|binancecoin",
    "DOGE": "dogecoin|DOGE?|Doge?",
    "ADA": "ADA|cardano",
    "TRX": "trx|Tron?|TRON?",
    "TON": "TON|toncoin|the open network",
    "AVAX": "avax|Avalanche?",
    "SHIB": "shib|shiba inu",
    "DOT": "DOT|polkadot",
    "LINK": "LINK|chainlink",
    "BCH": "bch|bitcoin cash",
    "LTC": "ltc|litecoin",
    "POL": "POL|matic|Polygon?",
    "NEAR": "NEAR|near protocol",
    "UNI": "UNI|uniswap",
    "APT": "APT|Aptos",
    "SUI": "SUI|Sui?",
    "ICP": "ICP|Internet Computer?",
    "ETC": "ETC?|ethereum classic",
    "XLM": "xlm|stellar lumens|Stellar?",
    "XMR": "xmr|monero",
    "HBAR": "hbar|hedera",
    "ATOM": "ATOM|Cosmos?",
    "FIL": "FIL|filecoin",
    "ARB": "ARB|arbitrum",
    "OP": "OP?",
    "INJ": "INJ|Injective?",
    "AAVE": "aave",
    "MKR": "mkr|makerdao|Maker?",
    "LDO": "ldo|Lido?|LIDO?",
    "ALGO": "ALGO|algorand",
    "VET": "VET|vechain",
    "XTZ": "xtz|tezos",
    "EOS": "EOS",
    "PEPE": "PEPE|Pepe?|pepecoin",
    "BONK": "BONK|Bonk?",
    "FLOKI": "FLOKI|Floki?|floki inu",
    "WIF": "WIF|dogwifhat",
    "KAS": "KAS|kaspa",
    "TIA": "TIA|celestia",
    "SEI": "SEI",
    "TAO": "TAO|bittensor",
    "WLD": "wld|worldcoin",
    "ONDO": "ONDO|Ondo",
    "ENA": "ENA|ethena",
    "JUP": "JUP",
    "HYPE": "HYPE|hyperliquid",
    "RUNE": "RUNE|thorchain",
    "STX": "STX?",
    "SAND": "SAND|The Sandbox?",
    "MANA": "MANA|decentraland",
    "AXS": "axs|axie infinity",
    "GALA": "GALA|Gala Games",
    "ONE": "ONE?",
    "GAS": "GAS?",
    "ZEC": "zec|zcash",
    "BSV": "bsv|bitcoin sv",
}
"""Aliases of the major coins. An alias in lower case matches in any case; one with capitals only as it is written: otherwise it is
an everyday word (link, near), or too short to be sure of. An alias with a question mark is an everyday word even as it is written
(Avalanche, Lido, DOGE): it needs evidence (see `_is_coin`), and never hides a macro keyword."""

_TERMS: Final = (
    r"crypto\w*|blockchains?|on-?chain|(?:stable|alt|meme)?coins?|tokens?|tokeni[sz]\w+|de-?fi|nfts?|web3|dapps?|daos?|dex|staking|"
    r"mainnet|testnet|airdrops?|smart contracts?|layer[- ]?[12]|layer (?:one|two)|l[12]s?|rollups?|validators?|hodl\w*|subnets?|zkevm|evm|"
    r"tvl|metaverse|cbdcs?|usdt|usdc|usdd|rlusd|digital (?:assets?|currenc(?:y|ies)|dollar|euro|yuan)|binance|coinbase|bitfinex|bitstamp|"
    r"bittrex|huobi|htx|okx|okex|bybit|upbit|bithumb|kucoin|ftx|grayscale|coinshares|xrpl|ripplenet|yield farm\w*|multi-?chain|"
    r"cross-?chain|sidechain\w*|depeg\w*|hard fork"
)
"""Terms that belong to coins alone."""

_WEAK_TERMS: Final = (
    r"stak(?:e|ed|er|ers)|wallets?|whales?|market cap|tether|kraken|gemini|bitwise|moneygram|sec|cftc|prices?|ath|holders|meme|"
    r"all-time high|rally|rallies|rallied|bulls|bears|rug pull|trading pairs?|perpetuals?|futures listing|sandbox land|axelar"
)
"""Terms that other news has too."""

_TERM: Final = re.compile(rf"(?<![A-Za-z])(?:{_TERMS})(?![A-Za-z])", re.IGNORECASE)
_ANY_TERM: Final = re.compile(rf"(?<![A-Za-z])(?:{_TERMS}|{_WEAK_TERMS})(?![A-Za-z])", re.IGNORECASE)
_AFTER: Final = re.compile(
    rf"(?:['’]s?)?[ -](?:native )?(?:{_TERMS}|network|chain|(?:development )?foundation|labs|hub|protocol|ecosystem|dao|"
    r"whales?|wallets?|etfs?|etps?|spot etfs?|prices?|based|ceo|cto|co-?founder|ledger)(?![A-Za-z])",
    re.IGNORECASE,
)
"""A term right behind the name: `Stellar Network`, `Ripple’s CEO`."""

_BEFORE: Final = re.compile(
    rf"(?<![A-Za-z])(?:(?:{_TERMS})(?: [a-z]+)? on|(?:{_TERMS}) (?:of|for|by|from|with|via|firm|company|giant|issuer|startup|platform|"
    r"network|project|protocol|rival|payments firm)|blockchains?|(?:stable|alt|meme)?coins?|tokens?|cryptocurrency|layer[- ]?[12]|l[12])"
    r" (?:the )?$",
    re.IGNORECASE,
)
"""A term right before it: `stablecoin on Tron`, `crypto firm Ripple`, `altcoin Sui`."""

_AS_WORDS: Final = frozenset(("maker", "ripple", "stellar"))
"""Names that Title Case writes like the verb, the adjective and the noun: only a term next to them is evidence there."""

_OWN_TERMS: Final = {
    "ripple": re.compile(r"\b(?:sec|garlinghouse|larsen|alderoty|odl|xrpl?)\b", re.IGNORECASE),
    "tron": re.compile(r"\b(?:justin sun|usdd)\b", re.IGNORECASE),
}
"""Terms that, anywhere in a headline, belong to one of these names."""

_LIST: Final = re.compile(r"(?: ?\([^)]*\))?(?:,? (?:and|or|vs\.?|versus|&|\+) |, ?| ?/ ?)", re.IGNORECASE)
"""What stands between two names of a list: `Cosmos, Injective and Sui`."""

_SMALL_WORD: Final = re.compile(
    "about|after|against|amid|among|and|are|before|between|but|for|from|have|into|its|nor|not|off|onto|out|over|per|than|that|the|"
    "through|toward|towards|under|until|upon|via|was|when|while|will|with|within|without|yet"
)
_LOWER_CASE: Final = re.compile(r"(?<![\w'’$#@.-])[a-z]{3,}(?!\w|\.\w)")
_SENTENCE_START: Final = re.compile(r"(?:^|[.:;?!–—|-] )[\W_]*$")
_NOT_COINS: Final = (
    *(f"ripple {what}" for what in ("effect", "effects", "across", "through", "throughout", "into", "out", "over", "beyond", "around")),
    "sui generis", "into the ether", "through the ether", "crypto.com", "bitcoin.com",
)  # fmt: skip
_SAME_COIN: Final = {"XBT": "BTC", "MATIC": "POL"}
_QUOTES: Final = "USDT|USDC|FDUSD|DAI|USD|EUR|GBP|JPY|AUD|CAD|CHF|TRY|BRL|KRW|BTC|ETH|PERP"
_PAIR: Final = re.compile(rf"(?:10+)?([A-Z0-9]+?)(?:10{{3,}})?(?:[-_]?(?:{_QUOTES})(?![A-Z]).*|[/:].*)?")
_PAIR_IN_TEXT: Final = re.compile(rf"(?:10{{3,}})?([A-Z0-9]{{2,}}?)(?:10{{3,}})?(?:[-_/]?(?:{_QUOTES}))?")
_UNSPACED: Final = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
"""Letters of scripts that put no spaces between words: Thai, Lao, Burmese, Khmer, Japanese, Chinese; and Korean, whose particles
follow a word directly. A word of another script ends at them."""

_ANY_UNSPACED: Final = re.compile(f"[{_UNSPACED}]")
_LETTER: Final = rf"[^\W{_UNSPACED}]"
_WORD: Final = re.compile(rf"(?<!{_LETTER})[A-Z0-9][A-Z0-9_/-]*(?!{_LETTER})")
_FULL_WIDTH: Final = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {ord("İ"): "I"}
"""To letters with as many characters in either case, so that positions in a title and in its lower case are the same."""


class _Meaning(NamedTuple):
    symbols: tuple[str, ...]
    spellings: tuple[str, ...]  # that count; () if case doesn't matter
    everyday: tuple[str, ...]  # those of the spellings that need context
    macro: bool


class _Mention(NamedTuple):
    start: int
    end: int
    symbols: tuple[str, ...]


def base_of(symbol: str) -> str:
    """The coin or share behind a traded symbol: `BTCUSDT`, `BTC/USDT:USDT` -> BTC, `1000PEPEUSDT` -> PEPE, `SPY` -> SPY."""
    match = _PAIR.fullmatch(symbol.upper())
    base = match[1] if match else symbol.upper()
    return _SAME_COIN.get(base, base)


def coin_names() -> tuple[str, ...]:
    """Names and tickers of the major coins; one with capitals means a coin only as it is written."""
    return tuple(alias for aliases in _COINS.values() for alias in aliases.split("|"))


class SymbolMapper:
    """Maps a headline to the traded `symbols` that it is about.

    A coin is found as a whole word by the names of the built-in table, by `$ticker`, by the symbol itself or another pair of it, and
    by the `aliases` of its instrument in the configuration, which follow the table's rule of capitals and take precedence over it. In
    Chinese, Japanese, Korean and other scripts without spaces, an alias matches anywhere. If a whole headline is in capitals,
    capitals carry no information. A headline that has one of `macro_keywords` and names no coin, traded or not, is about every
    symbol: "Fed cuts rates" moves all, "Polkadot cuts inflation" does not.
    """

    def __init__(
        self,
        symbols: Iterable[str],
        instruments: Mapping[str, InstrumentConfig],
        macro_keywords: Iterable[str],
    ) -> None:
        self.symbols: Final = tuple(dict.fromkeys(symbols))
        self._by_base: dict[str, tuple[str, ...]] = {}
        for symbol in self.symbols:
            base = base_of(symbol)
            self._by_base[base] = (*self._by_base.get(base, ()), symbol)
        self._order = {symbol: number for number, symbol in enumerate(self.symbols)}
        self._meanings: dict[str, _Meaning] = {}
        for keyword in macro_keywords:
            self._learn(keyword, self.symbols, macro=True)
        for symbol in self.symbols:
            self._learn(_ticker(symbol), (symbol,))
        # Who trades no coin has no use for their names: to him "Bitcoin slips as Fed holds rates" is news of the Fed
        coins = _COINS if self._by_base.keys() & _COINS else {}
        for base in coins.keys() | self._by_base.keys():
            traded = self._by_base.get(base, ())
            self._learn("$" + base.lower(), traded)
            for alias in coins.get(base, _ticker(base)).split("|"):
                self._learn(alias, traded)
        configured: dict[str, tuple[str, ...]] = {}
        for symbol in self.symbols:
            for alias in instruments[symbol].aliases if symbol in instruments else ():
                configured[alias] = (*configured.get(alias, ()), symbol)
        for alias, named in configured.items():
            self._learn(alias, named)
        self._find = _pattern((*self._meanings, *_NOT_COINS)).finditer

    def map(self, title: str, currencies: Iterable[str] = ()) -> tuple[str, ...]:
        """The symbols in traded order, () where the headline is about none; `currencies` are tickers that the source names."""
        title = title.translate(_FULL_WIDTH)
        found: set[str] = set()
        everyday: list[_Mention] = []
        mentions: list[_Mention] = []
        macro = False
        # else its few Latin letters are tickers
        shouted = title.isupper() and _ANY_UNSPACED.search(title) is None
        for match in self._find(title.lower()):
            meaning = self._meanings.get(match.group())
            if meaning is None:
                continue
            spelling = title[match.start() : match.end()]
            if meaning.spellings and (spelling not in meaning.spellings or shouted):
                continue
            if meaning.macro:
                macro = True
                continue
            mention = _Mention(match.start(), match.end(), meaning.symbols)
            mentions.append(mention)
            if spelling in meaning.everyday:
                everyday.append(mention)
            else:
                found.update(meaning.symbols)
        named = len(mentions) > len(everyday)
        for symbols in self._pairs(title):
            named = True
            found.update(symbols)
        if everyday:
            listed = _listed(title, mentions)
            titled = _is_title_case(title)
            for mention in everyday:
                if mention in listed or _is_coin(title, mention, titled=titled, named=named):
                    found.update(mention.symbols)
        if macro and not named:
            return self.symbols
        for ticker in currencies:
            found.update(self._by_base.get(self._base_of_ticker(ticker.upper()), ()))
        return tuple(sorted(found, key=self._order.__getitem__))

    def knows(self, ticker: str) -> bool:
        """True if `ticker`, as a source names it, is a coin of the table or is traded."""
        base = self._base_of_ticker(ticker.upper())
        return base in _COINS or base in self._by_base

    def _base_of_ticker(self, ticker: str) -> str:
        """`BTC`, and `BTC` of `XBT`, `BTCUSD`, `BTC_USDT`; `PEPE` of `1000PEPE`."""
        if ticker in self._by_base or ticker in _COINS:
            return ticker
        base = base_of(ticker)
        return base if len(base) > 1 or not ticker.isalnum() else ticker  # WBTC is no pair of W

    def _pairs(self, title: str) -> Iterator[tuple[str, ...]]:
        """The symbols of pairs and multiples written in capitals: `BTCUSD`, `ETHBTC`, `BTC_USDT`, `1000PEPE`, `SHIB1000`."""
        for word in _WORD.findall(title):
            match = _PAIR_IN_TEXT.fullmatch(word)
            if match is None or match[1] == word:
                continue
            base = _SAME_COIN.get(match[1], match[1])
            if base in self._by_base or base in _COINS:
                yield self._by_base.get(base, ())

    def _learn(self, alias: str, symbols: tuple[str, ...], *, macro: bool = False) -> None:
        text = alias.strip()
        needs_context = len(text) > 1 and text.endswith("?")
        text = text.removesuffix("?") if needs_context else text
        key = text.lower()
        if not key:
            return
        known = self._meanings.get(key)
        # another spelling of the same name
        same = known is not None and known.symbols == symbols and known.macro == macro
        spellings = known.spellings if known is not None and same else ()
        everyday = known.everyday if known is not None and same else ()
        self._meanings[key] = _Meaning(
            symbols,
            () if text == key else (*spellings, text),
            (*everyday, text) if needs_context else everyday,
            macro,
        )


def _is_coin(title: str, mention: _Mention, *, titled: bool, named: bool) -> bool:
    """Whether an everyday word that is written as a coin's name is one; `named` if the headline names another coin.

    A term of coins next to the word is evidence in any headline. What else is depends on what a capital means. In Title Case it means
    nothing, unless all letters are capitals: a term that belongs to coins alone, or another coin, is needed, and no sign of a common noun.
    At the beginning of a sentence likewise; inside a sentence any term will do.
    """
    word = title[mention.start : mention.end]
    if _AFTER.match(title, mention.end) or _BEFORE.search(title, 0, mention.start):
        return True
    own = _OWN_TERMS.get(word.lower())
    if own is not None and own.search(title):
        return True
    ticker = word.isupper()
    if titled and not ticker:
        counted = title[: mention.start].lower().endswith((" a ", " an ")) or title[
            mention.end :
        ].lower().startswith(" of ")
        return word.lower() not in _AS_WORDS and not counted and (named or _TERM.search(title) is not None)
    starts = not ticker and _SENTENCE_START.search(title, 0, mention.start) is not None
    return named or (_TERM if starts else _ANY_TERM).search(title) is not None


def _is_title_case(title: str) -> bool:
    """Whether no word but small ones (of, the, with) begins in lower case."""
    return all(_SMALL_WORD.fullmatch(word) for word in _LOWER_CASE.findall(title))


def _listed(title: str, mentions: list[_Mention]) -> set[_Mention]:
    """Names that stand next to another coin's name in a list, which confirm each other."""
    return {
        one
        for first, second in pairwise(mentions)
        if first.symbols != second.symbols and _LIST.fullmatch(title, first.end, second.start)
        for one in (first, second)
    }


def _ticker(name: str) -> str:
    """As a headline may print it: a single letter is a word of its own ("AT&T", "Plan B"), and only `$T` is a ticker."""
    return name if len(name) > 1 else ""


def _pattern(aliases: Iterable[str]) -> re.Pattern[str]:
    """Any alias as a whole word, longest first, grouped by first character so that most words fail at once."""
    ordered = sorted(set(aliases), key=lambda alias: (alias[0], -len(alias), alias))
    groups = (
        ("" if _is_unspaced(first) else f"(?<!{_LETTER})")
        + re.escape(first)
        + "(?:"
        + "|".join(_rest(alias) for alias in group)
        + ")"
        for first, group in groupby(ordered, key=lambda alias: alias[0])
    )
    return re.compile("|".join(groups))


def _rest(alias: str) -> str:
    """An alias after its first character; a sign such as ₿ may stand right before a number."""
    ends_word = alias[-1].isalnum() and not _is_unspaced(alias[-1])
    return re.escape(alias[1:]) + (f"(?!{_LETTER})" if ends_word else "")


def _is_unspaced(letter: str) -> bool:
    return re.fullmatch(f"[{_UNSPACED}]", letter) is not None
