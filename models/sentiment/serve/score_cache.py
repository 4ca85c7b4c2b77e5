"""Cache of scores in the store, so that a second backtest scores nothing.

The key is the model's fingerprint (weights, tokenizer, temperature, cleaning) and the text's hash. If the
model reads single assets, the hash also covers the names by which it finds them. Scores of another model or
with other names have other keys, so the cache needs no invalidation. A score that a language model did not
give, because of an outage, its deadline or its budget, is not cached.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final, Protocol, cast

import msgspec
import numpy as np
from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Float,
    LargeBinary,
    MetaData,
    Row,
    String,
    Table,
    Text,
    delete,
    insert,
    select,
    text,
)

from agent.core.errors import ModelError
from agent.data.provenance import from_object, to_object
from agent.data.sentiment import NO_EMBEDDINGS, NamedScorer, names_of
from agent.store.database import Database
from models.cards import ReferenceShares
from models.sentiment.serve.headline_score import AssetScore, HeadlineScore
from models.sentiment.serve.scorer import Scorer
from models.sentiment.serve.token_runs import Floats

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
    # float16, little-endian: the text's, then those of its assets; NULL if only the score was requested
    Column("embedding", LargeBinary),
    Column("assets", JSON(none_as_null=True)),  # [[asset, bearish, neutral, bullish], ...]; NULL if empty
    Column("kind", Text, nullable=False, server_default=text("''")),
    Column("kind_confidence", Float, nullable=False, server_default=text("0")),
    Column("unknown", Float),  # NULL in rows of earlier versions
    Column("provenance", JSON(none_as_null=True)),  # of a language model; NULL for a local model
)
"""Scores of texts by model. The store's migrations create the table."""

_KEYS_PER_QUERY: Final = 500  # SQLite accepts at least 999 variables in a statement


class CachedScore(msgspec.Struct, frozen=True):
    """Cached score of a text, and its hidden states (1 + assets, dimensions).

    `embeddings` is None if only the score was requested.
    """

    score: HeadlineScore
    embeddings: Floats | None = None


class ScoreCache(Protocol):
    """Storage of scores by model fingerprint and `text_hash`."""

    def get(self, model: str, hashes: Iterable[bytes]) -> Mapping[bytes, CachedScore]:
        """Return the entries of those hashes that are stored."""
        ...

    def put(self, model: str, entries: Mapping[bytes, CachedScore]) -> None:
        """Store entries, replacing existing ones."""
        ...


def text_hash(text: str, names: str = "") -> bytes:
    """Return 16 bytes of BLAKE2b over the raw text, in which lone surrogates are allowed.

    `names` is the hash of the names of assets (`Scorer.names`) on which the score depends.
    """
    key = bytes.fromhex(names)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16, key=key).digest()


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
                    found[bytes(row.text_hash)] = _from_row(row)
        return found

    def put(self, model: str, entries: Mapping[bytes, CachedScore]) -> None:
        if not entries:
            return
        rows = [{"model": model, "text_hash": key, **_to_row(entry)} for key, entry in entries.items()]
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

    def __init__(self, scorer: NamedScorer, cache: ScoreCache) -> None:
        self.scorer = scorer
        self.cache = cache
        self.hits = 0
        self.misses = 0
        """Texts that the model had to score; `hits` counts those found in the cache."""
        self.passing = 0
        """Scores that weren't cached, because a language model was to answer and didn't."""

    @property
    def fingerprint(self) -> str:
        return self.scorer.fingerprint

    @property
    def reference(self) -> ReferenceShares | None:
        """The reference for drift, of the model's card."""
        return getattr(self.scorer, "reference", None)

    def score(self, texts: Sequence[str]) -> list[HeadlineScore]:
        """Return one score for each text, in the same order."""
        return [entry.score for entry in self._lookup(texts, embedded=False)]

    @property
    def names(self) -> str:
        """As `Scorer.names`."""
        return names_of(self.scorer)

    def score_and_embed(self, texts: Sequence[str]) -> tuple[list[HeadlineScore], list[Floats]]:
        """Return scores and hidden states, as `Scorer.score_and_embed` does."""
        entries = self._lookup(texts, embedded=True)
        states = [entry.embeddings for entry in entries if entry.embeddings is not None]
        return [entry.score for entry in entries], states

    def missing(self, texts: Iterable[str], *, embedded: bool) -> list[str]:
        """Return the distinct texts that the cache doesn't have, with embeddings if `embedded`, in order."""
        by_hash = {text_hash(text, self.names): text for text in texts}
        known = self.cache.get(self.fingerprint, by_hash)
        return [
            text
            for key, text in by_hash.items()
            if key not in known or (embedded and known[key].embeddings is None)
        ]

    def keep(self, texts: Sequence[str], scored: Sequence[CachedScore]) -> dict[bytes, CachedScore]:
        """Store what this model, wherever it ran, returned for distinct texts; return all of it by hash."""
        new = dict(zip((text_hash(text, self.names) for text in texts), scored, strict=True))
        kept = {key: entry for key, entry in new.items() if _is_lasting(entry.score)}
        self.cache.put(self.fingerprint, kept)
        self.passing += len(new) - len(kept)
        self.misses += len(new)
        return new

    def _lookup(self, texts: Sequence[str], *, embedded: bool) -> list[CachedScore]:
        names = self.names
        hashes = [text_hash(text, names) for text in texts]
        by_hash = dict(zip(hashes, texts, strict=True))
        known = dict(self.cache.get(self.fingerprint, by_hash))
        missing = [key for key in by_hash if key not in known or (embedded and known[key].embeddings is None)]
        if missing:
            new = [by_hash[key] for key in missing]
            known |= self.keep(new, score_anew(self.scorer, new, embedded=embedded))
        self.hits += len(by_hash) - len(missing)
        return [known[key] for key in hashes]


def score_anew(scorer: NamedScorer, texts: Sequence[str], *, embedded: bool) -> list[CachedScore]:
    """Score texts for a cache. Raises ModelError if `embedded` and the scorer has no embeddings."""
    if not embedded:
        return [CachedScore(cast(HeadlineScore, score)) for score in scorer.score(texts)]
    if not hasattr(scorer, "score_and_embed"):
        raise ModelError(NO_EMBEDDINGS, hint="see fusion.path")
    scores, states = cast(Scorer, scorer).score_and_embed(texts)
    return [CachedScore(score, _rounded(rows)) for score, rows in zip(scores, states, strict=True)]


def _is_lasting(score: HeadlineScore) -> bool:
    """Return whether the model itself gave the score. Otherwise it is queried again another time."""
    return score.provenance is None or not score.provenance.fallback


def _to_row(entry: CachedScore) -> dict[str, Any]:
    """Return the columns of `SCORES` without the key."""
    states = entry.embeddings
    return {
        **msgspec.structs.asdict(entry.score),
        "assets": [msgspec.structs.astuple(answer) for answer in entry.score.assets] or None,
        "embedding": None if states is None else states.astype("<f2").tobytes(),
        "provenance": to_object(entry.score.provenance),
    }


def _from_row(row: Row[Any]) -> CachedScore:
    score = HeadlineScore(
        row.bearish,
        row.neutral,
        row.bullish,
        row.abstained,
        row.reason,
        tuple(AssetScore(*answer) for answer in row.assets or ()),
        row.kind,
        row.kind_confidence,
        row.unknown,
        from_object(row.provenance),
    )
    if row.embedding is None:
        return CachedScore(score)
    states = np.frombuffer(row.embedding, "<f2").astype(np.float32)
    return CachedScore(score, states.reshape(1 + len(score.assets), -1))


def _rounded(states: Floats) -> Floats:
    """Return the states at the precision in which a later hit returns them."""
    return states.astype(np.float16).astype(np.float32)


def _parts(keys: Iterable[bytes]) -> Iterator[list[bytes]]:
    rest = iter(keys)
    while part := list(islice(rest, _KEYS_PER_QUERY)):
        yield part
