"""`tapewire score`: table, JSON lines, standard input and invalid arguments."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import exp
from pathlib import Path

import pytest
from typer.testing import Result

from agent.cli.console import out
from agent.core.errors import ModelError, UsageError
from models.labels import LABELS
from tests.support.command_line import run_command

FIELDS = [
    "text",
    "bearish",
    "neutral",
    "bullish",
    "prediction",
    "confidence",
    "actionable",
    "abstained",
    "reason",
    "assets",
    "kind",
    "kind_confidence",
    "provenance",
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, write_model: Callable[..., Path]) -> str:
    return str(write_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory, write_reader: Callable[..., Path]) -> str:
    return str(write_reader(tmp_path_factory.mktemp("reader")))


def run(*arguments: str, stdin: bytes | None = None) -> Result:
    return run_command(["score", *arguments], input=stdin)


def test_json_output_is_one_object_per_text(model: str) -> None:
    rows = [json.loads(line) for line in run("-m", model, "--json", "bitcoin soars", "").stdout.splitlines()]
    assert [row["text"] for row in rows] == ["bitcoin soars", ""]
    assert all(list(row) == FIELDS for row in rows)
    assert rows[0]["prediction"] == "BUY"
    assert rows[1]["abstained"]
    assert [row["assets"] for row in rows] == [{}, {}]
    assert [(row["kind"], row["kind_confidence"]) for row in rows] == [("", 0.0)] * 2


def softmax(*logits: float) -> list[float]:
    weights = [exp(logit) for logit in logits]
    return [weight / sum(weights) for weight in weights]


def test_json_states_the_answer_for_each_named_asset_and_the_kind(reader: str) -> None:
    """Ether gets the weight of soars, bitcoin that of outflows; the whole text gets their sum, 3 - 2."""
    rows = run("-m", reader, "--json", "ether soars as bitcoin outflows", "the token hacked", "").stdout
    mixed, unnamed, silent = map(json.loads, rows.splitlines())
    assert list(mixed) == FIELDS
    assert [mixed[label] for label in LABELS] == pytest.approx(softmax(-1, 0.5, 1), abs=1e-6)
    assert list(mixed["assets"]) == ["ETH", "BTC"]
    assert [list(own) for own in mixed["assets"].values()] == [list(LABELS)] * 2
    assert list(mixed["assets"]["ETH"].values()) == pytest.approx(softmax(-3, 0.1, 3), abs=1e-6)
    assert list(mixed["assets"]["BTC"].values()) == pytest.approx(softmax(2, 0.1, -2), abs=1e-6)
    assert mixed["kind"] == "price"
    assert mixed["kind_confidence"] == pytest.approx(softmax(4, 1, *[0] * 7)[0], abs=1e-6)
    assert (unnamed["assets"], unnamed["kind"]) == ({}, "failure")
    assert (silent["assets"], silent["kind"], silent["abstained"]) == ({}, "", True)


@pytest.mark.parametrize(
    ("width", "header"), [(120, "confidence  bearish  neutral  bullish"), (60, "conf  bear  neut  bull")]
)
def test_the_table_has_an_indented_line_per_asset_and_the_kind(
    reader: str, monkeypatch: pytest.MonkeyPatch, width: int, header: str
) -> None:
    monkeypatch.setattr(out, "width", width)
    lines = run("-m", reader, "ether soars as bitcoin outflows", "the token hacked").stdout.splitlines()
    text = " ".join(" ".join(lines).split())
    assert header in lines[0]
    assert "(price 0.85)" in text
    assert "(failure 0.85)" in text
    own = [line.split() for line in lines if line.split()[-1:] in (["ETH"], ["BTC"])]
    assert [line[0] for line in own] == ["BUY", "SELL"]
    assert [line[1:] for line in own] == [
        ["0.95", "0.00", "0.05", "0.95", "ETH"],
        ["0.86", "0.86", "0.13", "0.02", "BTC"],
    ]


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
