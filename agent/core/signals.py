"""Signals: one vote per symbol, from the sentiment of recent headlines.

A headline votes if its confidence, the largest of its three calibrated probabilities, is at least
`threshold`. Of each story one headline votes per symbol. Until a vote is `window` old it weighs

    w(t) = confidence * 2 ** (-(t - t_vote) / half_life)

The probabilities of a symbol are the weighted means of its votes, sum(w p) / sum(w) for each class. The class
with the largest mean gives the direction (a tie is neutral) and the confidence. A signal is actionable if its
direction is BUY or SELL, its confidence at least `threshold`, and the votes for its direction weigh at least
`fade_below`. Decay alone never changes the means, because all votes decay at the same rate; it reduces the
weight behind them until the signal expires.

On a symbol whose asset has its own probabilities in the sentiment (BTC for BTCUSDT and BTCPERP), the headline
votes with these, and with their confidence. On all other symbols it votes with those of the headline as a
whole. A headline does not vote if its kind of news is not in `kinds`; without a kind it may vote.

Only a new headline can lead to BUY or SELL: votes that leave the window end signals and create none.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final, NamedTuple

from agent.core.deduplication import HeadlineDeduplicator
from agent.core.events import News, Sentiment, Signal
from agent.core.settings import SignalsConfig
from agent.core.symbols import SymbolMapper
from agent.core.votes import NEVER, SymbolVote, leading

MAX_WAITING: Final = 10_000
"""Most headlines that wait for their sentiment; beyond that the oldest is dropped and counted."""

_OUTCOMES: Final = ("unmapped", "abstained", "unsure", "duplicate", "voted")
"""Outcomes of a headline on one symbol, in order of precedence: the last one is counted."""
_UNMAPPED: Final = 0
_ABSTAINED: Final = 1
_UNSURE: Final = 2
_DUPLICATE: Final = 3
_VOTED: Final = 4


class MappedHeadline(NamedTuple):
    """The symbols and the story of a headline."""

    symbols: tuple[str, ...]
    story: str  # id of the story's first headline
    duplicate: bool  # True if this is not the story's first headline
    actionable: bool  # True if it is recent enough to trade on


def _are_probabilities(bearish: float, neutral: float, bullish: float) -> bool:
    """Return False for NaN, for negative numbers, and if the sum is off by more than 0.01."""
    return bearish >= 0.0 and neutral >= 0.0 and bullish >= 0.0 and 0.99 < bearish + neutral + bullish < 1.01


class SignalEngine:
    """Turns headlines and their sentiment into signals; O(1) per vote.

    Events must come in the engine's order. `pop_expired` is due when the time reaches `next_expiry`. `counts`
    has one count for each outcome of a sentiment: voted, abstained, barred (of a kind of news that may not
    vote), unsure (below the threshold), stale (too old to trade on), duplicate (the story has voted already),
    unmapped (about no traded symbol). If the outcome differs between symbols, voted takes precedence over
    duplicate, duplicate over unsure, unsure over abstained. `counts` also has the waiting headlines that were
    dropped, and the headlines with invalid probabilities for the asset of at least one of their symbols.
    """

    def __init__(self, config: SignalsConfig, mapper: SymbolMapper, *, abstain_window: int = 50) -> None:
        self.next_expiry: int = NEVER
        """No signal can expire before this time (UTC ms)."""
        self.abstained = 0
        """Number of headlines on which the model abstained."""
        self.counts = dict.fromkeys((*reversed(_OUTCOMES), "barred", "stale", "dropped", "invalid"), 0)
        self._threshold = config.threshold
        self._kinds = config.kinds
        self._mapper = mapper
        self._stories = HeadlineDeduplicator(config.story_similarity, config.story_window)
        self._waiting: OrderedDict[str, MappedHeadline] = OrderedDict()
        self._votes = {symbol: SymbolVote(symbol, config) for symbol in mapper.symbols}
        self._abstentions: deque[bool] = deque(maxlen=abstain_window)

    def on_news(self, news: News) -> MappedHeadline:
        """Map a headline, which then waits for its sentiment."""
        story = self._stories.add(news.id, news.title, news.available_at)
        symbols = self._mapper.map(news.title, news.currencies)
        headline = MappedHeadline(symbols, story, story != news.id, news.actionable)
        self._waiting[news.id] = headline
        if len(self._waiting) > MAX_WAITING:
            self._waiting.popitem(last=False)
            self.counts["dropped"] += 1
        return headline

    def on_sentiment(self, sentiment: Sentiment) -> list[Signal]:
        """Add a headline's votes; return one signal per symbol that it voted on, in the order of its symbols.

        Probabilities that are NaN or do not sum to 1 (± 0.01) count as abstained: those of the headline for
        all symbols, those of an asset for its symbols.
        """
        headline = self._waiting.pop(sentiment.news_id, None)
        bearish, neutral, bullish = sentiment.bearish, sentiment.neutral, sentiment.bullish
        abstained = sentiment.abstained or not 0.99 < bearish + neutral + bullish < 1.01
        self._abstentions.append(abstained)
        if abstained:
            self.abstained += 1
            self.counts["abstained"] += 1
            return []
        kind = sentiment.kind
        if kind and kind not in self._kinds:
            self.counts["barred"] += 1
            return []
        confidence = bearish if bearish > bullish else bullish
        if neutral > confidence:
            confidence = neutral
        assets = sentiment.assets
        if confidence < self._threshold and not assets:
            self.counts["unsure"] += 1
            return []
        if headline is None:
            symbols, story = sentiment.symbols, sentiment.news_id
        elif headline.actionable:
            symbols, story = sentiment.symbols or headline.symbols, headline.story
        else:
            self.counts["stale"] += 1
            return []
        now = sentiment.available_at
        side = leading(bearish, neutral, bullish)
        signals = []
        reached = _UNMAPPED
        invalid = False
        for symbol in symbols:
            vote = self._votes.get(symbol)
            if vote is None:
                continue
            if assets:
                answer = sentiment.of(vote.asset)
                bearish, neutral, bullish = answer.bearish, answer.neutral, answer.bullish
                if not _are_probabilities(bearish, neutral, bullish):
                    invalid = True
                    reached = max(reached, _ABSTAINED)
                    continue
                confidence = max(bearish, neutral, bullish)
                if confidence < self._threshold:
                    reached = max(reached, _UNSURE)
                    continue
                side = leading(bearish, neutral, bullish)
            if not vote.register_story(story, now):
                reached = max(reached, _DUPLICATE)
                continue
            reached = _VOTED
            due = vote.check_at
            signals.append(
                vote.add_vote(now, sentiment.news_id, confidence, bearish, neutral, bullish, side, kind)
            )
            if vote.check_at < self.next_expiry:
                self.next_expiry = vote.check_at
            elif due == self.next_expiry:
                self.next_expiry = min(vote.check_at for vote in self._votes.values())
        self.counts[_OUTCOMES[reached]] += 1
        if invalid:
            self.counts["invalid"] += 1
        return signals

    def affected_symbols(self, sentiment: Sentiment) -> tuple[str, ...]:
        """Return the symbols of a headline that was scored, is recent, and is the first of its story;
        otherwise ().

        Call it before `on_sentiment`, which removes the headline.
        """
        if sentiment.abstained:
            return ()
        headline = self._waiting.get(sentiment.news_id)
        if headline is None:
            return sentiment.symbols
        unusable = headline.duplicate or not headline.actionable
        return () if unusable else sentiment.symbols or headline.symbols

    def pop_expired(self, now: int) -> list[Signal]:
        """Return a HOLD for each symbol whose actionable signal has expired.

        A signal expires if the votes behind it weigh less than `fade_below` or have left the window, or if a
        later headline leaves the vote undecided. The HOLD carries the time `now`, and the probabilities and
        sources of the signal that it ends.
        """
        expired = []
        while self.next_expiry <= now:
            due, self.next_expiry = self.next_expiry, NEVER
            for vote in self._votes.values():
                if vote.check_at == due:
                    signal = vote.expire(now)
                    if signal:
                        expired.append(signal)
                if vote.check_at < self.next_expiry:
                    self.next_expiry = vote.check_at
        return expired

    def earliest_expiry(self, symbol: str) -> int:
        """Return the time (UTC ms) before which the symbol's signal can't expire; `NEVER` without one."""
        return self._votes[symbol].check_at

    def current(self, symbol: str) -> Signal | None:
        """Return the last signal on `symbol`; None before the first, and after it has expired."""
        return self._votes[symbol].signal

    @property
    def abstain_rate(self) -> float:
        """Share of abstentions in the last `abstain_window` headlines; 0 until half of them have come."""
        seen = len(self._abstentions)
        return sum(self._abstentions) / seen if seen and 2 * seen >= (self._abstentions.maxlen or 0) else 0.0
