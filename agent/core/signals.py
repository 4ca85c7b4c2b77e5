"""Signals: what recent headlines, as the model reads them, say about each traded symbol.

One headline is one vote. It counts from a calibrated confidence (the largest of its three probabilities) of `threshold` on,
once a story and symbol, and until it is `window` old it weighs

    w(t) = confidence * 2 ** (-(t - t_vote) / half_life)

A symbol's probabilities are the confidence-weighted mean of its voters', sum(w p) / sum(w) for each class. The leading class
gives the direction (a tie is neutral), its mean probability is the signal's confidence. A signal is actionable if it says BUY
or SELL with at least `threshold`, and the voters on its side still weigh `fade_below` or more. As all votes decay alike, decay
alone never changes the probabilities, only how much weight stands behind them: that is when a signal fades.

Forgetting ends signals and makes none: only a headline can say BUY or SELL. Time comes from events alone.
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
"""Headlines that may wait for their sentiment; beyond it the oldest is dropped, and counted."""


class NewsNote(NamedTuple):
    """What a headline is about."""

    symbols: tuple[str, ...]
    story: str  # id of the first headline that told it
    duplicate: bool  # another headline told it before
    actionable: bool  # fresh enough to trade on


class SignalEngine:
    """Turns headlines and their sentiments into signals: pure, deterministic, O(1) a vote.

    Events come in the engine's order, so that time does not run backwards. `pop_expired` is due when time reaches `next_expiry`.
    `counts` says what became of every sentiment: voted, abstained, unsure (below the threshold), stale (too old to trade on),
    duplicate (of a story that has voted), unmapped (about no traded symbol); and how many waiting headlines were dropped.
    """

    def __init__(self, config: SignalsConfig, mapper: SymbolMapper, *, abstain_window: int = 50) -> None:
        self.next_expiry: int = NEVER
        """No signal can fade before this time (UTC ms)."""
        self.abstained = 0
        """Headlines so far on which the model abstained."""
        self.counts = dict.fromkeys(
            ("voted", "abstained", "unsure", "stale", "duplicate", "unmapped", "dropped"), 0
        )
        self._threshold = config.threshold
        self._mapper = mapper
        self._stories = HeadlineDeduplicator(config.story_similarity, config.story_window)
        self._waiting: OrderedDict[str, NewsNote] = OrderedDict()
        self._tallies = {symbol: SymbolVote(symbol, config) for symbol in mapper.symbols}
        self._abstentions: deque[bool] = deque(maxlen=abstain_window)

    def on_news(self, news: News) -> NewsNote:
        """Note a headline, which then waits for its sentiment."""
        story = self._stories.add(news.id, news.title, news.available_at)
        note = NewsNote(
            self._mapper.map(news.title, news.currencies), story, story != news.id, news.actionable
        )
        self._waiting[news.id] = note
        if len(self._waiting) > MAX_WAITING:
            self._waiting.popitem(last=False)
            self.counts["dropped"] += 1
        return note

    def on_sentiment(self, sentiment: Sentiment) -> list[Signal]:
        """Let a headline vote: one signal for each symbol whose vote it changed, in the order of the headline's symbols.

        Figures that are no probabilities (NaN, or not summing to 1) count as abstained.
        """
        note = self._waiting.pop(sentiment.news_id, None)
        bearish, neutral, bullish = sentiment.bearish, sentiment.neutral, sentiment.bullish
        abstained = sentiment.abstained or not 0.99 < bearish + neutral + bullish < 1.01
        self._abstentions.append(abstained)
        if abstained:
            self.abstained += 1
            self.counts["abstained"] += 1
            return []
        confidence = bearish if bearish > bullish else bullish
        if neutral > confidence:
            confidence = neutral
        if confidence < self._threshold:
            self.counts["unsure"] += 1
            return []
        if note is None:
            symbols, story = sentiment.symbols, sentiment.news_id
        elif note.actionable:
            symbols, story = sentiment.symbols or note.symbols, note.story
        else:
            self.counts["stale"] += 1
            return []
        now = sentiment.available_at
        side = leading(bearish, neutral, bullish)
        signals = []
        outcome = "unmapped"
        for symbol in symbols:
            tally = self._tallies.get(symbol)
            if tally is None:
                continue
            if not tally.is_new_story(story, now):
                outcome = "duplicate"
                continue
            due = tally.fade_at
            signals.append(
                tally.add_vote(now, sentiment.news_id, confidence, bearish, neutral, bullish, side)
            )
            if tally.fade_at < self.next_expiry:
                self.next_expiry = tally.fade_at
            elif due == self.next_expiry:
                self.next_expiry = min(tally.fade_at for tally in self._tallies.values())
        self.counts["voted" if signals else outcome] += 1
        return signals

    def concerned(self, sentiment: Sentiment) -> tuple[str, ...]:
        """The symbols for which a scored headline is news: it was judged, is fresh, and nobody told its story before.

        Ask before `on_sentiment`, with which the headline is done.
        """
        if sentiment.abstained:
            return ()
        note = self._waiting.get(sentiment.news_id)
        if note is None:
            return sentiment.symbols
        return () if note.duplicate or not note.actionable else sentiment.symbols or note.symbols

    def pop_expired(self, now: int) -> list[Signal]:
        """For each symbol whose announced BUY or SELL no longer stands: the HOLD that ends it.

        That is when the voters behind it weigh less than `fade_below` or have left the window, or when a later headline left
        the vote undecided. The HOLD has the time `now`, and the probabilities and sources of the vote that it ends.
        """
        faded = []
        while self.next_expiry <= now:
            due, self.next_expiry = self.next_expiry, NEVER
            for tally in self._tallies.values():
                if tally.fade_at == due:
                    signal = tally.fade(now)
                    if signal:
                        faded.append(signal)
                if tally.fade_at < self.next_expiry:
                    self.next_expiry = tally.fade_at
        return faded

    def fade_at(self, symbol: str) -> int:
        """The time (UTC ms) before which the signal on `symbol` can't fade; `NEVER` where there is none."""
        return self._tallies[symbol].fade_at

    def current(self, symbol: str) -> Signal | None:
        """The last signal on `symbol`; None before the first, and once it has faded."""
        return self._tallies[symbol].signal

    @property
    def abstain_rate(self) -> float:
        """Fraction of the last `abstain_window` headlines on which the model abstained; 0 until half of them are seen."""
        seen = len(self._abstentions)
        return sum(self._abstentions) / seen if seen and 2 * seen >= (self._abstentions.maxlen or 0) else 0.0
