"""Backtests, scores and calibration with a language model at a loopback server that counts requests."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agent.core.events import Sentiment
from agent.store.database import open_database
from agent.store.prompts import read_prompts
from agent.store.queries import find_run, read_rows
from agent.store.runs import LANGUAGE_MODEL
from tests.cli.conftest import Outcome
from tests.conftest import ROOT
from tests.support.llm_server import Answer, Fault, LlmServer, Request, sound_model

Tapewire = Callable[..., Outcome]
BTC = ROOT / "tests/sample_data/BTCUSDT-1m.csv"
TITLES = ("Bitcoin climbs after the fund is approved", "Bitcoin falls, says the exchange", "Bitcoin stays")
CUTOFF = 'cutoffs = { "tiny:1b" = 2025-02-28 }'


@pytest.fixture
def server() -> Iterator[LlmServer]:
    with LlmServer() as running:
        yield running


@pytest.fixture
def news(tmp_path: Path) -> Path:
    rows = [f'2025-03-03T1{hour}:00:00Z,"{title}"' for hour, title in enumerate(TITLES)]
    (tmp_path / "news.csv").write_text("\n".join(["published_at,title", *rows]) + "\n")
    return tmp_path / "news.csv"


def configure(folder: Path, server: LlmServer, *llm: str, sections: str = "") -> None:
    lines = (f'[model]\npath = "{server.path}"', "[llm]", *llm, sections)
    (folder / "config.toml").write_text("\n".join(lines) + "\n")


def backtest(tapewire: Tapewire, news: Path, *more: str) -> Outcome:
    return tapewire("backtest", "--klines", BTC, "--news", news, "--strategy", "sentiment", "--json", *more)


def sentiments(folder: Path, run: str) -> list[Sentiment]:
    with closing(open_database(f"sqlite:///{folder / 'var' / 'tapewire.db'}")) as database:
        return list(read_rows(database, run, Sentiment))


def test_verify_and_a_second_backtest_make_no_request(
    tapewire: Tapewire, tmp_path: Path, server: LlmServer, news: Path
) -> None:
    """The scripted model gives its label 0.8 and each other 0.1."""
    configure(tmp_path, server, CUTOFF)
    first = json.loads(backtest(tapewire, news).out)
    asked = len(server.requests)
    assert asked == len(TITLES)
    second = json.loads(backtest(tapewire, news).out)
    verified = json.loads(tapewire("verify", first["run"], "--json").out)
    assert tapewire("report", first["run"], "--output", tmp_path / "report.html").code == 0
    assert len(server.requests) == asked
    assert verified["identical"] is True

    found = sentiments(tmp_path, first["run"])
    assert sentiments(tmp_path, second["run"]) == found
    by_chance = [(round(one.bearish, 6), round(one.neutral, 6), round(one.bullish, 6)) for one in found]
    assert by_chance == [(0.1, 0.1, 0.8), (0.8, 0.1, 0.1), (0.1, 0.8, 0.1)]
    provenance = found[0].provenance
    assert provenance is not None
    assert (provenance.model, provenance.seed, provenance.fallback) == ("tiny:1b", 42, "")
    assert provenance.answers
    with closing(open_database(f"sqlite:///{tmp_path / 'var' / 'tapewire.db'}")) as database:
        prompts = read_prompts(database, [provenance.prompt])
        run = find_run(database, first["run"])
    assert "untrusted source" in prompts[provenance.prompt]
    assert run.versions[LANGUAGE_MODEL] == "tiny:1b (knowledge cutoff 2025-02-28)"
    assert run.stamps == ()


def test_answers_of_the_fallback_are_marked_noted_and_asked_again_another_time(
    tapewire: Tapewire, tmp_path: Path, server: LlmServer, news: Path
) -> None:
    """The first backtest finds the server busy for the second title; then it has recovered."""
    configure(tmp_path, server, CUTOFF, 'deadline = "400ms"')
    server.script = lambda request: Fault("status", status=503) if request.headline == TITLES[1] else None
    first = json.loads(backtest(tapewire, news).out)
    marked = [one.provenance.fallback for one in sentiments(tmp_path, first["run"]) if one.provenance]
    assert [bool(why) for why in marked] == [False, True, False]
    assert "503" in marked[1]
    (note,) = [note for note in first["notes"] if "fallback" in note]
    assert note == "tiny:1b: 1 of 3 headlines were answered by the fallback: deadline 1"
    server.script = lambda _: None
    before = len(server.requests)
    second = json.loads(backtest(tapewire, news).out)
    assert [request.headline for request in server.requests[before:]] == [TITLES[1]]
    assert all(not one.provenance.fallback for one in sentiments(tmp_path, second["run"]) if one.provenance)
    assert json.loads(tapewire("verify", first["run"], "--json").out)["identical"] is True


def test_beyond_its_budget_the_model_abstains_and_the_abstentions_are_not_cached(
    tapewire: Tapewire, tmp_path: Path, server: LlmServer, news: Path
) -> None:
    configure(tmp_path, server, CUTOFF, "concurrency = 1", sections="[llm.budget]\nrequests = 2")
    runs = [json.loads(backtest(tapewire, news).out) for _ in range(2)]
    abstained = [[one.abstained for one in sentiments(tmp_path, run["run"])] for run in runs]
    assert abstained == [[False, False, True], [False, False, False]]
    assert "tiny:1b: 1 of 3 headlines were answered by none: budget 1" in runs[0]["notes"]


@pytest.mark.parametrize(
    ("cutoff", "more", "code", "told", "stamps"),
    [
        ("2025-03-01", (), 0, "", []),  # the files begin on 2 March, the first day that it can't know
        ("2025-03-02", (), 3, "saw data up to 2025-03-03", []),
        ("2025-03-02", ("--allow-leakage",), 0, "", ["LEAKED"]),
        ("", (), 3, "up to which day", []),
        ("", ("--allow-leakage",), 0, "", ["KNOWLEDGE CUTOFF UNKNOWN"]),
    ],
    ids=["after the cutoff", "on its last day", "allowed", "unknown", "unknown but allowed"],
)
def test_a_window_before_the_knowledge_cutoff_is_refused(
    tapewire: Tapewire,
    tmp_path: Path,
    server: LlmServer,
    news: Path,
    cutoff: str,
    more: tuple[str, ...],
    code: int,
    told: str,
    stamps: list[str],
) -> None:
    configure(tmp_path, server, f'cutoffs = {{ "tiny:1b" = {cutoff} }}' if cutoff else "")
    done = backtest(tapewire, news, *more)
    assert done.code == code, done.err
    assert told in done.err
    if code:
        assert server.requests == []
        assert "tiny:1b" in done.err
    else:
        assert json.loads(done.out)["stamps"] == stamps


def test_scores_have_provenance_in_json_and_can_be_read_back_from_a_file(
    tapewire: Tapewire, tmp_path: Path, server: LlmServer
) -> None:
    """What `score --json` prints, with a time added, is a file of scores."""
    server.model = lambda request: Answer(f"{sound_model(request).text}: it says so\x1b[31m", {"bull": 1.0})
    configure(tmp_path, server, "reasons = true")
    row = json.loads(tapewire("score", "--model", server.path, "--json", TITLES[0]).out)
    own = row["provenance"]
    assert (own["model"], own["fallback"], own["reason"]) == ("tiny:1b", "", "it says so [31m")
    assert row["prediction"] == "BUY"
    shown = tapewire("score", "--model", server.path, TITLES[0]).out
    assert "it says so [31m" in shown
    assert "\x1b[31m" not in shown

    scores = tmp_path / "scores.jsonl"
    line = {"published_at": "2025-03-03T11:00:00Z", "title": row["text"], "provenance": own}
    line |= {name: row[name] for name in ("bearish", "neutral", "bullish")}
    scores.write_text(json.dumps(line) + "\n")
    run = tapewire("backtest", "--klines", BTC, "--sentiment", scores, "--strategy", "sentiment", "--json")
    (found,) = sentiments(tmp_path, json.loads(run.out)["run"])
    assert found.provenance is not None
    assert (found.provenance.answers, found.provenance.reason) == (tuple(own["answers"]), own["reason"])


def test_exported_scores_are_read_back_with_their_provenance(
    tapewire: Tapewire, tmp_path: Path, server: LlmServer, news: Path
) -> None:
    configure(tmp_path, server, CUTOFF)
    run = json.loads(backtest(tapewire, news).out)["run"]
    asked = len(server.requests)
    done = json.loads(tapewire("export", "sentiment", tmp_path / "scores.jsonl", "--run", run, "--json").out)
    assert (done["scores"], done["replaced"], done["unknown"]) == (3, 0, 0)
    given = ("--klines", BTC, "--sentiment", tmp_path / "scores.jsonl", "--strategy", "sentiment", "--json")
    again = tapewire("backtest", *given)
    assert again.code == 0, again.err
    first, second = (sentiments(tmp_path, one) for one in (run, json.loads(again.out)["run"]))
    assert [(one.news_id, one.available_at, one.provenance, one.model) for one in second] == [
        (one.news_id, one.available_at, one.provenance, one.model) for one in first
    ]
    assert [one.bullish for one in second] == pytest.approx([one.bullish for one in first])
    assert len(server.requests) == asked


def labelled(folder: Path, count: int = 120) -> Path:
    """Titles whose label is what the scripted model says in 4 of 5 cases, as its share of 0.8 tells."""
    words = {"bullish": "climbs", "bearish": "falls"}
    rows = []
    for number in range(count):
        said = ("bullish", "bearish")[number % 2]
        true = said if number % 5 else "neutral"
        odd = f"{number * 7919:x} {number * 104729:x} {number * 15485863:x}"
        rows.append(f"{odd} coin {words[said]} {number},{true}")
    (folder / "labelled.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    return folder / "labelled.csv"


def sure_model(request: Request) -> Answer:
    """A model that is surer than it is right: 0.98 for its label."""
    label = sound_model(request).text
    words = {"bearish": "bear", "neutral": "neutral", "bullish": "bull"}
    return Answer(label, {words[name]: 0.98 if name == label else 0.01 for name in words})


def test_a_calibration_lowers_the_error_on_held_out_text_and_is_used(
    tapewire: Tapewire, tmp_path: Path, server: LlmServer
) -> None:
    server.model = sure_model
    configure(tmp_path, server)
    file = labelled(tmp_path)
    given: tuple[Any, ...] = ("calibrate", file, "--output", "llm.json", "--latest", "2024-06-30", "--json")
    done = tapewire(*given)
    assert done.code == 0, done.err
    result = json.loads(done.out)
    report = result["report"]
    assert report["fitted_on"] + report["held_out"] == 120
    assert report["after"]["accuracy"] == report["before"]["accuracy"]
    assert report["after"]["ece"] < report["before"]["ece"] / 2
    assert report["calibration"]["temperature"] > 1.5
    assert result["health"]["requests"] == 120
    again = json.loads(tapewire(*given).out)
    assert (again["health"]["requests"], again["cached"]) == (0, 120)

    configure(tmp_path, server, 'calibration = "llm.json"')
    row = json.loads(tapewire("score", "--model", server.path, "--json", TITLES[0]).out)
    assert 0.6 < row["bullish"] < 0.95
    table = tapewire("calibrate", file, "--output", "llm.json", "--latest", "2024-06-30")
    assert "macro F1" in table.out
    assert "temperature" in table.out


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--model", "starter"), 2, "no language model at a server"),
        (("--model", "openai:https://api.example.com/v1#big"), 3, "not in llm.allow_hosts"),
        (("--limit", "20"), 1, "too few for a calibration"),
    ],
)
def test_calibrate_refuses(
    tapewire: Tapewire, tmp_path: Path, server: LlmServer, arguments: tuple[str, ...], code: int, told: str
) -> None:
    configure(tmp_path, server)
    done = tapewire("calibrate", labelled(tmp_path), "--latest", "2024-06-30", *arguments)
    assert (done.code, told in done.err) == (code, True), done.err
    assert not (tmp_path / "llm.json").exists()


def test_texts_leave_the_machine_only_after_a_yes(
    tapewire: Tapewire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host is allowed and has a key, but the cost (2 per million tokens of prompts) is not agreed to."""
    monkeypatch.setenv("TAPEWIRE_LLM_KEY", "key")
    (tmp_path / "config.toml").write_text(
        '[llm]\nallow_hosts = ["llm.invalid"]\nmethod = "logprobs"\n[llm.budget]\nprice_in = 2.0\n'
    )
    given = ("--model", "openai:https://llm.invalid/v1#big", "--latest", "2024-06-30")
    done = tapewire("calibrate", labelled(tmp_path), *given)
    assert done.code == 2
    assert "would be sent to llm.invalid: 120 texts: at most 120 requests" in done.err
    assert "cost 0." in done.err
    assert "--yes sends them" in done.err


def test_fusion_training_and_evaluation_need_a_local_model(
    tapewire: Tapewire, tmp_path: Path, server: LlmServer, news: Path
) -> None:
    configure(tmp_path, server, CUTOFF)
    done = tapewire("train", "fusion", "--klines", BTC, "--news", news, "--output", tmp_path / "fusion")
    assert done.code == 2, done.err
    assert "has no hidden states to learn from" in done.err
    assert server.requests == []
