"""The calibration file of a language model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.config.llm import LlmConfig
from agent.core.errors import ModelError
from agent.core.events import Provenance
from models.sentiment.llm.llm_calibration import (
    Calibration,
    fit_calibration,
    identity_of,
    read_calibration,
    write_calibration,
)
from models.sentiment.llm.llm_prompt import Prompt, ShownExample, prompts
from models.sentiment.serve.headline_score import HeadlineScore, abstention

CONFIG = LlmConfig()
PROMPTS = tuple(prompts((), False).values())
WORD, JSON = PROMPTS


def score(label: str, confidence: float, prompt: Prompt = WORD, fallback: str = "") -> HeadlineScore:
    """A score with `confidence` for one label and equal rests."""
    chances = dict.fromkeys(("bearish", "neutral", "bullish"), (1 - confidence) / 2) | {label: confidence}
    return HeadlineScore(**chances, provenance=Provenance("m", prompt.sha256, 42, ("a",), fallback))


def overconfident() -> tuple[list[HeadlineScore], list[str]]:
    """100 scores of 0.96, of which 80 are right and 10 each are of another class."""
    labels = ["bullish"] * 80 + ["bearish"] * 10 + ["neutral"] * 10
    return [score("bullish", 0.96) for _ in labels], labels


def test_the_temperature_makes_confidence_the_share_of_right_answers() -> None:
    scores, labels = overconfident()
    fitted = fit_calibration(scores, labels, PROMPTS, "m", CONFIG, trained_until=5)
    # 0.8 to 0.1 is (0.96 to 0.02) to the power of ln 8 / ln 48 = 1 / 1.8616
    assert fitted.temperature == pytest.approx(1.8616, abs=1e-3)
    assert fitted.ece_before == pytest.approx(0.16)
    assert fitted.ece_after == pytest.approx(0.0, abs=1e-6)
    assert (fitted.rows, fitted.left_out, fitted.method, fitted.form) == (100, 0, "logprobs", "word")
    assert (fitted.model, fitted.prompt, fitted.trained_until) == ("m", WORD.sha256, 5)


def test_only_the_models_own_answers_by_one_method_are_fitted() -> None:
    scores, labels = overconfident()
    others = [
        score("bearish", 0.9, fallback="deadline"),
        abstention("budget of 1 requests an hour is spent"),
        score("bearish", 0.9, JSON),
        HeadlineScore(0.1, 0.1, 0.8),  # of a local model
    ]
    fitted = fit_calibration([*others, *scores], ["neutral"] * 4 + labels, PROMPTS, "m", CONFIG)
    assert fitted.temperature == pytest.approx(1.8616, abs=1e-3)
    assert (fitted.rows, fitted.left_out) == (100, 4)


def test_too_few_answers_are_an_error() -> None:
    scores, labels = overconfident()
    with pytest.raises(ModelError, match="m answered 29 of 29 labelled headlines"):
        fit_calibration(scores[:29], labels[:29], PROMPTS, "m", CONFIG)


def written(tmp_path: Path, prompt: Prompt = WORD) -> tuple[Path, Calibration]:
    scores, labels = overconfident()
    moved = [
        msgspec.structs.replace(one, provenance=score("bullish", 0.5, prompt).provenance) for one in scores
    ]
    fitted = fit_calibration(moved, labels, PROMPTS, "m", CONFIG)
    write_calibration(tmp_path / "llm.json", fitted)
    return tmp_path / "llm.json", fitted


@pytest.mark.parametrize("prompt", [WORD, JSON])
def test_a_file_is_read_for_what_it_was_fitted_for(prompt: Prompt, tmp_path: Path) -> None:
    path, fitted = written(tmp_path, prompt)
    assert read_calibration(path, PROMPTS, "m", CONFIG) == fitted
    assert fitted.form == prompt.form


SHOWN = tuple(prompts((ShownExample("Coin climbs", "bullish"),), False).values())


@pytest.mark.parametrize(
    ("fitted_on", "model", "known", "change", "difference"),
    [
        (WORD, "n", PROMPTS, {}, "the model 'm', not for 'n'"),
        (WORD, "m", SHOWN, {}, "another prompt"),
        (WORD, "m", (JSON,), {}, "another prompt"),
        (JSON, "m", PROMPTS, {"samples": 9}, "other samples"),
        (JSON, "m", PROMPTS, {"temperature": 0.1}, "another temperature"),
        (WORD, "m", PROMPTS, {"samples": 9}, ""),  # samples don't affect log-probabilities
        (WORD, "m", PROMPTS, {"seed": 9, "deadline": 1}, ""),
    ],
)
def test_a_file_is_refused_for_another_model_prompt_or_method(
    fitted_on: Prompt,
    model: str,
    known: tuple[Prompt, ...],
    change: dict[str, Any],
    difference: str,
    tmp_path: Path,
) -> None:
    path, _ = written(tmp_path, fitted_on)
    config = CONFIG.model_copy(update=change)
    if difference:
        with pytest.raises(ModelError, match=difference):
            read_calibration(path, known, model, config)
    else:
        read_calibration(path, known, model, config)


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (lambda text: "", "holds no calibration"),
        (lambda text: "{}", "holds no calibration"),
        (lambda text: text.replace('"format": 1', '"format": 2'), "format 2 is newer than 1"),
        (lambda text: text.replace('"temperature": 1.', '"temperature": -1.'), "temperature -1"),
        (lambda text: text.replace('"model": "m"', '"model": "n"'), "the model 'n', not for 'm'"),
        (lambda text: text.replace('"identity": "', '"identity": "0'), "other samples"),
    ],
)
def test_a_damaged_file_is_an_error(damage: Any, error: str, tmp_path: Path) -> None:
    path, _ = written(tmp_path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(ModelError, match=error):
        read_calibration(path, PROMPTS, "m", CONFIG)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        read_calibration(tmp_path / "llm.json", PROMPTS, "m", CONFIG)


def test_identities_differ_by_model_prompt_and_method() -> None:
    found = {identity_of(model, prompt, CONFIG) for model in ("m", "n") for prompt in (*PROMPTS, *SHOWN)}
    assert len(found) == 8
