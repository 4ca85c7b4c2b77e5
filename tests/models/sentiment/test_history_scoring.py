"""Scoring of a history: the same scores whatever scores them, and nothing that is scored is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agent.core.errors import ModelError
from agent.data.sentiment import NamedScorer
from agent.store.database import Database, open_database
from models.sentiment import model_dir
from models.sentiment.serve import history_scoring
from models.sentiment.serve.history_scoring import BLOCK, ProcessJudges, score_history
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


@pytest.fixture
def processes_for_few_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_scoring, "WORTH_PROCESSES", 1)


def rows_of(database: Database) -> list[tuple[Any, ...]]:
    with database.read() as connection:
        rows = connection.execute(SCORES.select().order_by(SCORES.c.text_hash))
        return [tuple(row) for row in rows]


def scored(database: Database, scorer: NamedScorer, **how: Any) -> list[tuple[Any, ...]]:
    score_history(CachedScorer(scorer, SqlScoreCache(database)), TEXTS, **how)
    return rows_of(database)


@pytest.mark.slow
@pytest.mark.usefixtures("processes_for_few_texts")
@pytest.mark.parametrize("embedded", [False, True])
def test_processes_store_what_one_thread_stores(
    starter: Scorer, stores: Callable[[], Database], embedded: bool
) -> None:
    one = scored(stores(), starter, embedded=embedded)
    assert len(one) == len(set(TEXTS))
    assert scored(stores(), starter, embedded=embedded, jobs=3 if embedded else 2) == one


@pytest.mark.usefixtures("processes_for_few_texts")
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
    assert scored(stores(), model, embedded=False, jobs=2) == rows_of(replayed)
    assert sum(map(len, batches)) == len(set(TEXTS))
    assert batches[0] == list(dict.fromkeys(TEXTS[:BLOCK]))
    assert batches[1] == [text for text in dict.fromkeys(TEXTS[BLOCK : 2 * BLOCK]) if text not in batches[0]]


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


class DyingScorer:
    """Kills its process at its second block, as often as there are files in `lives`."""

    def __init__(self, model: Path, lives: Path) -> None:
        self._scorer = Scorer.load(model, threads=1)
        self.fingerprint, self.names = self._scorer.fingerprint, self._scorer.names
        self._lives, self._blocks = lives, 0

    def score(self, texts: Sequence[str]) -> Any:
        self._blocks += 1
        life = next(self._lives.iterdir(), None)
        if self._blocks == 2 and life is not None:
            life.unlink(missing_ok=True)
            os.kill(os.getpid(), signal.SIGKILL)
        return self._scorer.score(texts)


@pytest.mark.parametrize("lives", [1, 2])
def test_a_block_whose_process_dies_is_scored_by_another(
    stores: Callable[[], Database], tmp_path: Path, write_model: Callable[..., Path], lives: int
) -> None:
    model, folder = write_model(tmp_path / "model"), tmp_path / "lives"
    folder.mkdir()
    for number in range(lives):
        (folder / str(number)).touch()
    scorer = Scorer.load(model)
    judges = ProcessJudges(partial(DyingScorer, model, folder), scorer.fingerprint, 1, embedded=False)
    assert scored(stores(), scorer, embedded=False, judges=judges) == scored(stores(), scorer, embedded=False)
    assert judges.lost == lives


def test_processes_that_keep_dying_are_an_error_and_their_scores_are_kept(
    stores: Callable[[], Database],
    tmp_path: Path,
    write_model: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(history_scoring, "BLOCK", 32)
    model, folder, database = write_model(tmp_path / "model"), tmp_path / "lives", stores()
    folder.mkdir()
    for number in range(9):
        (folder / str(number)).touch()
    scorer = Scorer.load(model)
    judges = ProcessJudges(partial(DyingScorer, model, folder), scorer.fingerprint, 1, embedded=False)
    with pytest.raises(ModelError, match="keep dying"):
        scored(database, scorer, embedded=False, judges=judges)
    assert 0 < len(rows_of(database)) < len(set(TEXTS))


def test_a_model_that_was_replaced_meanwhile_is_refused(
    stores: Callable[[], Database], tmp_path: Path, write_model: Callable[..., Path]
) -> None:
    scorer = Scorer.load(write_model(tmp_path / "model"))
    other = write_model(tmp_path / "other", temperature=5.0)
    judges = ProcessJudges(partial(Scorer.load, other, threads=1), scorer.fingerprint, 1, embedded=False)
    database = stores()
    with pytest.raises(ModelError, match="have changed meanwhile"):
        scored(database, scorer, embedded=False, judges=judges)
    assert rows_of(database) == []


_KILLED = """
import sys
from models.sentiment import model_dir
from models.sentiment.serve.history_scoring import ProcessJudges
from models.sentiment.serve.scorer import Scorer

if __name__ == "__main__":
    scorer = Scorer.load(model_dir("starter"), threads=1)
    judges = ProcessJudges(scorer.reopen, scorer.fingerprint, 2, embedded=False)
    texts = [[f"Bitcoin rallies, bulletin {n} of {m}" for n in range(256)] for m in range(99)]
    for _ in judges(texts):
        print("scored", flush=True)
"""


@pytest.mark.slow
def test_processes_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(_KILLED)
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, str(script)], env=env, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        parent.kill()
    assert len(children) >= 2
    deadline = time.monotonic() + 30
    while any(_runs(child) for child in children):
        assert time.monotonic() < deadline, children
        time.sleep(0.05)


def _runs(process: str) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


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
