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

Only a score of a model can lead to BUY or SELL: votes that leave the window end signals and create none.

A sentiment that is `provisional` votes at once, and the next one for the same headline revises it. On each
symbol the votes are then as if only the revision had been given, at the time of the first score: news don't
get younger, or weigh more, because a slower model takes longer to read them. In particular

- a vote is replaced; or withdrawn if the revision is below the threshold, or of a kind that may not vote:
  the better model has read the headline and sees no reason for a vote;
- a vote stays if the revision abstains, which states nothing about the headline;
- a headline that had not voted may vote now, unless another one of its story has;
- a headline that was a repetition or too old still doesn't vote.

The story counts as voted even if its vote was withdrawn. Otherwise each repetition would vote until its own
revision comes. The abstention rate is of first scores.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final, NamedTuple

from agent.core.deduplication import HeadlineDeduplicator
from agent.core.events import News, Sentiment, Signal
from agent.core.settings import SignalsConfig
from agent.core.symbols import SymbolMapper
from agent.core.votes import NEVER, CountedVote, SymbolVote, leading

MAX_WAITING: Final = 10_000
"""Most headlines that wait for their sentiment, and most that wait for a revision; beyond that the oldest is
dropped. Those without a sentiment are counted; a revision of the others counts as `unknown`."""

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


class FirstAnswer(NamedTuple):
    """A headline with a provisional sentiment, and the symbols on which it may have voted."""

    symbols: tuple[str, ...]
    story: str
    actionable: bool
    at: int  # time of its votes (UTC ms)


_REVISIONS: Final = ("revised", "kept", "ineffective", "late")
"""Outcomes of a revision: it changed a vote; it abstained; it changed nothing; the votes had left the window.
"""


def _are_probabilities(bearish: float, neutral: float, bullish: float) -> bool:
    """Return False for NaN, for negative numbers, and if the sum is off by more than 0.01."""
    return bearish >= 0.0 and neutral >= 0.0 and bullish >= 0.0 and 0.99 < bearish + neutral + bullish < 1.01


class SignalEngine:
    """Turns headlines and their sentiment into signals; O(1) per vote.

    Events must come in the engine's order. `pop_expired` is due when the time reaches `next_expiry`. `counts`
    has one count for each outcome of a sentiment: voted, abstained, barred (of a kind of news that may not
    vote), unsure (below the threshold), stale (too old to trade on), duplicate (the story has voted already),
    unmapped (about no traded symbol). If the outcome differs between symbols, voted takes precedence over
    duplicate, duplicate over unsure, unsure over abstained. Of a revision the outcome is revised (a vote was
    replaced, added or withdrawn), kept (it abstained), late (the first score has left the window), or
    ineffective (there was nothing to revise).

    `counts` also has the waiting headlines that were dropped, the headlines with invalid probabilities for
    the asset of at least one of their symbols, the revisions that withdrew a vote, and the sentiments that
    state no symbols and whose headline is unknown: never seen, dropped, or answered for good.
    """

    def __init__(self, config: SignalsConfig, mapper: SymbolMapper, *, abstain_window: int = 50) -> None:
        self.next_expiry: int = NEVER
        """No signal can expire before this time (UTC ms)."""
        self.abstained = 0
        """Number of headlines on which the model abstained."""
        self.counts = dict.fromkeys(
            (
                *reversed(_OUTCOMES),
                *("barred", "stale", "dropped", "invalid"),
                *(*_REVISIONS, "withdrawn", "unknown"),
            ),
            0,
        )
        self._threshold = config.threshold
        self._kinds = config.kinds
        self._mapper = mapper
        self._stories = HeadlineDeduplicator(config.story_similarity, config.story_window)
        self._window = config.window
        self._waiting: OrderedDict[str, MappedHeadline] = OrderedDict()
        self._provisional: OrderedDict[str, FirstAnswer] = OrderedDict()
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
        """Add or revise a headline's votes; return one signal per symbol whose votes have changed, in the
        order of its symbols. After a revision call `pop_expired`, since it may leave a symbol without votes.

        Probabilities that are NaN or do not sum to 1 (± 0.01) count as abstained: those of the headline for
        all symbols, those of an asset for its symbols.
        """
        headline = self._waiting.pop(sentiment.news_id, None)
        if headline is None:
            first = self._provisional.get(sentiment.news_id)
            if first is not None:
                return self._revise(sentiment, first)
        if sentiment.provisional:
            self._await_revision(sentiment, headline)
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
            if not symbols:
                self.counts["unknown"] += 1
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
            self._reschedule(vote.check_at, due)
        self.counts[_OUTCOMES[reached]] += 1
        if invalid:
            self.counts["invalid"] += 1
        return signals

    def _await_revision(self, sentiment: Sentiment, headline: MappedHeadline | None) -> None:
        """Remember the facts that a revision of the headline needs."""
        at = sentiment.available_at
        if headline is None:
            first = FirstAnswer(sentiment.symbols, sentiment.news_id, True, at)
        else:
            symbols = sentiment.symbols or headline.symbols
            first = FirstAnswer(symbols, headline.story, headline.actionable, at)
        self._provisional[sentiment.news_id] = first
        if len(self._provisional) > MAX_WAITING:
            self._provisional.popitem(last=False)

    def _revise(self, sentiment: Sentiment, first: FirstAnswer) -> list[Signal]:
        """Replace the votes of the headline's first score; return one signal per symbol that has votes left
        and whose votes have changed.
        """
        news_id, now, counts = sentiment.news_id, sentiment.available_at, self.counts
        if not sentiment.provisional:
            del self._provisional[news_id]
        if sentiment.abstained or not _are_probabilities(
            sentiment.bearish, sentiment.neutral, sentiment.bullish
        ):
            counts["kept"] += 1
            return []
        if first.at <= now - self._window:
            counts["late"] += 1
            return []
        symbols = (sentiment.symbols or first.symbols) if first.actionable else ()
        barred = sentiment.kind != "" and sentiment.kind not in self._kinds
        signals = []
        changed = withdrawn = invalid = False
        for symbol in dict.fromkeys((*symbols, *first.symbols)):
            vote = self._votes.get(symbol)
            if vote is None:
                continue
            answer = sentiment.of(vote.asset)
            bearish, neutral, bullish = answer.bearish, answer.neutral, answer.bullish
            if not _are_probabilities(bearish, neutral, bullish):
                invalid = True
                continue
            confidence = max(bearish, neutral, bullish)
            votes = symbol in symbols and not barred and confidence >= self._threshold
            voted = vote.has_vote(news_id, first.at)
            due = vote.check_at
            signal: Signal | None = None
            if votes and (voted or vote.register_story(first.story, now)):
                side = leading(bearish, neutral, bullish)
                signal = vote.set_vote(
                    now, first.at, news_id, confidence, bearish, neutral, bullish, side, sentiment.kind
                )
            elif voted:
                signal = vote.withdraw_vote(now, first.at, news_id)
                withdrawn = True
            else:
                continue
            changed = True
            if signal is not None:
                signals.append(signal)
            self._reschedule(vote.check_at, due)
        counts["revised" if changed else "ineffective"] += 1
        counts["withdrawn"] += withdrawn
        counts["invalid"] += invalid
        return signals

    def _reschedule(self, check_at: int, due: int) -> None:
        """Update `next_expiry` after a vote whose check was due at `due` and is now at `check_at`."""
        if check_at < self.next_expiry:
            self.next_expiry = check_at
        elif due == self.next_expiry:
            self.next_expiry = min(vote.check_at for vote in self._votes.values())

    def waiting(self, news_id: str) -> MappedHeadline | None:
        """Return a headline that waits for its sentiment; None if it doesn't."""
        return self._waiting.get(news_id)

    def is_revision(self, sentiment: Sentiment) -> bool:
        """Return whether a sentiment revises an earlier one. Call it before `on_sentiment`."""
        news_id = sentiment.news_id
        return news_id in self._provisional and news_id not in self._waiting

    def affected_symbols(self, sentiment: Sentiment) -> tuple[str, ...]:
        """Return the symbols of a headline that was scored, is recent, and is the first of its story;
        otherwise (). A revision affects none: a fusion model was trained with the model of the first scores.

        Call it before `on_sentiment`, which removes the headline.
        """
        if sentiment.abstained:
            return ()
        headline = self._waiting.get(sentiment.news_id)
        if headline is None:
            return () if sentiment.news_id in self._provisional else sentiment.symbols
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

    def votes(self, symbol: str, now: int) -> list[CountedVote]:
        """Return the votes that count on `symbol` at `now` (UTC ms)."""
        return self._votes[symbol].counted(now)

    @property
    def abstain_rate(self) -> float:
        """Share of abstentions in the last `abstain_window` headlines; 0 until half of them have come."""
        seen = len(self._abstentions)
        return sum(self._abstentions) / seen if seen and 2 * seen >= (self._abstentions.maxlen or 0) else 0.0
