"""`tapewire score`: table, JSON lines, standard input and invalid arguments."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from agent.cli.main import build
from agent.core.errors import ModelError, UsageError

FIELDS = {
    "text",
    "bearish",
    "neutral",
    "bullish",
    "prediction",
    "confidence",
    "actionable",
    "abstained",
    "reason",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, write_model: Callable[..., Path]) -> str:
    return str(write_model(tmp_path_factory.mktemp("model")))


def run(*arguments: str, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(build(), ["score", *arguments], input=stdin)


def test_json_output_is_one_object_per_text(model: str) -> None:
    rows = [json.loads(line) for line in run("-m", model, "--json", "bitcoin soars", "").stdout.splitlines()]
    assert [row["text"] for row in rows] == ["bitcoin soars", ""]
    assert all(set(row) == FIELDS for row in rows)
    assert rows[0]["prediction"] == "BUY"
    assert rows[1]["abstained"]


def test_standard_input_is_scored_line_by_line_even_if_it_is_not_utf_8(model: str) -> None:
    lines = [b"the token crashes", b"", b"caf\xe9 \xff", *[b"bitcoin soars"] * 600]
    rows = [
        json.loads(line) for line in run("-m", model, "--json", stdin=b"\n".join(lines)).stdout.splitlines()
    ]
    assert len(rows) == len(lines)
    assert [row["prediction"] for row in rows[:2]] == ["SELL", "HOLD"]
    assert {row["prediction"] for row in rows[3:]} == {"BUY"}


def test_the_default_output_is_a_table(model: str) -> None:
    shown = run("-m", model, "bitcoin soars", "[bold]brackets[/]").stdout
    assert "BUY" in shown
    assert "[bold]brackets[/]" in shown


def test_the_threshold_determines_whether_a_score_is_actionable(model: str) -> None:
    low, high = (
        json.loads(run("-m", model, "--json", "--threshold", t, "record").stdout) for t in ("0.1", "0.99")
    )
    assert (low["actionable"], high["actionable"]) == (True, False)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("-m", "no/such/folder", "x"), ModelError),
        (("--device", "tpu", "x"), UsageError),
        (("--threshold", "70", "x"), UsageError),
    ],
)
def test_an_invalid_argument_is_refused(
    model: str, arguments: tuple[str, ...], error: type[Exception]
) -> None:
    chosen = arguments if "-m" in arguments else ("-m", model, *arguments)
    assert isinstance(run(*chosen).exception, error)
