"""Deduplication of headlines: assigns near-duplicates, which many publishers print about one event, to one
story.

Two headlines belong to one story if the Jaccard similarity of their content words reaches a threshold and
they do not contradict each other: "fund sees record inflows" and "fund sees record outflows" share most words
but are two stories.
"""

from __future__ import annotations

import re
import unicodedata
from collections import deque
from functools import lru_cache
from math import ceil
from typing import Final, NamedTuple

MAX_STORIES: Final = 50_000
"""Most stories kept, whatever the window; beyond that the oldest are dropped."""

_WORD: Final = re.compile(r"[^\W_]+(?:[.,]\d+)*")
_POSSESSIVE: Final = re.compile(r"['’]s\b")
_SUFFIX: Final = re.compile(r"(?<=[^\W\d_]{3})(?:ing|ed|es|s|e)$")
_DOUBLED: Final = re.compile(r"([^\W\d_aeiou])\1$")
_EPSILON: Final = 1e-9


def _stem(word: str) -> str:
    """Strip common endings: rise, rises and rising become ris. Numbers lose their thousands commas."""
    return word.replace(",", "") if word[0].isdigit() else _without_ending(word)


@lru_cache(maxsize=1 << 14)  # words recur, numbers hardly
def _without_ending(word: str) -> str:
    return _DOUBLED.sub(r"\1", _SUFFIX.sub("", word))


def _stems(words: str) -> frozenset[str]:
    return frozenset(map(_stem, words.split()))


_STOP_WORDS: Final = _stems(
    "a an the and or of to in on at for from by with as is are was were be been being it its this that these "
    "those has have had will would can could may might should do does did he she they we you i his her their "
    "our your what why how when where which who than then there here into about after amid just now says "
    "said say"
)
_UP: Final = _stems(
    "up above rise rose risen raise gain climb climbed jump surge soar rally rallied rebound recover spike "
    "skyrocket bounce grow grew increase inflow higher high bull bullish buy bought approve approval accept "
    "allow win won pass legal support launch list rehire upgrade profit hike unfreeze resume accumulate "
    "outperform"
)
_DOWN: Final = _stems(
    "down below fall fell fallen drop lose lost loss slip slid slide plunge crash sink sank tumble dip "
    "decline decrease plummet slump shrink outflow lower low bear bearish sell sold reject rejection deny "
    "denied ban block fail illegal oppose delay delist fire downgrade cut freeze froze suspend halt dump "
    "underperform withdraw withdrew cancel"
)
_NEGATION: Final = _stems("not no never without isn aren doesn didn denies denied deny fake hoax")


def content_words(text: str) -> frozenset[str]:
    """Return the stems of a headline's words and its numbers, without stop words."""
    text = _POSSESSIVE.sub("", unicodedata.normalize("NFKC", text).casefold())
    return frozenset(map(_stem, _WORD.findall(text))) - _STOP_WORDS


def contradict(one: frozenset[str], other: frozenset[str]) -> bool:
    """Return whether the words in which two headlines differ go in opposite directions, or only one headline
    negates.

    Word order is ignored: "gold up, oil down" does not contradict "oil up, gold down".
    """
    first, second = one - other, other - one
    if (first & _UP and second & _DOWN) or (first & _DOWN and second & _UP):
        return True
    return first.isdisjoint(_NEGATION) != second.isdisjoint(_NEGATION)


class _Story(NamedTuple):
    id: str
    at: int
    words: frozenset[str]
    keys: tuple[str, ...]


class HeadlineDeduplicator:
    """Assigns headlines to stories, and keeps the first headline of each story for `window_ms`.

    `similarity`, in (0, 1], is the least Jaccard index of two headlines of one story. Headlines are compared
    only with the first headline of a story, so a chain of small changes can't join unrelated headlines.

    Candidates come from an inverted index on prefixes: in any fixed order of words, two sets with a Jaccard
    index of at least s share a word among the first n - ceil(s n) + 1 words of each (Bayardo, Ma, Srikant
    2007, "Scaling up all pairs similarity search").
    """

    def __init__(self, similarity: float, window_ms: int) -> None:
        self._similarity = similarity
        self._window = window_ms
        self._stories: deque[_Story] = deque()
        self._by_word: dict[str, deque[_Story]] = {}

    def __len__(self) -> int:
        """Return the number of stories kept."""
        return len(self._stories)

    def add(self, news_id: str, text: str, at: int) -> str:
        """Return the id of the first headline of this headline's story; `news_id` itself if the story is new.

        If several stories are similar, the most similar one is chosen, and among equals the oldest. `at` is
        UTC ms and must not decrease.
        """
        self._drop_old(at)
        words = content_words(text)
        keys = self._keys(words)
        best, closest = None, self._similarity - _EPSILON
        compared: set[str] = set()
        for key in keys:
            for story in self._by_word.get(key, ()):
                if story.id in compared:
                    continue
                compared.add(story.id)
                shared = len(words & story.words)
                similarity = shared / (len(words) + len(story.words) - shared)
                if similarity < closest or (best and similarity == closest and story.at >= best.at):
                    continue
                if not contradict(words, story.words):
                    best, closest = story, similarity
        if best:
            return best.id
        if keys:
            story = _Story(news_id, at, words, keys)
            self._stories.append(story)
            for key in keys:
                self._by_word.setdefault(key, deque()).append(story)
        return news_id

    def _keys(self, words: frozenset[str]) -> tuple[str, ...]:
        """Return the words under which a headline is indexed: the longest ones, because they are rare."""
        least = ceil(self._similarity * len(words) - _EPSILON)
        return tuple(sorted(words, key=lambda word: (-len(word), word))[: len(words) - least + 1])

    def _drop_old(self, at: int) -> None:
        while self._stories and (
            at - self._stories[0].at >= self._window or len(self._stories) >= MAX_STORIES
        ):
            for key in self._stories.popleft().keys:
                stories = self._by_word[key]
                stories.popleft()
                if not stories:
                    del self._by_word[key]
