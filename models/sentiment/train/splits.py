"""Train, validation, calibration and test parts without leakage between them.

If every row is dated, the parts follow each other in time, with an embargo before each cut; else they are
stratified by class. Near-duplicates stay in one part. They are found exactly, by the Jaccard similarity of
word sets with prefix filtering (Bayardo, Ma and Srikant 2007, "Scaling up all pairs similarity search").
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from agent.core.errors import DataError, UsageError
from agent.core.events import DAY_MS
from models.labels import LABELS
from models.sentiment.train.datasets import Example

PARTS: Final = ("train", "validation", "calibration", "test")
SIMILAR: Final = 0.8
"""Least Jaccard similarity of word sets of near-duplicates."""
_WORD: Final = re.compile(r"\w+")


class Fractions(msgspec.Struct, frozen=True):
    """Shares of the rows for early stopping, for the temperature and for the reported metrics; the rest
    trains.
    """

    validation: float = 0.05
    calibration: float = 0.05
    test: float = 0.1

    def __post_init__(self) -> None:
        shares = self.validation, self.calibration, self.test
        if min(shares) < 0 or sum(shares) >= 0.9:
            raise UsageError(
                f"held-out shares {', '.join(map(str, shares))}", hint="each ≥ 0, together < 0.9"
            )


class Split(msgspec.Struct, frozen=True):
    """The four parts, and counts of the rows that are in none of them."""

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    calibration: tuple[Example, ...]
    test: tuple[Example, ...]
    by_time: bool
    duplicates: int = 0
    """Number of repeated rows with the same text and label; one of them is kept."""
    conflicts: tuple[tuple[str, str], ...] = ()
    """(text, its labels) of texts with more than one label. Kept with the majority's label, dropped on a
    tie.
    """
    embargoed: int = 0
    """Number of rows dropped because they lie within the embargo before a cut or nearly duplicate an
    earlier part's.
    """

    def sizes(self) -> dict[str, int]:
        """Return the number of rows of each part."""
        return {part: len(getattr(self, part)) for part in PARTS}


def make_split(
    examples: Sequence[Example],
    fractions: Fractions | None = None,
    *,
    seed: int = 42,
    embargo_ms: int = DAY_MS,
    stratified: bool = False,
) -> Split:
    """Split by time if every row is dated (unless `stratified`), else stratified by class with `seed`.

    Raises DataError if a class is missing from the examples or from the training part.
    """
    fractions = fractions or Fractions()
    kept, duplicates, conflicts = deduplicate(examples)
    require_classes(kept)
    stories = story_groups([example.text for example in kept])
    by_time = not stratified and all(example.ts is not None for example in kept)
    assign, parameter = (_by_time, embargo_ms) if by_time else (_stratified, seed)
    part_of = assign(kept, stories, fractions, parameter)
    pairs = list(zip(kept, part_of, strict=True))
    parts = {name: tuple(example for example, part in pairs if part == name) for name in PARTS}
    if not by_time:  # files are often sorted by class
        order = np.random.default_rng(seed).permutation(len(parts["train"]))
        parts["train"] = tuple(parts["train"][i] for i in order)
    require_classes(parts["train"], " of the training part")
    return Split(
        **parts,
        by_time=by_time,
        duplicates=duplicates,
        conflicts=conflicts,
        embargoed=sum(part is None for part in part_of),
    )


def require_classes(examples: Sequence[Example], part: str = "") -> None:
    """Raise DataError unless each class occurs."""
    counts = Counter(example.label for example in examples)
    missing = [label for label in LABELS if not counts[label]]
    if missing:
        have = ", ".join(f"{count} {label}" for label, count in counts.items()) or "nothing"
        hint = "a classifier needs examples of bearish, neutral and bullish: add some, or take another file"
        raise DataError(f"the labels{part} lack {' and '.join(missing)} (there is {have})", hint=hint)


def story_key(text: str) -> str:
    """Return a key that is equal for texts that differ only in case, punctuation or blanks."""
    return " ".join(_WORD.findall(text.casefold()))


def deduplicate(examples: Sequence[Example]) -> tuple[list[Example], int, tuple[tuple[str, str], ...]]:
    """Return (each text once, number of duplicates dropped, conflicts); see `Split`."""
    same: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        same[story_key(example.text)].append(example)
    kept, conflicts = [], []
    for group in same.values():
        votes = Counter(example.label for example in group).most_common()
        if len(votes) > 1:
            conflicts.append((group[0].text, "/".join(label for label, _ in votes)))
            if votes[0][1] == votes[1][1]:
                continue
        kept.append(next(example for example in group if example.label == votes[0][0]))
    duplicates = sum(
        len(group) - 1 for group in same.values() if len({example.label for example in group}) == 1
    )
    return kept, duplicates, tuple(conflicts)


def story_groups(texts: Sequence[str], similar: float = SIMILAR) -> list[int]:
    """Return a group number for each text, equal for texts that a chain of near-duplicates joins.

    Near-duplicates have word sets with a Jaccard similarity of at least `similar`.
    """
    words = [frozenset(_WORD.findall(text.casefold())) for text in texts]
    frequency = Counter(word for bag in words for word in bag)
    rare_first = [sorted(bag, key=lambda word: (frequency[word], word)) for bag in words]
    parent = list(range(len(texts)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    seen: dict[str, list[int]] = defaultdict(list)  # two similar sets share one of their rarest words
    for i in sorted(range(len(texts)), key=lambda i: len(words[i])):
        prefix = rare_first[i][: len(words[i]) - math.ceil(similar * len(words[i])) + 1]
        for j in {j for word in prefix for j in seen[word] if len(words[j]) >= similar * len(words[i])}:
            if root(i) != root(j) and len(words[i] & words[j]) >= similar * len(words[i] | words[j]):
                parent[root(i)] = root(j)
        for word in prefix:
            seen[word].append(i)
    return [root(i) for i in range(len(texts))]


def _stratified(
    examples: Sequence[Example], stories: Sequence[int], fractions: Fractions, seed: int
) -> list[str | None]:
    """Assign whole groups of near-duplicates to the parts, class by class. A group's class is that of its
    first text.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for i, story in enumerate(stories):
        members[story].append(i)
    part_of: list[str | None] = [None] * len(examples)
    rng = np.random.default_rng(seed)
    for label in LABELS:
        groups = [group for group in members.values() if examples[group[0]].label == label]
        total = sum(map(len, groups))
        quotas = {part: round(getattr(fractions, part) * total) for part in PARTS[1:]}
        for position in rng.permutation(len(groups)):
            group = groups[position]
            part = next((part for part, room in quotas.items() if room >= len(group)), "train")
            if part != "train":
                quotas[part] -= len(group)
            for i in group:
                part_of[i] = part
    return part_of


def _by_time(
    examples: Sequence[Example], stories: Sequence[int], fractions: Fractions, embargo_ms: int
) -> list[str | None]:
    """Cut at quantiles of time.

    A row within the embargo before a cut, or with a near-duplicate in an earlier part, is in no part.
    """
    times = np.array([example.ts for example in examples], dtype=np.int64)
    train = 1 - fractions.validation - fractions.calibration - fractions.test
    shares = np.array([train, fractions.validation, fractions.calibration])
    ordered = np.append(np.sort(times), np.max(times) + 1)
    last = len(times) - 1
    cuts = [
        int(ordered[min(int(share * len(times)), last) if share < 1 else -1]) for share in shares.cumsum()
    ]
    part_of: list[str | None] = [None] * len(examples)
    first_part: dict[int, int] = {}
    for i in np.argsort(times, kind="stable"):
        number = int(np.searchsorted(cuts, times[i], side="right"))
        until = cuts[number] if number < len(cuts) else math.inf
        embargoed = number < len(cuts) and times[i] >= until - embargo_ms
        if not embargoed and first_part.setdefault(stories[i], number) == number:
            part_of[i] = PARTS[number]
    return part_of
