"""The vote on one symbol, kept incrementally; its rules are in `agent.core.signals`."""

from __future__ import annotations

from collections import deque
from math import floor, log2
from typing import Final, TypeAlias

from agent.core.events import BUY, HOLD, SELL, Signal
from agent.core.settings import SignalsConfig

NEVER: Final = 1 << 62
"""A time that does not come, in ms."""

MAX_SOURCES: Final = 16
"""Voters that a signal names: the latest."""

# when, weight, its bearish, neutral and bullish parts, side
_Vote: TypeAlias = tuple[int, float, float, float, float, int]
_DIRECTIONS: Final = (SELL, HOLD, BUY)
_MAX_HALF_LIVES: Final = 500.0
"""Between the reference time and now; 2 ** 1024 would overflow."""


def leading(bearish: float, neutral: float, bullish: float) -> int:
    """Index of the leading class: 0 bearish, 1 neutral, 2 bullish; a tie says nothing, and is neutral."""
    if bullish > neutral and bullish > bearish:
        return 2
    return 0 if bearish > neutral and bearish > bullish else 1


class SymbolVote:
    """Sums over the voters on one symbol, of weights as they were or will be at a reference time.

    All weights decay alike, so their ratios are the same at any time: a vote is added with its weight at the reference and
    taken away as it was added, and nothing changes as time goes by. The reference moves on, and the sums are recomputed from
    the voters, when it lies too far back, and after as many departures as there are voters left: rounding errors cannot pile
    up, and the work stays O(1) a vote.
    """

    __slots__ = (
        "_bearish", "_bullish", "_departed", "_fade_below", "_half_life", "_ids", "_neutral", "_reference", "_sides",
        "_stories", "_story_window", "_symbol", "_threshold", "_told", "_votes", "_window", "announced", "fade_at", "signal",
    )  # fmt: skip

    def __init__(self, symbol: str, config: SignalsConfig) -> None:
        self.signal: Signal | None = None
        self.fade_at = NEVER  # when to look whether the signal still stands
        self.announced = False  # an actionable signal went out, and its end has not been told
        self._symbol = symbol
        self._threshold = config.threshold
        self._half_life = config.half_life
        self._window = config.window
        self._fade_below = config.fade_below
        self._story_window = config.story_window
        self._stories: set[str] = set()  # that have voted
        self._told: deque[tuple[int, str]] = deque()  # when they did
        self._votes: deque[_Vote] = deque()
        self._ids: deque[str] = deque(maxlen=MAX_SOURCES)
        self._reference = 0
        self._bearish = self._neutral = self._bullish = 0.0
        self._sides = [0.0, 0.0, 0.0]  # weight of those who say SELL, HOLD, BUY
        self._departed = 0

    def is_new_story(self, story: str, now: int) -> bool:
        """Whether `story` has not voted here within the story window; from now on it has."""
        told = self._told
        while told and told[0][0] <= now - self._story_window:
            self._stories.remove(told.popleft()[1])
        if story in self._stories:
            return False
        self._stories.add(story)
        told.append((now, story))
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
    ) -> Signal:
        """Count a vote; the signal that follows."""
        votes = self._votes
        if votes and votes[0][0] <= now - self._window:
            self._forget(now)
        if now - self._reference > _MAX_HALF_LIVES * self._half_life:
            self._rebase(now)
        weight = confidence * 2.0 ** ((now - self._reference) / self._half_life)
        self._add((now, weight, weight * bearish, weight * neutral, weight * bullish, side))
        self._ids.append(news_id)

        side, bearish, neutral, bullish = self._verdict()
        confidence = bullish if side == 2 else bearish if side == 0 else neutral
        look = self._next_look(side)
        actionable = side != 1 and confidence >= self._threshold and look > now
        signal = self.signal = Signal(
            self._symbol,
            now,
            _DIRECTIONS[side],
            confidence,
            bearish,
            neutral,
            bullish,
            actionable,
            tuple(self._ids),
        )
        if actionable:
            self.announced = True
        # After an announcement, indecision is news for whoever acted on it, and is told at once
        self.fade_at = now if self.announced and not actionable else look
        return signal

    def fade(self, now: int) -> Signal | None:
        """Look whether the signal still stands, as `fade_at` asks; the HOLD that ends it where its end is to be told."""
        signal, look = self.signal, self.fade_at
        self.fade_at = NEVER
        self._forget(look)
        if signal is None:
            return None
        if self._votes:
            side, bearish, _, bullish = self._verdict()
            look_again = self._next_look(side)
            decided = (bullish if side == 2 else bearish) >= self._threshold or not signal.actionable
            if look_again > look and decided and signal.direction is _DIRECTIONS[side]:
                self.fade_at = look_again
        if self.fade_at == NEVER:
            self.signal = None
        elif signal.actionable:
            return None
        if not self.announced:
            return None
        self.announced = False
        return Signal(
            signal.symbol,
            now,
            HOLD,
            signal.neutral,
            signal.bearish,
            signal.neutral,
            signal.bullish,
            False,
            signal.sources,
        )

    def _next_look(self, side: int) -> int:
        """When a side's weight falls below `fade_below`, or earlier, when the oldest vote leaves the window."""
        mass = self._sides[side]
        fades = (
            self._reference + floor(self._half_life * log2(mass / self._fade_below)) + 1 if mass > 0.0 else 0
        )
        leaves = self._votes[0][0] + self._window
        if fades > leaves:
            return leaves
        latest = self._votes[-1][0]
        return fades if fades > latest else latest

    def _verdict(self) -> tuple[int, float, float, float]:
        """The leading class and the mean probability of each; what lies below 1e-12 is rounding, and is rounded away."""
        total = self._bearish + self._neutral + self._bullish
        if total <= 0.0:
            return 1, 0.0, 0.0, 0.0
        scale = 1e12 / total
        bearish = int(self._bearish * scale + 0.5) / 1e12
        neutral = int(self._neutral * scale + 0.5) / 1e12
        bullish = int(self._bullish * scale + 0.5) / 1e12
        return leading(bearish, neutral, bullish), bearish, neutral, bullish

    def _forget(self, now: int) -> None:
        """Take away the votes that have left the window."""
        votes = self._votes
        while votes and votes[0][0] <= now - self._window:
            _, weight, bearish, neutral, bullish, side = votes.popleft()
            self._bearish -= bearish
            self._neutral -= neutral
            self._bullish -= bullish
            self._sides[side] -= weight
            self._departed += 1
        while len(self._ids) > len(votes):
            self._ids.popleft()
        if self._departed >= len(votes):
            self._rebase(now)

    def _rebase(self, now: int) -> None:
        """Move the reference time to `now`, and recompute the sums from the voters."""
        scale = 2.0 ** ((self._reference - now) / self._half_life) if self._votes else 0.0
        self._reference = now
        self._departed = 0
        self._bearish = self._neutral = self._bullish = 0.0
        self._sides = [0.0, 0.0, 0.0]
        votes, self._votes = self._votes, deque()
        for at, weight, bearish, neutral, bullish, side in votes:
            self._add((at, scale * weight, scale * bearish, scale * neutral, scale * bullish, side))

    def _add(self, vote: _Vote) -> None:
        _, weight, bearish, neutral, bullish, side = vote
        self._votes.append(vote)
        self._bearish += bearish
        self._neutral += neutral
        self._bullish += bullish
        self._sides[side] += weight
