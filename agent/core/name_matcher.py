"""Finds names of coins in headlines: whole words, and everyday words only if the headline is evidence."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import groupby, pairwise
from typing import Final, NamedTuple

_TERMS: Final = (
    r"crypto\w*|blockchains?|on-?chain|(?:stable|alt|meme)?coins?|tokens?|tokeni[sz]\w+|de-?fi|nfts?|web3|"
    r"dapps?|daos?|dex|staking|mainnet|testnet|airdrops?|smart contracts?|layer[- ]?[12]|layer (?:one|two)|"
    r"l[12]s?|rollups?|validators?|hodl\w*|subnets?|zkevm|evm|tvl|metaverse|cbdcs?|usdt|usdc|usdd|rlusd|"
    r"digital (?:assets?|currenc(?:y|ies)|dollar|euro|yuan)|binance|coinbase|bitfinex|bitstamp|bittrex|huobi|"
    r"htx|okx|okex|bybit|upbit|bithumb|kucoin|ftx|grayscale|coinshares|xrpl|ripplenet|yield farm\w*|"
    r"multi-?chain|cross-?chain|sidechain\w*|depeg\w*|hard fork"
)
"""Terms that occur only in news about coins."""

_WEAK_TERMS: Final = (
    r"stak(?:e|ed|er|ers)|wallets?|whales?|market cap|tether|kraken|gemini|bitwise|moneygram|sec|cftc|"
    r"prices?|ath|holders|meme|all-time high|rally|rallies|rallied|bulls|bears|rug pull|trading pairs?|"
    r"perpetuals?|futures listing|sandbox land|axelar"
)
"""Terms that occur in other news, too."""


class _Terms(NamedTuple):
    """Patterns that decide whether a word of a headline is the name of a coin."""

    term: re.Pattern[str]
    any_term: re.Pattern[str]  # weak ones too
    after: re.Pattern[str]  # a term directly after the name: `Stellar Network`, `Ripple’s CEO`
    before: re.Pattern[str]  # directly before it: `stablecoin on Tron`, `crypto firm Ripple`, `altcoin Sui`


@cache
def _terms() -> _Terms:
    """Compile the patterns when the first such word comes: most commands meet none, and it takes 15 ms."""
    after = (
        rf"(?:['’]s?)?[ -](?:native )?(?:{_TERMS}|network|chain|(?:development )?foundation|labs|hub|"
        r"protocol|ecosystem|dao|whales?|wallets?|etfs?|etps?|spot etfs?|prices?|based|ceo|cto|co-?founder|"
        r"ledger)(?![A-Za-z])"
    )
    before = (
        rf"(?<![A-Za-z])(?:(?:{_TERMS})(?: [a-z]+)? on|(?:{_TERMS}) (?:of|for|by|from|with|via|firm|company|"
        r"giant|issuer|startup|platform|network|project|protocol|rival|payments firm)|blockchains?|"
        r"(?:stable|alt|meme)?coins?|tokens?|cryptocurrency|layer[- ]?[12]|l[12]) (?:the )?$"
    )
    term = rf"(?<![A-Za-z])(?:{_TERMS})(?![A-Za-z])"
    any_term = rf"(?<![A-Za-z])(?:{_TERMS}|{_WEAK_TERMS})(?![A-Za-z])"
    return _Terms(*(re.compile(pattern, re.IGNORECASE) for pattern in (term, any_term, after, before)))


_AS_WORDS: Final = frozenset(("maker", "ripple", "stellar"))
"""Names that are ordinary words in Title Case, so that only an adjacent term is evidence of the coin."""

_OWN_TERMS: Final = {
    "ripple": re.compile(r"\b(?:sec|garlinghouse|larsen|alderoty|odl|xrpl?)\b", re.IGNORECASE),
    "tron": re.compile(r"\b(?:justin sun|usdd)\b", re.IGNORECASE),
}
"""Terms that are evidence of one coin anywhere in a headline."""

_LIST: Final = re.compile(r"(?: ?\([^)]*\))?(?:,? (?:and|or|vs\.?|versus|&|\+) |, ?| ?/ ?)", re.IGNORECASE)
"""Separator between two names of a list: `Cosmos, Injective and Sui`."""

_SMALL_WORD: Final = re.compile(
    "about|after|against|amid|among|and|are|before|between|but|for|from|have|into|its|nor|not|off|onto|out|"
    "over|per|than|that|the|through|toward|towards|under|until|upon|via|was|when|while|will|with|within|"
    "without|yet"
)
_LOWER_CASE: Final = re.compile(r"(?<![\w'’$#@.-])[a-z]{3,}(?!\w|\.\w)")
_SENTENCE_START: Final = re.compile(r"(?:^|[.:;?!–—|-] )[\W_]*$")
_AFTER_A_RIPPLE: Final = "effect effects across through throughout into out over beyond around"
_NOT_COINS: Final = (
    *(f"ripple {word}" for word in _AFTER_A_RIPPLE.split()),
    *("sui generis", "into the ether", "through the ether", "crypto.com", "bitcoin.com"),
)
SAME_COIN: Final = {"XBT": "BTC", "MATIC": "POL"}
"""Former and other tickers of one coin."""

QUOTES: Final = "USDT|USDC|FDUSD|DAI|USD|EUR|GBP|JPY|AUD|CAD|CHF|TRY|BRL|KRW|BTC|ETH|PERP"
"""Currencies and coins in which pairs are quoted."""

_PAIR_IN_TEXT: Final = re.compile(rf"(?:10{{3,}})?([A-Z0-9]{{2,}}?)(?:10{{3,}})?(?:[-_/]?(?:{QUOTES}))?")
_UNSPACED: Final = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uac00-\ud7af\uf900-\ufaff"
)
"""Letters of scripts without spaces between words (Thai, Lao, Burmese, Khmer, Japanese, Chinese), and of
Korean, whose particles follow a word directly. A word of another script ends at such a letter."""

_ANY_UNSPACED: Final = re.compile(f"[{_UNSPACED}]")
_LETTER: Final = rf"[^\W{_UNSPACED}]"
_WORD: Final = re.compile(rf"(?<!{_LETTER})[A-Z0-9][A-Z0-9_/-]*(?!{_LETTER})")
_RULES: Final = 1
"""Version of the rules by which names are found; part of a digest."""

_FULL_WIDTH: Final = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {ord("İ"): "I"}
"""Maps to letters of equal length in both cases, so that positions in a title and its lower case agree."""


class _Meaning(NamedTuple):
    symbols: tuple[str, ...]
    spellings: tuple[str, ...]  # accepted spellings; () if case doesn't matter
    everyday: tuple[str, ...]  # the spellings that are everyday words and need evidence
    macro: bool


class Mention(NamedTuple):
    """A name at title[start:end], and what it stands for."""

    start: int
    end: int
    symbols: tuple[str, ...]


class Reading(NamedTuple):
    """What a headline mentions. `named`: a coin, traded or not, beyond doubt. `macro`: a macro keyword."""

    mentions: tuple[Mention, ...]
    named: bool
    macro: bool


class NameMatcher:
    """Finds names of coins and macro keywords in headlines; a name stands for symbols or tickers."""

    def __init__(self) -> None:
        self._meanings: dict[str, _Meaning] = {}
        self._bases: dict[str, tuple[str, ...]] = {}
        self._find: Callable[[str], Iterator[re.Match[str]]] | None = None

    def add_base(self, base: str, symbols: tuple[str, ...]) -> None:
        """Let pairs and multiples of the coin `base` (`ETHBTC`, `1000PEPE`) stand for `symbols`."""
        self._bases[base] = symbols

    def add(self, alias: str, symbols: tuple[str, ...], *, macro: bool = False) -> None:
        """Let `alias` stand for `symbols`; a later meaning replaces an earlier one.

        A question mark at the end marks an everyday word, which needs evidence.
        """
        text = alias.strip()
        needs_context = len(text) > 1 and text.endswith("?")
        text = text.removesuffix("?") if needs_context else text
        key = text.lower()
        if not key:
            return
        known = self._meanings.get(key)
        # True if this is another spelling of the same name
        same = known is not None and known.symbols == symbols and known.macro == macro
        spellings = known.spellings if known is not None and same else ()
        everyday = known.everyday if known is not None and same else ()
        self._meanings[key] = _Meaning(
            symbols,
            () if text == key else (*spellings, text),
            (*everyday, text) if needs_context else everyday,
            macro,
        )
        self._find = None

    @property
    def digest(self) -> str:
        """Hash of the rules, the names and what they stand for."""
        content = repr((_RULES, sorted(self._meanings.items()), sorted(self._bases.items())))
        return hashlib.sha256(content.encode()).hexdigest()

    def read(self, title: str) -> Reading:
        """Return the names that `title` mentions; positions are those of `title`."""
        title = title.translate(_FULL_WIDTH)
        if self._find is None:
            self._find = _pattern((*self._meanings, *_NOT_COINS)).finditer
        everyday: list[Mention] = []
        mentions: list[Mention] = []
        macro = False
        # In a script without spaces the Latin letters of a headline are tickers
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
            mention = Mention(match.start(), match.end(), meaning.symbols)
            mentions.append(mention)
            if spelling in meaning.everyday:
                everyday.append(mention)
        pairs = list(self._pairs(title))
        named = len(mentions) > len(everyday) or bool(pairs)
        if everyday:
            listed = _listed(title, mentions)
            titled = _is_title_case(title)
            doubtful = {
                mention
                for mention in everyday
                if mention not in listed and not _is_coin(title, mention, titled=titled, named=named)
            }
            mentions = [mention for mention in mentions if mention not in doubtful]
        return Reading(tuple(sorted({*mentions, *pairs})), named, macro)

    def _pairs(self, title: str) -> Iterator[Mention]:
        """Yield pairs and multiples in capitals: `ETHBTC`, `1000PEPE`, `SHIB1000`."""
        for word in _WORD.finditer(title):
            match = _PAIR_IN_TEXT.fullmatch(word.group())
            if match is None or match[1] == word.group():
                continue
            base = SAME_COIN.get(match[1], match[1])
            if base in self._bases:
                yield Mention(word.start(), word.end(), self._bases[base])


def _is_coin(title: str, mention: Mention, *, titled: bool, named: bool) -> bool:
    """Return whether an everyday word written like a coin's name means the coin.

    `titled` is True for a headline in Title Case, `named` if it names another coin. A term of `_TERMS` next
    to the word is always evidence. Other evidence depends on capitals. Inside a sentence, a capital letter
    suggests a name, and any term in the headline or another coin suffices. At the start of a sentence a
    capital means nothing: a term of `_TERMS` or another coin is needed. In Title Case the word must also not
    look like a common noun ("a ripple of"), unless it is a ticker in capitals.
    """
    word = title[mention.start : mention.end]
    terms = _terms()
    if terms.after.match(title, mention.end) or terms.before.search(title, 0, mention.start):
        return True
    own = _OWN_TERMS.get(word.lower())
    if own is not None and own.search(title):
        return True
    ticker = word.isupper()
    if titled and not ticker:
        before, after = title[: mention.start].lower(), title[mention.end :].lower()
        is_noun = before.endswith((" a ", " an ")) or after.startswith(" of ")
        evidence = named or terms.term.search(title) is not None
        return word.lower() not in _AS_WORDS and not is_noun and evidence
    starts = not ticker and _SENTENCE_START.search(title, 0, mention.start) is not None
    return named or (terms.term if starts else terms.any_term).search(title) is not None


def _is_title_case(title: str) -> bool:
    """Return whether only small words (of, the, with) begin in lower case."""
    return all(_SMALL_WORD.fullmatch(word) for word in _LOWER_CASE.findall(title))


def _listed(title: str, mentions: list[Mention]) -> set[Mention]:
    """Return the mentions next to another coin's name in a list, which confirm each other."""
    return {
        one
        for first, second in pairwise(mentions)
        if first.symbols != second.symbols and _LIST.fullmatch(title, first.end, second.start)
        for one in (first, second)
    }


def _pattern(aliases: Iterable[str]) -> re.Pattern[str]:
    """Compile a pattern for whole-word aliases, longest first, grouped by first character for speed."""
    ordered = sorted(set(aliases), key=lambda alias: (alias[0], -len(alias), alias))
    words = "|".join(_group([alias for alias in ordered if not _is_unspaced(alias[0])]))
    anywhere = _group([alias for alias in ordered if _is_unspaced(alias[0])])
    return re.compile("|".join([f"(?<!{_LETTER})(?:{words})", *anywhere]))


def _group(ordered: Iterable[str]) -> Iterator[str]:
    """Yield patterns for the aliases by their first character; a sign such as ₿ may precede a number.

    All first characters whose aliases end with a word share one check of what follows, since to compile the
    class of letters takes longer than all the rest of the pattern.
    """
    words: list[str] = []
    for first, group in groupby(ordered, key=lambda alias: alias[0]):
        runs = [(word, _any_rest(run)) for word, run in groupby(group, key=_ends_word)]
        if all(word for word, _ in runs):
            words.append(re.escape(first) + "".join(rests for _, rests in runs))
        else:
            rests = (rests + (f"(?!{_LETTER})" if word else "") for word, rests in runs)
            yield re.escape(first) + "(?:" + "|".join(rests) + ")"
    if words:
        yield "(?:" + "|".join(words) + f")(?!{_LETTER})"


def _any_rest(aliases: Iterable[str]) -> str:
    return "(?:" + "|".join(re.escape(alias[1:]) for alias in aliases) + ")"


def _ends_word(alias: str) -> bool:
    return alias[-1].isalnum() and not _is_unspaced(alias[-1])


def _is_unspaced(letter: str) -> bool:
    return re.fullmatch(f"[{_UNSPACED}]", letter) is not None
