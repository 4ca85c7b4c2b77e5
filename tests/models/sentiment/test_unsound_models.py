"""A model without valid output is refused on loading; if it fails on single texts, it abstains on them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from agent.core.errors import ModelError
from agent.store.database import open_database
from models.labels import NOT_FINITE, NOT_READABLE
from models.sentiment.serve.score_cache import CachedScorer, SqlScoreCache
from models.sentiment.serve.scorer import TOKENIZER_NAME, Scorer
from tests.models.sentiment.broken_models import (
    catastrophic,
    everywhere,
    for_word,
    rehashed,
    with_card,
    with_constant,
    with_tokenizer,
)
from tests.models.tiny_model import write_tiny

UP, DOWN = "bitcoin soars after record inflows", "the token crashes"
PANIC = f"bitcoin {'a' * 40}"  # the tokenizer of `catastrophic` panics on it


def broken_tokenizer(folder: Path) -> Path:
    (folder / TOKENIZER_NAME).write_text('{"version": "1.0", "model": 7}')
    return rehashed(folder)


UNSOUND: dict[str, tuple[Callable[[Path], Path], str]] = {
    "NaN logits": (lambda f: with_constant(f, "head", everywhere(np.nan)), "not finite numbers"),
    "infinite logits": (lambda f: with_constant(f, "head", everywhere(np.inf)), "not finite numbers"),
    "an embedding that half precision can't hold": (
        lambda f: with_constant(f, "lean", everywhere(1e20)),
        "not finite numbers",
    ),
    "four classes": (lambda f: with_constant(f, "head", lambda _: np.zeros((2, 4), np.float32)), "shapes"),
    "a graph that fails to run": (lambda f: with_constant(f, "lean", lambda c: c[:0]), "can't score a text"),
    "a broken tokenizer": (broken_tokenizer, "tokenizer.json cannot be opened"),
    "temperature 0": (lambda f: with_card(f, temperature=0), "temperature 0"),
    "a negative temperature": (lambda f: with_card(f, temperature=-1.5), "temperature -1.5"),
    "temperature NaN": (lambda f: with_card(f, temperature=None), "card is damaged"),
    "a tiny temperature": (lambda f: rehashed(with_card(f, temperature=1e-320)), "not finite numbers"),
}


@pytest.mark.parametrize("name", UNSOUND)
def test_a_model_without_valid_probabilities_is_not_loaded(name: str, tmp_path: Path) -> None:
    spoil, says = UNSOUND[name]
    folder = spoil(write_tiny(tmp_path))
    with pytest.raises(ModelError) as error:
        Scorer.load(folder)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value) or says == "shapes"


def test_a_path_with_a_null_byte_is_refused() -> None:
    with pytest.raises(ModelError, match="null byte"):
        Scorer.load(Path("/tmp/a\0b"))


def test_a_text_with_output_that_is_not_finite_is_abstained_on_and_the_others_are_scored(
    tmp_path: Path,
) -> None:
    sound = Scorer.load(write_tiny(tmp_path / "sound"))
    scorer = Scorer.load(with_constant(write_tiny(tmp_path / "spoilt"), "lean", for_word("crashes", np.nan)))
    scores, embeddings = scorer.score_and_embed([UP, DOWN, UP])
    assert [score.abstained for score in scores] == [False, True, False]
    assert scores[1].reason == NOT_FINITE
    assert sum(scores[1].probabilities) == pytest.approx(1)
    assert scores[0] == sound.score([UP])[0]
    assert all(np.isfinite(states).all() for states in embeddings)
    with closing(open_database(f"sqlite:///{tmp_path / 'store.db'}")) as database:
        cached = CachedScorer(scorer, SqlScoreCache(database))
        assert cached.score([UP, DOWN]) == cached.score([UP, DOWN]) == scores[:2]


def test_a_text_on_which_the_tokenizer_panics_is_abstained_on(tmp_path: Path) -> None:
    scorer = Scorer.load(with_tokenizer(write_tiny(tmp_path), catastrophic))
    up, panic, down = scorer.score([UP, PANIC, DOWN])
    assert (up.abstained, down.abstained) == (False, False)
    assert (panic.abstained, panic.reason) == (True, NOT_READABLE)
    assert scorer.score([PANIC])[0] == panic, "also on its own"


def test_a_text_on_which_the_graph_fails_is_abstained_on(tmp_path: Path) -> None:
    # the embedding lacks the row of "inflows"
    scorer = Scorer.load(with_constant(write_tiny(tmp_path), "lean", lambda lean: lean[:-1]))
    up, down = scorer.score([UP, DOWN])
    assert (up.reason, down.abstained) == (NOT_READABLE, False)
