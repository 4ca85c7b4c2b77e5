"""Cache of scores in the store, so that a second backtest scores nothing.

The key is the model's fingerprint (weights, tokenizer, temperature, cleaning) and the text's hash. Scores of
another model have other keys, so the cache needs no invalidation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final, Protocol

import msgspec
import numpy as np
from sqlalchemy import Boolean, Column, Float, LargeBinary, MetaData, String, Table, delete, insert, select

from agent.store.database import Database
from models.sentiment.serve.scorer import Floats, HeadlineScore, Scorer

METADATA: Final = MetaData()
SCORES: Final = Table(
    "scores",
    METADATA,
    Column("model", String(64), primary_key=True),
    Column("text_hash", LargeBinary(16), primary_key=True),
    Column("bearish", Float, nullable=False),
    Column("neutral", Float, nullable=False),
    Column("bullish", Float, nullable=False),
    Column("abstained", Boolean, nullable=False),
    Column("reason", String(64), nullable=False),
    Column("embedding", LargeBinary),  # float16, little-endian; NULL if only the score was requested
)
"""Scores of texts by model. The store's migrations create the table."""

_KEYS_PER_QUERY: Final = 500  # SQLite accepts at least 999 variables in a statement
_BLOCK: Final = 512

Progress = Callable[[int, int], None]
"""Called with (texts done, all texts)."""


class CachedScore(msgspec.Struct, frozen=True):
    """Cached score of a text. `embedding` is None if only the score was requested."""

    score: HeadlineScore
    embedding: Floats | None = None


class ScoreCache(Protocol):
    """Storage of scores by model fingerprint and `text_hash`."""

    def get(self, model: str, hashes: Iterable[bytes]) -> Mapping[bytes, CachedScore]:
        """Return the entries of those hashes that are stored."""
        ...

    def put(self, model: str, entries: Mapping[bytes, CachedScore]) -> None:
        """Store entries, replacing existing ones."""
        ...


def text_hash(text: str) -> bytes:
    """Return 16 bytes of BLAKE2b over the raw text, in which lone surrogates are allowed."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class SqlScoreCache:
    """Cache in the store's database, with embeddings at half precision. Raises StoreError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, model: str, hashes: Iterable[bytes]) -> dict[bytes, CachedScore]:
        found: dict[bytes, CachedScore] = {}
        with self._database.read() as connection:
            for part in _parts(dict.fromkeys(hashes)):
                query = select(SCORES).where(SCORES.c.model == model, SCORES.c.text_hash.in_(part))
                for row in connection.execute(query):
                    score = HeadlineScore(row.bearish, row.neutral, row.bullish, row.abstained, row.reason)
                    found[bytes(row.text_hash)] = CachedScore(score, _unpack(row.embedding))
        return found

    def put(self, model: str, entries: Mapping[bytes, CachedScore]) -> None:
        if not entries:
            return
        rows = [
            {
                "model": model,
                "text_hash": key,
                **msgspec.structs.asdict(entry.score),
                "embedding": None if entry.embedding is None else entry.embedding.astype("<f2").tobytes(),
            }
            for key, entry in entries.items()
        ]
        with self._database.write() as connection:
            for part in _parts(entries):
                connection.execute(
                    delete(SCORES).where(SCORES.c.model == model, SCORES.c.text_hash.in_(part))
                )
            connection.execute(insert(SCORES), rows)


class CachedScorer:
    """Scorer with a cache in front. Results are the same with and without a cache hit, with
    half-precision embeddings.
    """

    def __init__(self, scorer: Scorer, cache: ScoreCache) -> None:
        self.scorer = scorer
        self.cache = cache
        self.hits = 0
        self.misses = 0
        """Texts that the model had to score; `hits` counts those found in the cache."""

    @property
    def fingerprint(self) -> str:
        return self.scorer.fingerprint

    def score(self, texts: Sequence[str]) -> list[HeadlineScore]:
        """Return one score for each text, in the same order."""
        return [entry.score for entry in self._lookup(texts, embedded=False)]

    def score_and_embed(self, texts: Sequence[str]) -> tuple[list[HeadlineScore], Floats]:
        """Return scores, and pooled hidden states (texts, dimensions)."""
        entries = self._lookup(texts, embedded=True)
        embeddings = np.zeros((len(entries), self.scorer.dimensions), np.float32)
        for number, entry in enumerate(entries):
            embeddings[number] = entry.embedding
        return [entry.score for entry in entries], embeddings

    def _lookup(self, texts: Sequence[str], *, embedded: bool) -> list[CachedScore]:
        by_hash = {text_hash(text): text for text in texts}
        known = dict(self.cache.get(self.fingerprint, by_hash))
        missing = [key for key in by_hash if key not in known or (embedded and known[key].embedding is None)]
        if missing:
            scores, embeddings = self.scorer.score_and_embed([by_hash[key] for key in missing])
            rounded = embeddings.astype(np.float16).astype(np.float32)  # as a later hit returns them
            kept = [rounded[number] if embedded else None for number in range(len(missing))]
            new = {
                key: CachedScore(score, row) for key, score, row in zip(missing, scores, kept, strict=True)
            }
            self.cache.put(self.fingerprint, new)
            known |= new
        self.misses += len(missing)
        self.hits += len(by_hash) - len(missing)
        return [known[text_hash(text)] for text in texts]


def fill_cache(
    scorer: CachedScorer, texts: Iterable[str], *, embedded: bool = True, progress: Progress | None = None
) -> int:
    """Score each text once and cache it, with its embedding if `embedded`; return how many the model had to
    score.

    Each block is committed, so an interrupted call can be repeated without losing work. Raises StoreError.
    """
    distinct = list(dict.fromkeys(texts))
    before = scorer.misses
    score: Callable[[list[str]], object] = scorer.score_and_embed if embedded else scorer.score
    for begin in range(0, len(distinct), _BLOCK):
        score(distinct[begin : begin + _BLOCK])
        if progress:
            progress(min(begin + _BLOCK, len(distinct)), len(distinct))
    return scorer.misses - before


def _unpack(stored: bytes | None) -> Floats | None:
    return None if stored is None else np.frombuffer(stored, "<f2").astype(np.float32)


def _parts(keys: Iterable[bytes]) -> Iterator[list[bytes]]:
    rest = iter(keys)
    while part := list(islice(rest, _KEYS_PER_QUERY)):
        yield part
