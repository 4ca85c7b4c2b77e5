"""Mapping of headlines to traded symbols."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import InstrumentConfig, SignalsConfig
from agent.core.symbols import SymbolMapper, base_of

MACRO = SignalsConfig().macro_keywords
TRADED = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "NEARUSDT", "LINKUSDT", "BCHUSDT", "XRPUSDT")
MAPPER = SymbolMapper(TRADED, {}, MACRO)


@pytest.mark.parametrize(
    ("symbol", "base"),
    [
        ("BTCUSDT", "BTC"),
        ("BTCUSDC", "BTC"),
        ("BTC/USDT", "BTC"),
        ("BTC/USDT:USDT", "BTC"),
        ("BTC-USD", "BTC"),
        ("BTCPERP", "BTC"),
        ("BTCUSDT-27DEC24", "BTC"),
        ("XBTUSD", "BTC"),
        ("BTC", "BTC"),
        ("ethusdt", "ETH"),
        ("ETHBTC", "ETH"),
        ("USDCUSDT", "USDC"),
        ("WBTCUSDT", "WBTC"),
        ("1000PEPEUSDT", "PEPE"),
        ("10000SATSUSDT", "SATS"),
        ("1INCHUSDT", "1INCH"),
        ("SPY", "SPY"),
        ("BRK.B", "BRK.B"),
        ("SHIB1000USDT", "SHIB"),
        ("BTC_USDT", "BTC"),
        ("1000PEPE", "PEPE"),
        ("BTCJPY", "BTC"),
        ("BTC/TRY", "BTC"),
        ("AUDIOUSDT", "AUDIO"),
        ("BNBUSD", "BNB"),
    ],
)
def test_the_base_of_a_symbol(symbol: str, base: str) -> None:
    assert base_of(symbol) == base


@pytest.mark.parametrize(
    ("title", "symbols"),
    [
        ("Bitcoin slips under its weekly low", ["BTCUSDT"]),
        ("BITCOIN SLIPS UNDER ITS WEEKLY LOW", ["BTCUSDT"]),
        ("bitcoin's hash rate at a record", ["BTCUSDT"]),
        ("Five thousand bitcoins moved at once", ["BTCUSDT"]),
        ("Why $btc and #ETH part ways", ["BTCUSDT", "ETHUSDT"]),
        ("XBT futures: open interest up", ["BTCUSDT"]),
        ("A miner sells ₿120 in a week", ["BTCUSDT"]),
        ("BTC-USD touches a new high; BTCUSDT follows", ["BTCUSDT"]),
        ("Ether and Solana lead, Ripple lags", ["ETHUSDT", "SOLUSDT", "XRPUSDT"]),
        # Parts of words and longer names are not matched
        ("Together they weather the tether question", []),
        ("wBTC custody moves, stETH too", []),
        ("Bitcoin Cash forks again", ["BCHUSDT"]),
        ("Bitcoin Cash falls while bitcoin stands", ["BTCUSDT", "BCHUSDT"]),
        ("Ethereum Classic miners go home", []),
        ("Bank failures had a ripple effect", []),
        ("Card perks grow at Crypto.com", []),
        # Everyday words match only as tickers
        ("A link between the two is near", []),
        ("LINK outruns NEAR", ["NEARUSDT", "LINKUSDT"]),
        ("LINK BETWEEN MINERS AND BANKS IS NEAR", []),
        ("Traders pile into $near and $Link", ["NEARUSDT", "LINKUSDT"]),
        ("NEAR Protocol ships its upgrade", ["NEARUSDT"]),
        ("Sol rises early in July", []),
        # Macro news is about every symbol unless it names coins
        ("Fed leaves interest rate unchanged", list(TRADED)),
        ("Crypto market sheds a tenth of its value", list(TRADED)),
        ("INFLATION COOLS FOR THE THIRD MONTH", list(TRADED)),
        ("Bitcoin jumps as the Fed pauses", ["BTCUSDT"]),
        ("Polkadot votes to lower its inflation", []),
        ("The federation fedora fair opens", []),
        ("Painters and poets meet in Lisbon", []),
        ("", []),
        ("İstanbul'da Bitcoin günü: NEAR var", ["BTCUSDT", "NEARUSDT"]),
    ],
)
def test_symbols_of_a_headline(title: str, symbols: list[str]) -> None:
    assert MAPPER.map(title) == tuple(symbols)


@pytest.mark.parametrize(
    ("title", "currencies", "symbols"),
    [
        ("A quiet day", ("BTC",), ["BTCUSDT"]),
        ("A quiet day", ("btc", "XBT", "DOGE", ""), ["BTCUSDT"]),
        ("Ether wakes up", ("BTC",), ["BTCUSDT", "ETHUSDT"]),
        ("Fed speaks at noon", ("BTC",), list(TRADED)),
        ("Fed speaks at noon", ("S",), list(TRADED)),
    ],
)
def test_tickers_of_the_source_are_mapped(
    title: str, currencies: tuple[str, ...], symbols: list[str]
) -> None:
    assert MAPPER.map(title, currencies) == tuple(symbols)


def test_a_headline_maps_to_every_market_of_its_coin() -> None:
    mapper = SymbolMapper(("BTCUSDC", "ETHUSDT", "BTCUSDT"), {}, ())
    assert mapper.map("Bitcoin sleeps", ()) == ("BTCUSDC", "BTCUSDT")
    assert mapper.map("Nothing else", ("BTC",)) == ("BTCUSDC", "BTCUSDT")


def test_shares_are_known_by_ticker_and_configured_aliases() -> None:
    rules = {
        "SPY": InstrumentConfig(aliases=("S&P 500", "wall street")),
        "T": InstrumentConfig(aliases=("AT&T",)),
    }
    mapper = SymbolMapper(("SPY", "T"), rules, MACRO)
    for title in ("SPY closes flat", "Why $spy?", "The S&P 500 at a record", "Wall Street yawns"):
        assert mapper.map(title) == ("SPY",)
    assert mapper.map("A spy thriller, Plan T") == ()
    assert mapper.map("AT&T raises its prices") == ("T",)
    assert mapper.map("Bitcoin slips as the Fed speaks") == ("SPY", "T"), (
        "who trades shares has no use for the names of coins"
    )


def test_configured_aliases_take_precedence_over_the_table() -> None:
    rules = {
        "BTCUSDT": InstrumentConfig(aliases=("digital gold", "Saylor")),
        "LINKUSDT": InstrumentConfig(aliases=("link",)),
    }
    mapper = SymbolMapper(TRADED, rules, MACRO)
    assert mapper.map("Is it DIGITAL GOLD?") == ("BTCUSDT",)
    assert mapper.map("Saylor buys, says sailor") == ("BTCUSDT",)
    assert mapper.map("saylor") == (), "an alias with capitals counts only as it is written"
    assert mapper.map("the missing link") == ("LINKUSDT",)


@given(st.text(max_size=300), st.lists(st.text(max_size=8), max_size=4))
def test_any_text_maps_to_traded_symbols_in_their_order(title: str, currencies: list[str]) -> None:
    found = MAPPER.map(title, currencies)
    assert list(found) == [symbol for symbol in TRADED if symbol in found]


@given(
    st.sampled_from(["Bitcoin", "$eth", "LINK", "near protocol", "Fed", "SOLUSDT", "nothing"]),
    st.text(alphabet="0123456789 .,;:!?'’-()#\n", max_size=40),
    st.text(alphabet="0123456789 .,;:!?'’-()#\n", max_size=40),
)
def test_numbers_and_punctuation_around_a_name_are_ignored(name: str, before: str, after: str) -> None:
    assert MAPPER.map(f"on {before} {name} {after}") == MAPPER.map(f"on {name}")


@pytest.mark.slow
@pytest.mark.shared
def test_real_headlines_are_mapped_plausibly(shared_data: Path) -> None:
    news = pd.read_parquet(
        shared_data / "data/news/crypto-headlines.parquet", columns=["title", "currencies"]
    )
    mapper = SymbolMapper(("BTCUSDT", "ETHUSDT"), {}, MACRO)
    counts = Counter(mapper.map(title) for title in news.title.fillna(""))
    print(dict(counts))
    share = {symbols: count / len(news) for symbols, count in counts.items()}
    assert 0.10 < share["BTCUSDT",] < 0.20
    assert 0.04 < share["ETHUSDT",] < 0.10
    assert 0.05 < share["BTCUSDT", "ETHUSDT"] < 0.20, "macro news, and headlines that name both"
    bitcoin = news.title.str.contains(r"\bbitcoin\b(?! cash| sv|\.com)", case=False, na=False)
    assert all("BTCUSDT" in mapper.map(title) for title in news.title[bitcoin])


EVERYDAY = (
    "BTCUSDT",
    "XRPUSDT",
    "TRXUSDT",
    "SUIUSDT",
    "AVAXUSDT",
    "LDOUSDT",
    "ATOMUSDT",
    "POLUSDT",
    "PEPEUSDT",
    "DOGEUSDT",
    "XLMUSDT",
)


@pytest.mark.parametrize(
    ("title", "symbols"),
    [
        # The everyday sense, in lower case, at the beginning of a sentence, and in a title that capitalises
        # each word
        ("Layoffs ripple across the industry", []),
        ("Layoffs Ripple Across the Industry", []),
        ("Tron: Ares opens weak at the box office", []),
        ("A sui generis approach to bank regulation", []),
        ("Avalanche kills three skiers in the Alps", []),
        ("Venice Lido hotel sold to investors", []),
        ("Cosmos satellite re-enters the atmosphere", []),
        ("Polygon of exclusion announced off the coast", []),
        ("Stellar earnings lift the index", []),
        ("DOGE cuts the staff of two agencies", []),
        ("Pepe Reina retires from football", []),
        # The coin, by a term of the field, another coin, or what follows the name
        ("Ripple wins its case against the SEC", ["XRPUSDT"]),
        ("Ripple’s CEO sees more deals abroad", ["XRPUSDT"]),
        ("Avalanche token jumps after the upgrade", ["AVAXUSDT"]),
        ("Stellar Development Foundation names a new head", ["XLMUSDT"]),
        ("Tron follows bitcoin down", ["BTCUSDT", "TRXUSDT"]),
        ("Sui mainnet halts for two hours", ["SUIUSDT"]),
        ("Lido staking share falls", ["LDOUSDT"]),
        ("DOGE price slips below its average", ["DOGEUSDT"]),
        ("$LIDO and $DOGE trend", ["LDOUSDT", "DOGEUSDT"]),
        # Neither of them hides macro news
        ("Fed decision will ripple through emerging markets", list(EVERYDAY)),
        ("Fed meeting: Lido island summit", list(EVERYDAY)),
        ("Recession fears ripple", list(EVERYDAY)),
        ("Tariffs Ripple Across Global Markets", list(EVERYDAY)),
        ("Inflation avalanche: prices rise", list(EVERYDAY)),
    ],
)
def test_everyday_words_are_coins_only_in_context(title: str, symbols: list[str]) -> None:
    assert SymbolMapper(EVERYDAY, {}, MACRO).map(title) == tuple(symbols)


def test_tickers_match_in_scripts_without_capitals() -> None:
    mapper = SymbolMapper(("BTCUSDT", "SOLUSDT", "SUIUSDT", "LINKUSDT"), {}, ())
    for title, symbol in (
        ("SOLが上昇", "SOLUSDT"),
        ("SOL突破200美元", "SOLUSDT"),
        ("SUI上涨", "SUIUSDT"),
        ("LINK 상승", "LINKUSDT"),
    ):
        assert mapper.map(title) == (symbol,)
    assert mapper.map("SOL UP AGAIN TODAY") == ()  # all capitals: any word might be one


def test_a_ticker_is_not_split_into_a_pair_of_one_letter() -> None:
    assert SymbolMapper(("WUSDT", "BTCUSDT"), {}, ()).map("Wrapped coins grow", ["WBTC", "WETH"]) == ()


CJK = {
    "BTCUSDT": InstrumentConfig(aliases=("比特币", "ビットコイン", "비트코인", "биткоин")),
    "ETHUSDT": InstrumentConfig(aliases=("以太坊",)),
}


@pytest.mark.parametrize(
    ("title", "symbols"),
    [
        ("比特币BTC突破10万美元", ["BTCUSDT"]),
        ("ビットコインBTCが急騰", ["BTCUSDT"]),
        ("BTC가 10만 달러 돌파", ["BTCUSDT"]),
        ("今日比特币行情", ["BTCUSDT"]),
        ("비트코인이 급등", ["BTCUSDT"]),
        ("以太坊ETF获批", ["ETHUSDT"]),
        ("ＢＴＣ急落", ["BTCUSDT"]),
        ("美联储降息", ["BTCUSDT", "ETHUSDT"]),
        ("биткоин вырос", ["BTCUSDT"]),
        ("ставка на биткоинов", []),  # a script with spaces keeps its word boundaries
        ("wBTC 와 stETH", []),
    ],
)
def test_scripts_without_spaces(title: str, symbols: list[str]) -> None:
    assert SymbolMapper(("BTCUSDT", "ETHUSDT"), CJK, (*MACRO, "美联储")).map(title) == tuple(symbols)


@pytest.mark.parametrize(
    ("title", "currencies", "symbols"),
    [
        ("BTCUSD slides to a low", (), ["BTCUSDT"]),
        ("ETHBTC at its lowest in a year", (), ["ETHUSDT"]),
        ("BTC_USDT and ETH-PERP funding turns", (), ["BTCUSDT", "ETHUSDT"]),
        ("1000PEPE is listed", (), ["1000PEPEUSDT"]),
        ("SHIB1000 margin is cut", (), ["SHIB1000USDT"]),
        (
            "A listing",
            ("1000PEPE", "SHIB1000", "BTCUSD", "ETH/USDT"),
            ["BTCUSDT", "ETHUSDT", "1000PEPEUSDT", "SHIB1000USDT"],
        ),
        ("AUSD and STETHBTC move", (), []),
    ],
)
def test_pairs_and_multiples(title: str, currencies: tuple[str, ...], symbols: list[str]) -> None:
    traded = ("BTCUSDT", "ETHUSDT", "1000PEPEUSDT", "SHIB1000USDT")
    assert SymbolMapper(traded, {}, MACRO).map(title, currencies) == tuple(symbols)


@pytest.mark.parametrize(
    ("ticker", "known"),
    [("BTC", True), ("btcusd", True), ("1000PEPE", True), ("['BTC']", False), ("XYZQ", False)],
)
def test_a_ticker_is_known_if_it_is_a_coin_or_is_traded(ticker: str, known: bool) -> None:
    assert MAPPER.knows(ticker) is known


COINS = [
    # Title Case
    ("Sui Token Slides Ahead of Unlock", "SUI"),
    ("Avalanche Blockchain Halts for Four Hours", "AVAX"),
    ("Stellar Network Adds Native Lending", "XLM"),
    ("Tron Founder Justin Sun Denies Report", "TRX"),
    ("Lido Staking Deposits Reach a Record", "LDO"),
    ("Regulator Clears First Avalanche ETF", "AVAX"),
    ("Stablecoin Supply on Tron Tops Ethereum's", "ETH TRX"),
    ("Crypto Firm Ripple Applies for Bank Charter", "XRP"),
    ("Ripple Wins Its Case Against the SEC", "XRP"),
    ("Cosmos, Injective and Sui Lead Gains", "SUI ATOM INJ"),
    ("Bitcoin, Avalanche and Polygon Slide", "BTC AVAX POL"),
    ("Maker Protocol Votes on New Collateral", "MKR"),
    ("Pepe Memecoin Doubles in a Week", "PEPE"),
    ("Injective Mainnet Upgrade Goes Live", "INJ"),
    ("DOGE Price Slips as Traders Sell", "DOGE"),
    ("Avalanche (AVAX) Gains a Tenth", "AVAX"),
    ("Ripple Co-Founder Moves 50 Million", "XRP"),
    ("FIFA Picks Avalanche for Its Own Blockchain", "AVAX"),
    ("Tron Follows Bitcoin Lower", "BTC TRX"),
    # Sentence case
    ("Shares of miners fell as Ripple won its case against the SEC", "XRP"),
    ("Whales move millions in Avalanche before the vote", "AVAX"),
    ("Ether and Tron lead a quiet weekend", "ETH TRX"),
    ("Polygon validators approve the hard fork", "POL"),
    ("Sui mainnet stalls for the second time", "SUI"),
    ("Exchange lists Injective and Cosmos", "ATOM INJ"),
    ("Traders see more losses for Stellar as price support breaks", "XLM"),
    ("Bridge to Cosmos loses 3 million in tokens", "ATOM"),
    ("Lido, Maker and Injective pay out fees", "LDO MKR INJ"),
    ("Ripple's CEO expects a ruling in weeks", "XRP"),
    ("Airdrop hunters leave Sui", "SUI"),
    ("Stellar rallies as payments grow", "XLM"),
]
"""Headlines and their coins: by a term next to the name, by a list, or by a capital inside a sentence."""

NO_COINS = [
    # Title Case
    ("Oil Price Shock Will Ripple Through Markets", ""),
    ("Oil Price Shock Set to Ripple Down Supply Chains", ""),
    ("Bulls Expect Stellar Earnings From Retailers", ""),
    ("Avalanche Rally Falls Short Against Stars", ""),
    ("SEC Chief Warns of Avalanche of Filings", ""),
    ("Tron: Ares Ticket Prices Rise Before Opening", ""),
    ("Shareholders and Bond Holders Fear a Ripple From Default", ""),
    ("Venice Lido Hotel Prices at All-Time High", ""),
    ("Phone Maker Shares Rally After Results", ""),
    ("Chip Maker Faces SEC Probe Over Token Bonus", ""),
    ("Cosmos Flowers Lift Meme Garden Sales", ""),
    ("Stellar Quarter Sends Bank Stocks to ATH", ""),
    ("Pepe Reina Wallet Stolen at Airport", ""),
    ("Polygon Building Wins Design Prize as Prices Fall", ""),
    ("Bitcoin Miners See Power Costs Ripple Beyond Texas", "BTC"),
    ("Bitcoin's Stellar Month Ends Near a Record", "BTC"),
    ("Market Maker Fined by CFTC", ""),
    ("Crypto Layoffs Ripple Down to Suppliers", ""),
    ("Kraken Sea Monster Film Beats Tron at Box Office", ""),
    ("Injective Drug Maker Lifts Its Price Target", ""),
    # Sentence case
    ("Avalanche kills three on the way to a rally", ""),
    ("Stellar results lift prices of bank shares", ""),
    ("Maker of chips wins a bid for its rival", ""),
    ("Tron: Ares tops the charts as ticket prices rise", ""),
    ("Cosmos satellite falls into the sea", ""),
    ("Lido beach prices climb", ""),
    ("Layoffs ripple through tech as the SEC looks on", ""),
    ("Doge of Venice portrait sells at an all-time high", ""),
    ("DOGE cuts 300 jobs at the tax office", ""),
    ("Polygon of exclusion is drawn around the port", ""),
    ("Pepe scores twice as the bulls win", ""),
    ("Avalanche of claims hits insurers, whose holders sell", ""),
]
"""Headlines with the everyday meaning of the words: price, rally, SEC or holders occur in other news, too."""

UNFOUND = {
    "Stellar rallies as payments grow": "XLM",  # nothing but the verb
}
"""What the rules miss."""

ALL_COINS = SymbolMapper(
    [
        f"{coin}USDT"
        for coin in (
            "BTC",
            "ETH",
            "XRP",
            "TRX",
            "SUI",
            "AVAX",
            "LDO",
            "ATOM",
            "POL",
            "PEPE",
            "DOGE",
            "XLM",
            "INJ",
            "MKR",
            "LINK",
        )
    ],
    {},
    (),
)


@pytest.mark.parametrize(("title", "coins"), [*COINS, *NO_COINS])
def test_everyday_words_in_headlines_of_both_cases(title: str, coins: str) -> None:
    expected = set(coins.split()) - set(UNFOUND.get(title, "").split())
    assert {base_of(symbol) for symbol in ALL_COINS.map(title)} == expected


@pytest.mark.parametrize(
    ("title", "coins"),
    [
        ("Fed Fears Ripple Down to Lenders", ""),  # no evidence of a coin
        ("Grayscale Launches Avalanche Trust", "AVAX"),  # a term of coins alone, and no common noun
        ("Crypto Lenders Face an Avalanche of Claims", ""),  # the common noun
        ("Crypto Losses Ripple On", ""),  # the verb
        ("Why Is Stellar Price Up 7% Today?", "XLM"),  # a price next to it
        ("Ether ETFs Have a Stellar Start", "ETH"),
        ("Blockchain Funds Post Stellar Returns", ""),  # the adjective
        ("$SUI and $LINK Trend", "SUI LINK"),  # tickers are evidence in any case
        ("Payments Firm Ripple Opens in Dubai", ""),
        ("Crypto Payments Firm Ripple Opens in Dubai", "XRP"),
        ("Stellar and Avalanche", "XLM AVAX"),  # a list of two
        ("Stellar Avalanche", ""),
        ("Ripple, XRP and Ripple", "XRP"),
        ("RIPPLE TOKEN RISES", ""),  # capitals throughout: as before
    ],
)
def test_evidence_of_a_coin(title: str, coins: str) -> None:
    assert {base_of(symbol) for symbol in ALL_COINS.map(title)} == set(coins.split())
