"""An ensemble of a local model and a language model at a loopback server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.models.sentiment.ensemble.test_train_ensemble import tapewire
from tests.support.llm_server import LlmServer

SETTINGS = """
[llm]
fallback = ""
deadline = "2s"
request_timeout = "1s"
[llm.budget]
price_in = 10.0
"""
"""A million tokens cost 10, and the server counts 100 for a prompt: 0.001 for a score."""


@pytest.fixture
def labelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write 150 headlines: of bullish and bearish ones, each model knows the word of two thirds."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.toml").write_text(SETTINGS)
    words = {
        "bullish": ("soars", "climbs", "soars climbs"),
        "bearish": ("crashes", "falls", "crashes falls"),
        "neutral": ("meets", "meets", "meets"),
    }
    rows = ["text,label"]
    for number in range(150):
        label = list(words)[number % 3]
        story = " ".join(f"w{number}{letter}" for letter in "abcdefgh")  # else near-duplicates
        rows.append(f"{words[label][number // 3 % 3]} {story},{label}")
    (tmp_path / "labelled.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "labelled.csv"


@pytest.mark.slow
def test_a_language_model_is_fitted_paid_and_asked_once(
    labelled: Path, write_model: Callable[..., Path]
) -> None:
    write_model(Path("local"))
    with LlmServer() as server:
        given = ("--data", labelled, "--format", "csv", "--latest", "2024-12-31", "--output", "both")
        fit = ("train", "ensemble", *given, "--member", "local", "--member", server.path, "--json")
        first = json.loads(tapewire(*fit))
        asked = len(server.requests)
        second = json.loads(tapewire(*fit))
        assert len(server.requests) == asked == pytest.approx(150, abs=1)
        assert [one["weight"] for one in second["members"]] == [one["weight"] for one in first["members"]]
        assert all(one["weight"] > 0.2 for one in first["members"])
        measured = first["measured"]
        assert measured["members"]["tiny:1b"]["cost"] == pytest.approx(0.001, rel=0.05)
        assert measured["members"]["local"]["cost"] == 0.0
        assert second["measured"]["members"]["tiny:1b"]["ms"] is None  # all were in the cache
        assert measured["ensemble"]["accuracy"] > max(one["accuracy"] for one in measured["members"].values())
        assert any("tiny:1b has no known knowledge cutoff" in note for note in first["notes"])

        score = json.loads(tapewire("score", "-m", "ensemble:both", "--json", "soars climbs"))
        local, remote = map(json.loads, score["provenance"]["answers"])
        assert score["provenance"]["fallback"] == ""
        assert (local["name"], remote["name"]) == ("local", "tiny:1b")
        assert remote["provenance"][0] == "tiny:1b"
        assert remote["provenance"][3], "the server's words are recorded verbatim"

    alone = json.loads(tapewire("score", "-m", "ensemble:both", "--json", "soars climbs"))
    local, remote = map(json.loads, alone["provenance"]["answers"])
    assert alone["prediction"] == "BUY"
    assert (local.get("state", ""), remote["state"]) == ("", "fell back")
    assert alone["provenance"]["fallback"].startswith("tiny:1b fell back: ")
