"""One function opens every kind of model, and the facts about it are found behind any wrapper."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from agent.config import Config, parse
from agent.core.errors import ConfigError, ModelError, SafetyError, TapewireError
from agent.data.sentiment import score_texts
from agent.store.database import open_database
from models.sentiment import absolute, is_local
from models.sentiment.llm.llm_scorer import LlmScorer
from models.sentiment.open_scorer import fingerprint_of, open_cached_scorer, open_local_scorer, open_scorer
from models.sentiment.scorer_facts import (
    close_scorer,
    describe_language_models,
    llm_health_of,
    most_at_once,
    prompts_of,
    trained_until,
)
from models.sentiment.serve.headline_score import HeadlineScore
from models.sentiment.serve.scorer import Scorer

SERVER = "openai:http://127.0.0.1:9/v1#tiny:1b"
MARCH = 1_740_787_200_000  # 2025-03-01T00:00Z


def config(**llm: Any) -> Config:
    return parse({"llm": {"fallback": ""} | llm}, where="test")


def test_a_folder_is_a_local_model(tmp_path: Path, write_model: Callable[..., Path]) -> None:
    folder = str(write_model(tmp_path / "model"))
    scorer = open_scorer(folder, config(), threads=1)
    assert isinstance(scorer, Scorer)
    assert scorer.fingerprint == fingerprint_of(folder, config())
    assert trained_until(scorer) == scorer.card.trained_until
    assert (prompts_of(scorer), llm_health_of(scorer), most_at_once(scorer)) == ({}, [], None)
    assert describe_language_models(scorer) == ""
    close_scorer(scorer)


def test_opening_a_language_model_asks_nothing_and_its_facts_are_found_behind_the_cache(
    tmp_path: Path,
) -> None:
    """Nothing listens on port 9. The last day of the cutoff is 28 February, so the model knows no 1 March."""
    settled = config(cutoffs={"tiny:1b": "2025-02-28"}, concurrency=3)
    with closing(open_database(f"sqlite:///{tmp_path / 'store.db'}")) as database:
        scorer = open_cached_scorer(SERVER, settled, database)
        assert isinstance(scorer.scorer, LlmScorer)
        assert scorer.fingerprint == fingerprint_of(SERVER, settled)
        assert trained_until(scorer.scorer) == MARCH
        assert describe_language_models(scorer) == "tiny:1b (knowledge cutoff 2025-02-28)"
        assert [health["asked"] for health in llm_health_of(scorer)] == [0]
        assert most_at_once(scorer) == 3
        with pytest.raises(ModelError, match="has no embeddings"):
            score_texts(scorer, ["bitcoin soars"], embedded=True)
        close_scorer(scorer)


@pytest.mark.parametrize(
    ("path", "llm", "kind", "message"),
    [
        (SERVER, {"fallback": SERVER}, ConfigError, "is no local model"),
        (SERVER, {"fallback": "/nowhere"}, ModelError, "/nowhere"),
        ("openai:https://api.example.com/v1#big", {}, SafetyError, "allow_hosts"),
        ("openai:nonsense", {}, ConfigError, "names no model"),
    ],
)
def test_what_cannot_be_opened_is_one_error(
    path: str, llm: dict[str, Any], kind: type[TapewireError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        open_scorer(path, config(**llm))


@pytest.mark.parametrize("path", [SERVER, "ensemble:folder"])
def test_hidden_states_need_a_local_model(path: str) -> None:
    with pytest.raises(ConfigError, match="has no hidden states"):
        open_local_scorer(path, config())


class Member(NamedTuple):
    scorer: Any


class Pooled:
    """An ensemble of the given members."""

    fingerprint = "pool"
    trained_until = MARCH

    def __init__(self, *members: Any) -> None:
        self.members = [Member(one) for one in members]
        self.closed = False

    def score(self, texts: Sequence[str]) -> list[HeadlineScore]:
        return [HeadlineScore(0.2, 0.3, 0.5) for _ in texts]

    def close(self) -> None:
        self.closed = True


def test_the_facts_of_an_ensemble_are_its_own_and_those_of_its_language_models() -> None:
    one, other = (
        open_scorer(path, config(concurrency=most))
        for path, most in ((SERVER, 4), (SERVER.replace("tiny", "small"), 2))
    )
    pooled = Pooled(one, other)
    assert trained_until(pooled) == MARCH
    assert most_at_once(pooled) == 2
    assert [health["model"] for health in llm_health_of(pooled)] == ["tiny:1b", "small:1b"]
    assert describe_language_models(pooled).startswith("tiny:1b (knowledge cutoff unknown), small:1b")
    assert prompts_of(pooled) == prompts_of(one)
    close_scorer(pooled)
    assert pooled.closed


def test_paths_of_models_keep_their_meaning_in_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    paths = ("starter", SERVER, "model", "ensemble:pool")
    assert [absolute(path) for path in paths] == [
        "starter",
        SERVER,
        str(tmp_path / "model"),
        f"ensemble:{tmp_path / 'pool'}",
    ]
    assert [is_local(path) for path in paths] == [True, False, True, False]
