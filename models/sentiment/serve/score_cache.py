"""What a model once said of a text, kept: a second backtest scores nothing.

A score is keyed by the model's fingerprint (weights, tokenizer, temperature, cleaning) and the text's hash, so a new model
never meets an old one's scores, and nothing ever has to be invalidated.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final, Protocol

import msgspec
import numpy as np
from sqlalchemy import Boolean, Column, Float, LargeBinary, MetaData, String, Table, delete, insert, select

from agent.store.database import Database
from models.sentiment.serve.scorer import Floats, Score, Scorer

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
    Column("embedding", LargeBinary),  # float16, little-endian; NULL until somebody asked for it
)
"""Scores of texts by model; made by the store's migrations."""

_KEYS_A_QUERY: Final = 500  # SQLite takes at least 999 variables a statement


class Cached(msgspec.Struct, frozen=True):
    """One remembered text. `embedding` is None where only its score was ever asked for."""

    score: Score
    embedding: Floats | None = None


class ScoreCache(Protocol):
    """Where scores are kept, by model fingerprint and `text_hash`."""

    def get(self, model: str, hashes: Iterable[bytes]) -> Mapping[bytes, Cached]:
        """Those of `hashes` that are known."""
        ...

    def put(self, model: str, entries: Mapping[bytes, Cached]) -> None:
        """Keep them, in the place of what was there."""
        ...


def text_hash(text: str) -> bytes:
    """16 bytes of BLAKE2b over the raw text; lone surrogates count as they are."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class SqlScoreCache:
    """The cache in the store, where embeddings are kept at half precision. Raises StoreError as the store does."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, model: str, hashes: Iterable[bytes]) -> dict[bytes, Cached]:
        """Those of `hashes` that are known."""
        found: dict[bytes, Cached] = {}
        with self._database.read() as connection:
            for part in _parts(dict.fromkeys(hashes)):
                query = select(SCORES).where(SCORES.c.model == model, SCORES.c.text_hash.in_(part))
                for row in connection.execute(query):
                    score = Score(row.bearish, row.neutral, row.bullish, row.abstained, row.reason)
                    found[bytes(row.text_hash)] = Cached(score, _unpack(row.embedding))
        return found

    def put(self, model: str, entries: Mapping[bytes, Cached]) -> None:
        """Keep them, in one transaction."""
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
    """A scorer that looks into its cache first. What comes out is the same either way; embeddings to half precision."""

    def __init__(self, scorer: Scorer, cache: ScoreCache) -> None:
        self.scorer = scorer
        self.cache = cache
        self.hits = 0
        self.misses = 0
        """Texts found in the cache, and texts that the model had to read, since this object was made."""

    @property
    def fingerprint(self) -> str:
        """Of the model that scores."""
        return self.scorer.fingerprint

    def score(self, texts: Sequence[str]) -> list[Score]:
        """One score a text, in their order."""
        return [entry.score for entry in self._lookup(texts, embedded=False)]

    def score_and_embed(self, texts: Sequence[str]) -> tuple[list[Score], Floats]:
        """Scores, and pooled hidden states [texts, dimensions]."""
        entries = self._lookup(texts, embedded=True)
        embeddings = np.zeros((len(entries), self.scorer.dimensions), np.float32)
        for number, entry in enumerate(entries):
            embeddings[number] = entry.embedding
        return [entry.score for entry in entries], embeddings

    def _lookup(self, texts: Sequence[str], *, embedded: bool) -> list[Cached]:
        by_hash = {text_hash(text): text for text in texts}
        known = dict(self.cache.get(self.fingerprint, by_hash))
        missing = [key for key in by_hash if key not in known or (embedded and known[key].embedding is None)]
        if missing:
            scores, embeddings = self.scorer.score_and_embed([by_hash[key] for key in missing])
            rounded = embeddings.astype(np.float16).astype(np.float32)  # as it will be read back
            kept = [rounded[number] if embedded else None for number in range(len(missing))]
            new = {key: Cached(score, row) for key, score, row in zip(missing, scores, kept, strict=True)}
            self.cache.put(self.fingerprint, new)
            known |= new
        self.misses += len(missing)
        self.hits += len(by_hash) - len(missing)
        return [known[text_hash(text)] for text in texts]


def _unpack(stored: bytes | None) -> Floats | None:
    return None if stored is None else np.frombuffer(stored, "<f2").astype(np.float32)


def _parts(keys: Iterable[bytes]) -> Iterator[list[bytes]]:
    rest = iter(keys)
    while part := list(islice(rest, _KEYS_A_QUERY)):
        yield part
