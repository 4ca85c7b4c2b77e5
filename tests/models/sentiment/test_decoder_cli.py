"""Language models on the command line: train, evaluate, export, and the worker's choice of what runs."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch")

from agent.core.errors import UsageError
from models.cards import read_card
from models.sentiment.train.datasets import Example
from tests.support.command_line import run_command

pytestmark = pytest.mark.train


def tapewire(*arguments: str | Path) -> str:
    """Run `tapewire` in this process and return its standard output; its errors are raised."""
    result = run_command(arguments)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


@pytest.fixture
def labelled(headlines: tuple[Example, ...], tmp_path: Path) -> Path:
    """Write 144 labelled headlines."""
    path = tmp_path / "labelled.csv"
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([("text", "label"), *((row.text, row.label) for row in headlines)])
    return path


def test_a_language_model_is_measured_with_examples_of_the_file(
    labelled: Path, word_bases: dict[str, Path]
) -> None:
    base = word_bases["llama"]
    options = ("--base", base, "--data", labelled, "--format", "csv", "--resamples", "100")
    found = json.loads(tapewire("evaluate", *options, "--shots", "6", "--json"))
    assert (found["n"], found["shots"], found["model"]) == (138, 6, str(base))
    assert "138 texts" in tapewire("evaluate", *options, "--shots", "6")
    with pytest.raises(UsageError, match="--shots measures a language model"):
        tapewire("evaluate", "--data", labelled, "--format", "csv", "--shots", "6")


def test_an_untrained_model_becomes_a_folder_that_is_evaluated_and_exported(
    labelled: Path, word_bases: dict[str, Path], tmp_path: Path
) -> None:
    data = ("--data", labelled, "--format", "csv")
    tapewire(
        *("train", "sentiment", "--base", word_bases["qwen2"], "--head", "words", "--method", "none"),
        *("--shots", "2", *data, "--output", tmp_path / "out"),
    )
    card = read_card(tmp_path / "out")
    assert (card.method, card.hyper["shots"], card.notes["trainable_parameters"]) == ("none", 2, 0)
    found = json.loads(tapewire("evaluate", "--adapter", tmp_path / "out", *data, "--json"))
    assert found["n"] == 144
    tapewire("export", "model", tmp_path / "out", tmp_path / "lm", "--language-model")
    assert (tmp_path / "lm" / "model.safetensors").is_file()
    assert read_card(tmp_path / "lm").template == card.template


def test_an_export_stands_for_nothing(write_model: Callable[..., Path], tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    with pytest.raises(UsageError, match="is served as itself"):
        tapewire("worker", "sentiment", "--model", folder, "--stands-for", folder)
