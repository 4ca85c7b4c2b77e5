"""The running vote on one symbol, updated incrementally; `agent.core.signals` states its rules."""

from __future__ import annotations

from collections import deque
from itertools import islice
from math import floor, log2
from typing import Final, NamedTuple, TypeAlias

from agent.core.events import BUY, HOLD, SELL, Direction, Signal
from agent.core.settings import SignalsConfig
from agent.core.symbols import base_of

NEVER: Final = 1 << 61  # a compiled integer of one word
"""A time that is never reached (ms)."""

MAX_SOURCES: Final = 16
"""Number of headlines that a signal names as its sources: the latest ones."""

_Vote: TypeAlias = tuple[int, float, float, float, float, int, str, str]
"""Time, weight, weight times the bearish, neutral and bullish probability, leading class, id of the headline,
kind of news."""

_DIRECTIONS: Final = (SELL, HOLD, BUY)
_MAX_HALF_LIVES: Final = 500.0
"""Longest time between the reference time and now; 2 ** 1024 would overflow."""


class CountedVote(NamedTuple):
    """A vote that counts, with its weight at the moment of asking; `at` is when it was cast (UTC ms)."""

    news_id: str
    at: int
    weight: float
    bearish: float
    neutral: float
    bullish: float
    direction: Direction
    kind: str


def leading(bearish: float, neutral: float, bullish: float) -> int:
    """Return the index of the largest probability (bearish, neutral, bullish); a tie is neutral."""
    if bullish > neutral and bullish > bearish:
        return 2
    return 0 if bearish > neutral and bearish > bullish else 1


class SymbolVote:
    """Weighted sums of the votes on one symbol.

    All weights decay at the same rate, so their ratios do not change with time. Each vote is therefore added
    with its weight at a fixed reference time, and later subtracted unchanged. The sums are recomputed at a
    new reference time if the old one lies too far back, and after as many removals as there are votes left.
    So rounding errors can't accumulate, and a vote takes O(1) on average.

    A revised vote may outweigh all others, and subtracting it would leave its rounding error. The sums are
    therefore recomputed after a revision, which takes O(number of votes).
    """

    __slots__ = (
        "_bearish",
        "_bullish",
        "_fade_below",
        "_half_life",
        "_ids",
        "_neutral",
        "_reference",
        "_removed",
        "_sides",
        "_stories",
        "_story_times",
        "_story_window",
        "_symbol",
        "_threshold",
        "_votes",
        "_window",
        "announced",
        "asset",
        "check_at",
        "signal",
    )

    def __init__(self, symbol: str, config: SignalsConfig) -> None:
        self.signal: Signal | None = None
        self.check_at = NEVER  # UTC ms at which `expire` is due
        self.announced = False  # True between an actionable signal and the HOLD that ends it
        self.asset = base_of(symbol)  # coin or share whose own probabilities vote
        self._symbol = symbol
        self._threshold = config.threshold
        self._half_life = config.half_life
        self._window = config.window
        self._fade_below = config.fade_below
        self._story_window = config.story_window
        self._stories: set[str] = set()  # stories that voted within the story window
        self._story_times: deque[tuple[int, str]] = deque()
        self._votes: deque[_Vote] = deque()
        self._ids: deque[str] = deque(maxlen=MAX_SOURCES)
        self._reference = 0
        self._bearish = self._neutral = self._bullish = 0.0
        self._sides = [0.0, 0.0, 0.0]  # weight of the votes for SELL, HOLD and BUY
        self._removed = 0  # votes removed since the sums were last recomputed

    def register_story(self, story: str, now: int) -> bool:
        """Mark a story as having voted; return False if it already had within the story window."""
        times = self._story_times
        while times and times[0][0] <= now - self._story_window:
            self._stories.remove(times.popleft()[1])
        if story in self._stories:
            return False
        self._stories.add(story)
        times.append((now, story))
        return True

    def add_vote(
        self,
        now: int,
        news_id: str,
        confidence: float,
        bearish: float,
        neutral: float,
        bullish: float,
        side: int,
        kind: str,
    ) -> Signal:
        """Add a vote for class `side`, and return the new signal; `kind` is the headline's kind of news."""
        votes = self._votes
        if votes and votes[0][0] <= now - self._window:
            self._drop_old(now)
        if now - self._reference > _MAX_HALF_LIVES * self._half_life:
            self._rebase(now)
        weight = confidence * 2.0 ** ((now - self._reference) / self._half_life)
        self._add((now, weight, weight * bearish, weight * neutral, weight * bullish, side, news_id, kind))
        self._ids.append(news_id)
        return self._signal(now, kind)

    def has_vote(self, news_id: str, at: int) -> bool:
        """Return whether the headline's vote, cast at `at`, counts."""
        return self._position(news_id, at) >= 0

    def set_vote(
        self,
        now: int,
        at: int,
        news_id: str,
        confidence: float,
        bearish: float,
        neutral: float,
        bullish: float,
        side: int,
        kind: str,
    ) -> Signal:
        """Replace the headline's vote, or add one, as if it had been cast like this at `at`, and return the
        new signal.

        `at` must be within the window. The other arguments are those of `add_vote`.
        """
        self._drop_old(now)
        if not self._votes or at - self._reference > _MAX_HALF_LIVES * self._half_life:
            self._rebase(at)
        weight = confidence * 2.0 ** ((at - self._reference) / self._half_life)
        vote = (at, weight, weight * bearish, weight * neutral, weight * bullish, side, news_id, kind)
        position = self._position(news_id, at)
        if position >= 0:
            self._votes[position] = vote
        else:
            position = len(self._votes)
            while position and self._votes[position - 1][0] > at:
                position -= 1
            self._votes.insert(position, vote)
        self._sum_up()
        return self._signal(now, self._votes[-1][7])

    def withdraw_vote(self, now: int, at: int, news_id: str) -> Signal | None:
        """Remove the headline's vote, cast at `at`, and return the new signal.

        Without a vote that is left, an actionable signal expires at `now`, and None is returned.
        """
        self._drop_old(now)
        position = self._position(news_id, at)
        if position >= 0:
            del self._votes[position]
            self._sum_up()
        if self._votes:
            return self._signal(now, self._votes[-1][7])
        self.check_at = now if self.announced else NEVER
        if not self.announced:
            self.signal = None
        return None

    def counted(self, now: int) -> list[CountedVote]:
        """Return the votes that count at `now`, in the order in which they were cast. Nothing changes."""
        found: list[CountedVote] = []
        for at, weight, bearish, neutral, bullish, side, news_id, kind in self._votes:
            if at > now - self._window and weight > 0.0:
                decayed = weight * 2.0 ** ((self._reference - now) / self._half_life)
                found.append(
                    CountedVote(
                        news_id,
                        at,
                        decayed,
                        bearish / weight,
                        neutral / weight,
                        bullish / weight,
                        _DIRECTIONS[side],
                        kind,
                    )
                )
        return found

    def _signal(self, now: int, kind: str) -> Signal:
        """Return the signal of all votes; `kind` is that of the latest one."""
        side, bearish, neutral, bullish = self._mean()
        confidence = bullish if side == 2 else bearish if side == 0 else neutral
        check_at = self._next_check(side)
        actionable = side != 1 and confidence >= self._threshold and check_at > now
        direction, sources = _DIRECTIONS[side], tuple(self._ids)
        signal = self.signal = Signal(
            self._symbol, now, direction, confidence, bearish, neutral, bullish, actionable, sources, kind
        )
        if actionable:
            self.announced = True
        # An undecided vote ends an earlier actionable signal at once
        self.check_at = now if self.announced and not actionable else check_at
        return signal

    def expire(self, now: int) -> Signal | None:
        """Check the signal once `check_at` is reached; return a HOLD if an actionable one has ended."""
        signal, due = self.signal, self.check_at
        self.check_at = NEVER
        self._drop_old(due)
        if signal is None:
            return None
        if self._votes:
            side, bearish, _, bullish = self._mean()
            check_at = self._next_check(side)
            decided = (bullish if side == 2 else bearish) >= self._threshold or not signal.actionable
            if check_at > due and decided and signal.direction is _DIRECTIONS[side]:
                self.check_at = check_at
        if self.check_at == NEVER:
            self.signal = None
        elif signal.actionable:
            return None
        if not self.announced:
            return None
        self.announced = False
        bearish, neutral, bullish, sources = signal.bearish, signal.neutral, signal.bullish, signal.sources
        return Signal(
            signal.symbol, now, HOLD, neutral, bearish, neutral, bullish, False, sources, signal.kind
        )

    def _next_check(self, side: int) -> int:
        """Return when the side weighs less than `fade_below` or, if earlier, the oldest vote gets too old."""
        weight, fades = self._sides[side], 0
        if weight > 0.0:
            fades = self._reference + floor(self._half_life * log2(weight / self._fade_below)) + 1
        leaves = self._votes[0][0] + self._window
        if fades > leaves:
            return leaves
        latest = self._votes[-1][0]
        return fades if fades > latest else latest

    def _mean(self) -> tuple[int, float, float, float]:
        """Return the leading class and the mean probabilities, rounded to 1e-12 against rounding errors."""
        total = self._bearish + self._neutral + self._bullish
        if total <= 0.0:
            return 1, 0.0, 0.0, 0.0
        scale = 1e12 / total
        bearish = int(self._bearish * scale + 0.5) / 1e12
        neutral = int(self._neutral * scale + 0.5) / 1e12
        bullish = int(self._bullish * scale + 0.5) / 1e12
        return leading(bearish, neutral, bullish), bearish, neutral, bullish

    def _drop_old(self, now: int) -> None:
        """Remove the votes that have left the window."""
        votes = self._votes
        while votes and votes[0][0] <= now - self._window:
            _, weight, bearish, neutral, bullish, side, _, _ = votes.popleft()
            self._bearish -= bearish
            self._neutral -= neutral
            self._bullish -= bullish
            self._sides[side] -= weight
            self._removed += 1
        while len(self._ids) > len(votes):
            self._ids.popleft()
        if self._removed >= len(votes):
            self._rebase(now)

    def _rebase(self, now: int) -> None:
        """Move the reference time to `now` and recompute the sums."""
        scale = 2.0 ** ((self._reference - now) / self._half_life) if self._votes else 0.0
        self._reference = now
        self._removed = 0
        self._bearish = self._neutral = self._bullish = 0.0
        self._sides = [0.0, 0.0, 0.0]
        votes, self._votes = self._votes, deque()
        for at, weight, bearish, neutral, bullish, side, news_id, kind in votes:
            self._add(
                (
                    at,
                    scale * weight,
                    scale * bearish,
                    scale * neutral,
                    scale * bullish,
                    side,
                    news_id,
                    kind,
                )
            )

    def _position(self, news_id: str, at: int) -> int:
        """Return the place of the headline's vote, cast at `at`, among the votes; -1 if it has none."""
        position = len(self._votes)
        for vote in reversed(self._votes):
            position -= 1
            if vote[0] < at:
                break
            if vote[6] == news_id and vote[0] == at:
                return position
        return -1

    def _sum_up(self) -> None:
        """Recompute the sums and the sources from the votes, at the same reference time."""
        self._removed = 0
        self._bearish = self._neutral = self._bullish = 0.0
        self._sides = [0.0, 0.0, 0.0]
        votes, self._votes = self._votes, deque()
        for vote in votes:
            self._add(vote)
        self._ids.clear()
        self._ids.extend(vote[6] for vote in islice(votes, max(0, len(votes) - MAX_SOURCES), None))

    def _add(self, vote: _Vote) -> None:
        _, weight, bearish, neutral, bullish, side, _, _ = vote
        self._votes.append(vote)
        self._bearish += bearish
        self._neutral += neutral
        self._bullish += bullish
        self._sides[side] += weight
