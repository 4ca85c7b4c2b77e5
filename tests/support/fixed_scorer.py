"""A sentiment model whose answers are given by a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date

from models.cards import Card
from models.sentiment.serve.headline_score import HeadlineScore, abstention

Answer = HeadlineScore | tuple[float, float, float]


class FixedScorer:
    """A `NamedScorer` that looks each text up in `answers`; it abstains from other texts.

    `before` is called with the texts of each call; what it raises is the model's error.
    """

    def __init__(
        self,
        answers: Mapping[str, Answer],
        fingerprint: str = "aa" * 32,
        *,
        names: str = "",
        before: Callable[[Sequence[str]], object] | None = None,
        card: Card | None = None,
        knowledge_cutoff: date | None = None,
    ) -> None:
        self.fingerprint = fingerprint
        self.names = names
        self.card = card
        self.knowledge_cutoff = knowledge_cutoff
        self.asked: list[str] = []
        self._answers = answers
        self._before = before

    def score(self, texts: Sequence[str]) -> list[HeadlineScore]:
        self.asked += texts
        if self._before is not None:
            self._before(texts)
        return [self._score(text) for text in texts]

    def _score(self, text: str) -> HeadlineScore:
        answer = self._answers.get(text)
        if answer is None:
            return abstention("not English")
        return answer if isinstance(answer, HeadlineScore) else HeadlineScore(*answer)


class Uncached:
    """A scorer with the interface of `CachedScorer` and no cache."""

    def __init__(self, scorer: FixedScorer) -> None:
        self.scorer = scorer
        self.misses = 0

    def score(self, texts: Sequence[str]) -> list[HeadlineScore]:
        self.misses += len(texts)
        return self.scorer.score(texts)
