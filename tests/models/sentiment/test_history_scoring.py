"""Scoring of a history: the same scores whatever scores them, and nothing that is scored is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agent.data.sentiment import NamedScorer
from agent.store.database import Database, open_database
from models.sentiment import model_dir
from models.sentiment.serve.history_scoring import BLOCK, score_history
from models.sentiment.serve.score_cache import SCORES, CachedScorer, SqlScoreCache
from models.sentiment.serve.scorer import Scorer

ROOT = Path(__file__).parents[3]
_SUBJECTS = (
    "Bitcoin",
    "Ether and Solana",
    "The exchange",
    "A miner",
    "XRP",
    "",
    "Der Kurs ist und der Markt",
)
_VERBS = ("rallies", "slides 5%", "pauses withdrawals", "wins approval", "faces a lawsuit by the SEC")
TEXTS = [f"{a} {b}, bulletin {n // 2}" for n in range(22) for a in _SUBJECTS for b in _VERBS]
"""770 texts, of which each occurs twice, in one block or in two."""


@pytest.fixture(scope="module")
def starter() -> Scorer:
    return Scorer.load(model_dir("starter"), threads=1)


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Callable[[], Database]]:
    opened: list[Database] = []

    def new() -> Database:
        opened.append(open_database(f"sqlite:///{tmp_path / f'{len(opened)}.db'}"))
        return opened[-1]

    yield new
    for database in opened:
        database.close()


def rows_of(database: Database) -> list[tuple[Any, ...]]:
    with database.read() as connection:
        rows = connection.execute(SCORES.select().order_by(SCORES.c.text_hash))
        return [tuple(row) for row in rows]


def scored(database: Database, scorer: NamedScorer, **how: Any) -> list[tuple[Any, ...]]:
    score_history(CachedScorer(scorer, SqlScoreCache(database)), TEXTS, **how)
    return rows_of(database)


@pytest.mark.slow
@pytest.mark.parametrize("embedded", [False, True])
def test_many_threads_store_what_one_stores(
    starter: Scorer, stores: Callable[[], Database], embedded: bool
) -> None:
    one = scored(stores(), starter, embedded=embedded)
    assert len(one) == len(set(TEXTS))
    assert scored(stores(), Scorer.load(model_dir("starter"), threads=3), embedded=embedded) == one


def test_a_model_in_floating_point_gets_the_batches_of_a_replay(
    stores: Callable[[], Database], tmp_path: Path, write_model: Callable[..., Path]
) -> None:
    """Batches change its last bits, so they must be those of a replay, which scores block by block."""
    model = Scorer.load(write_model(tmp_path / "model"))
    replayed = stores()
    cached = CachedScorer(model, SqlScoreCache(replayed))
    for begin in range(0, len(TEXTS), BLOCK):
        cached.score(TEXTS[begin : begin + BLOCK])
    batches: list[list[str]] = []

    class Recorded:
        fingerprint, names = model.fingerprint, model.names

        def score(self, texts: Sequence[str]) -> Any:
            batches.append(list(texts))
            return model.score(texts)

    assert scored(stores(), Recorded(), embedded=False) == rows_of(replayed)
    assert sum(map(len, batches)) == len(set(TEXTS))
    assert batches[0] == list(dict.fromkeys(TEXTS[:BLOCK]))
    assert batches[1] == [text for text in dict.fromkeys(TEXTS[BLOCK : 2 * BLOCK]) if text not in batches[0]]


@pytest.mark.slow
def test_an_interrupted_call_keeps_its_scores_and_the_next_one_goes_on(
    stores: Callable[[], Database], starter: Scorer
) -> None:
    database, seen = stores(), list[tuple[int, int]]()

    def interrupt(done: int, total: int) -> None:
        seen.append((done, total))
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scored(database, starter, progress=interrupt)
    kept = len(rows_of(database))
    assert 0 < kept == seen[-1][0] < seen[-1][1] == len(set(TEXTS))
    seen.clear()
    cached = CachedScorer(starter, SqlScoreCache(database))
    assert (
        score_history(cached, TEXTS, progress=lambda *counts: seen.append(counts)) == len(set(TEXTS)) - kept
    )
    assert seen[0] == (kept, len(set(TEXTS)))
    assert seen[-1] == (len(set(TEXTS)), len(set(TEXTS)))
    assert rows_of(database) == scored(stores(), starter)


def test_scores_made_ahead_of_a_replay_are_those_that_it_makes(tmp_path: Path) -> None:
    """The replay finds every score in the cache, and they are those that it would have stored itself."""
    from agent.config import parse
    from agent.replay.backtest import backtest
    from agent.replay.history import History, Plan
    from agent.research.replay_inputs import configured_scoring

    sample = ROOT / "tests/sample_data"
    plan = Plan(((sample / "BTCUSDT-1m.csv", None),), news=sample / "headlines.csv")
    stored = []
    for ahead in (False, True):
        config = parse({"store": {"url": f"sqlite:///{tmp_path / f'{ahead}.db'}"}}, where="test")
        history = History(plan, config)
        with closing(open_database(config.store.url)) as database:
            scorer = configured_scoring(history.config, database, history.start, allow_leakage=True).scorer
            assert isinstance(scorer, CachedScorer)
            if ahead:
                score_history(scorer, [news.title for news in history.news], embedded=False)
            misses = scorer.misses
            backtest(history, database, scorer=scorer)
            assert (scorer.misses == misses) is ahead
            stored.append(rows_of(database))
    assert stored[0] == stored[1]
