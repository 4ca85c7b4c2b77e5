"""`tapewire train sentiment` and `tapewire evaluate`, run through the command line."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.core.errors import DataError, ModelError, TapewireError, UsageError
from models.cards import read_card
from models.sentiment.train.datasets import Example
from tests.support.command_line import run_command

WORDS = [
    ("token soars after record inflows", "positive"),
    ("token crashes", "negative"),
    ("the token meets", "neutral"),
] * 4


def tapewire(*arguments: str | Path) -> str:
    """Run `tapewire` in this process and return its standard output; its errors are raised."""
    result = run_command(arguments)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Write twelve labelled texts with the columns `headline` and `mood`."""
    return write(tmp_path / "labelled.csv", WORDS)


def write(path: Path, rows: list[tuple[str, str]]) -> Path:
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([("headline", "mood"), *rows])
    return path


COLUMNS = ("--format", "csv", "--text-column", "headline", "--label-column", "mood")


def test_evaluate_measures_an_exported_model(
    labelled: Path, write_model: Callable[..., Path], tmp_path: Path
) -> None:
    found = json.loads(
        tapewire(
            "evaluate", "--adapter", write_model(tmp_path / "model"), "--data", labelled, *COLUMNS, "--json"
        )
    )
    assert {"accuracy", "macro_f1", "weighted_f1", "ece", "n"} <= found.keys()
    assert found["n"] == 12
    assert found["accuracy"] == found["macro_f1"] == found["weighted_f1"] == 1
    assert found["seen"] is False
    assert "accuracy" in tapewire("evaluate", "--adapter", tmp_path / "model", "--data", labelled, *COLUMNS)


def test_evaluating_an_export_needs_no_training_library(
    labelled: Path, write_model: Callable[..., Path], tmp_path: Path
) -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'peft', 'sklearn', 'bitsandbytes'): sys.modules[name] = None\n"
        "from agent.cli.main import main\nmain()"
    )
    model = write_model(tmp_path / "model")
    command = [
        sys.executable,
        "-c",
        code,
        "evaluate",
        "--adapter",
        str(model),
        "--data",
        str(labelled),
        *COLUMNS,
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert json.loads(done.stdout)["n"] == 12


@pytest.mark.parametrize(
    ("arguments", "error", "complaint"),
    [
        (("--adapter", "nowhere"), ModelError, "nowhere does not exist"),
        (("--label-column", "mod"), DataError, r"no column 'mod'.*did you mean mood"),
        (("--format", "cvs"), UsageError, r"unknown data format 'cvs'.*did you mean csv"),
        (("--data", "nowhere.csv"), DataError, r"nowhere.csv does not exist"),
    ],
)
def test_an_invalid_argument_of_evaluate_raises_an_error_with_the_cause(
    arguments: tuple[str, str], error: type[TapewireError], complaint: str, labelled: Path
) -> None:
    with pytest.raises(error, match=complaint):
        tapewire("evaluate", "--adapter", "starter", "--data", labelled, *COLUMNS, *arguments)


@pytest.mark.slow
@pytest.mark.train
def test_train_writes_an_adapter_that_evaluate_measures(
    headlines: tuple[Example, ...], tiny_bases: dict[str, Path], tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    data = write(tmp_path / "own.csv", [(example.text, example.label) for example in headlines])
    output = tmp_path / "adapter"
    run = ("--data", data, *COLUMNS, "--base", tiny_bases["mean"], "--eventless", data)
    choices = (
        "--method",
        "lora",
        "--lr",
        "2e-2",
        "--head-learning-rate",
        "2e-2",
        "--epochs",
        "6",
        "--patience",
        "0",
    )
    shown = tapewire("train", "sentiment", *run, *choices, "--output", output)
    card = read_card(output)
    assert f"temperature {card.temperature:.3f}" in shown
    assert f"{card.metrics['test']['accuracy'].value:.3f}" in shown
    assert "similarity rank correlation" in shown
    assert card.trained_until == 0, "an eventless corpus moves nothing"
    assert card.hyper["learning_rate"] == 2e-2
    found = json.loads(tapewire("evaluate", "--adapter", output, "--data", data, *COLUMNS, "--json"))
    assert found["accuracy"] > 0.6
    assert found["seen"] is True


@pytest.mark.train
@pytest.mark.parametrize(
    ("rows", "arguments", "error", "complaint"),
    [
        ([("up", "positive")] * 3, (), DataError, "lack bearish and neutral"),
        ([("Coin tops $100", "positive")], ("--eventless",), DataError, "not eventless: row 1 names a price"),
        (WORDS, ("--format", "csv", "--format", "csv", "--format", "csv"), UsageError, "1 --data but"),
        (WORDS, ("--latest", "soon"), UsageError, "--latest 'soon' is no date"),
    ],
)
def test_unsuitable_training_data_is_refused(
    rows: list[tuple[str, str]],
    arguments: tuple[str, ...],
    error: type[TapewireError],
    complaint: str,
    tmp_path: Path,
) -> None:
    data = write(tmp_path / "own.csv", rows)
    more = (*arguments, data) if arguments == ("--eventless",) else arguments
    with pytest.raises(error, match=complaint):
        tapewire("train", "sentiment", "--data", data, *COLUMNS, *more, "--output", tmp_path / "adapter")
