"""`tapewire train ensemble` on tiny exported models, and `tapewire score` with what it writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from random import Random

import pytest

from agent.core.errors import DataError, ModelError, UsageError
from models.cards import Card, DatasetRecord
from models.sentiment.ensemble.ensemble_file import end_of_day, read_ensemble
from models.sentiment.serve.headline_score import HeadlineScore
from models.sentiment.train.datasets import Example
from models.sentiment.train.ensembles.ensemble_training import open_members, train_ensemble
from models.sentiment.train.ensembles.member_scores import member_names
from models.sentiment.train.splits import Split
from tests.support.command_line import run_command
from tests.support.fixed_scorer import FixedScorer, Uncached

UP, FLAT, DOWN = (0.1, 0.1, 0.8), (0.1, 0.8, 0.1), (0.8, 0.1, 0.1)
ROW = {"bearish": DOWN, "neutral": FLAT, "bullish": UP}
SERVER = "openai:http://127.0.0.1:1/v1#qwen3:8b"


def tapewire(*arguments: str | Path) -> str:
    """Run `tapewire` in this process and return its standard output; its errors are raised."""
    result = run_command(arguments)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


@pytest.fixture
def labelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write 240 dated headlines of the tiny models' words, one in eight with another label."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    random, rows = Random(1), ["published_at,text,label"]
    words = {"bullish": "bitcoin soars", "bearish": "bitcoin crashes", "neutral": "the token meets"}
    for number in range(240):
        told = ("bullish", "bearish", "neutral")[number % 3]
        label = random.choice(list(words)) if number % 8 == 0 else told
        story = " ".join(f"w{number}{letter}" for letter in "abcdefgh")  # else near-duplicates
        day = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(hours=12 * number)
        rows.append(f"{day.isoformat()},{words[told]} {story},{label}")
    (tmp_path / "labelled.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "labelled.csv"


def test_an_ensemble_is_fitted_measured_and_scores(labelled: Path, write_model: Callable[..., Path]) -> None:
    """Two models of the same words: one is sure, one is flat. Together they are tempered to the labels."""
    write_model(Path("models/sure"), temperature=0.5)
    write_model(Path("models/flat"), temperature=4.0)
    given = ("--data", labelled, "--format", "csv", "--date-column", "published_at")
    members = ("--member", "models/sure", "--member", "models/flat", "--output", "models/both")
    found = json.loads(tapewire("train", "ensemble", *given, *members, "--json"))
    measured = found["measured"]
    assert (measured["rows_fit"] + measured["rows_test"], measured["by_time"]) == (
        pytest.approx(240, abs=4),  # a day before the cut is left out
        True,
    )
    assert set(measured["members"]) == set(measured["worth"]) == {"sure", "flat"}
    assert sum(member["weight"] for member in found["members"]) == pytest.approx(1.0)
    assert measured["ensemble"]["accuracy"] > 0.8
    assert measured["ensemble"]["nll"] <= min(one["nll"] for one in measured["members"].values()) + 0.02
    assert all(one["ms"] > 0 for one in measured["members"].values())
    assert found["trained_until"] == int(datetime(2024, 4, 29, 12, tzinfo=UTC).timestamp() * 1000) + 1
    assert read_ensemble(Path("models/both")).members[0].path == "../sure"

    (score,) = map(
        json.loads, tapewire("score", "-m", "ensemble:models/both", "--json", "bitcoin soars").splitlines()
    )
    assert score["prediction"] == "BUY"
    assert sum(score[label] for label in ("bearish", "neutral", "bullish")) == pytest.approx(1.0)
    assert [json.loads(one)["name"] for one in score["provenance"]["answers"]] == [
        member["name"] for member in found["members"] if member["weight"] > 0
    ]

    table = tapewire("train", "ensemble", *given, *members)  # once more, from the cache
    for word in ("sure", "flat", "ensemble", "macro-F1", "worth (accuracy)", "25%", "100%", "temperature"):
        assert word in table

    write_model(Path("models/sure"), temperature=0.4)
    with pytest.raises(ModelError, match=r"sure .* is not the model that the weights were fitted for"):
        tapewire("score", "-m", "ensemble:models/both", "bitcoin soars")


def test_earlier_texts_are_left_out_and_need_dates(labelled: Path, write_model: Callable[..., Path]) -> None:
    write_model(Path("sure"))
    given = ("--data", labelled, "--format", "csv", "--member", "sure", "--output", "one")
    dated = ("--date-column", "published_at", "--since", "2024-03-01")
    found = json.loads(tapewire("train", "ensemble", *given, *dated, "--json"))
    assert found["measured"]["rows_fit"] + found["measured"]["rows_test"] == pytest.approx(120, abs=4)
    assert found["measured"]["worth"] == {}
    with pytest.raises(UsageError, match="--since needs texts with dates"):
        tapewire("train", "ensemble", *given, "--since", "2024-03-01")


def test_an_output_folder_of_something_else_is_left_alone(
    labelled: Path, write_model: Callable[..., Path]
) -> None:
    write_model(Path("sure"))
    given = ("--data", labelled, "--format", "csv", "--member", "sure")
    with pytest.raises(UsageError, match="holds something else"):
        tapewire("train", "ensemble", *given, "--output", "sure")


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (("starter", "models/mine", SERVER), ["starter", "mine", "qwen3:8b"]),
        (("a/mine", "b/mine", "c/mine"), ["mine", "mine 2", "mine 3"]),
        (("starter", "x/starter"), ["starter", "starter 2"]),
    ],
)
def test_members_have_short_names(paths: tuple[str, ...], names: list[str]) -> None:
    assert member_names(paths) == names


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (("starter", "starter"), "--member starter is given twice"),
        (("ensemble:x",), "--member ensemble:x is an ensemble"),
        ((), "an ensemble without members"),
        (("a", "b"), "--member b is the same model as a"),
    ],
)
def test_members_that_make_no_ensemble_are_refused(paths: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_members(paths, lambda _: Uncached(FixedScorer({})))


def examples(count: int, begin: int = 0) -> tuple[Example, ...]:
    """Return texts `t0`, `t1` … with the three labels by turns."""
    labels = list(ROW)
    return tuple(Example(f"t{number}", labels[number % 3]) for number in range(begin, begin + count))


def split_of(fit: int = 90, test: int = 60) -> Split:
    return Split(examples(fit), (), (), examples(test, fit), by_time=False)


RECORD = DatasetRecord(name="own.csv", format="csv", sha256="ab", rows=150, latest=1_000)


def knowing(name: str, share: int = 1, **more: object) -> Uncached:
    """Return a scorer that is right on every `share`-th text, and else leans to neutral."""
    answers = {
        one.text: ROW[one.label] if number % share == 0 else (0.3, 0.4, 0.3)
        for number, one in enumerate(examples(150))
    }
    return Uncached(FixedScorer(answers, name * 32, **more))  # type: ignore[arg-type]


def fitted(tmp_path: Path, members: dict[str, Uncached], precision: float | None = None):  # type: ignore[no-untyped-def]
    opened = open_members(list(members), members.__getitem__)
    return train_ensemble(opened, split_of(), [RECORD], tmp_path / "out", precision=precision)


def test_the_facts_of_the_members_are_recorded(tmp_path: Path) -> None:
    card = Card(base="b", method="m", trained_until=5_000, datasets=(RECORD,))
    found = fitted(
        tmp_path,
        {
            "local": knowing("aa", 2, card=card),
            SERVER: knowing("bb", 1, knowledge_cutoff=date(2025, 3, 31)),
            "openai:http://127.0.0.1:1/v1#other": knowing("cc", 3),
        },
    )
    local, known, unknown = found.members
    assert (local.name, local.trained_until, local.knowledge_cutoff) == ("local", 5_000, "")
    assert (known.name, known.knowledge_cutoff) == ("qwen3:8b", "2025-03-31")
    assert known.trained_until == found.trained_until == end_of_day(date(2025, 3, 31))
    assert unknown.knowledge_cutoff == ""
    notes = " ".join(found.notes)
    assert "local was trained or calibrated on own.csv (until 1970-01-01)" in notes
    assert "other has no known knowledge cutoff" in notes
    assert "qwen3:8b has no known" not in notes
    assert read_ensemble(tmp_path / "out") == found


def test_a_member_without_worth_gets_no_weight_and_a_note(tmp_path: Path) -> None:
    wrong = Uncached(
        FixedScorer(
            {one.text: ROW[list(ROW)[(at + 1) % 3]] for at, one in enumerate(examples(150))}, "bb" * 32
        )
    )
    found = fitted(tmp_path, {"right": knowing("aa", 2), "wrong": wrong})
    assert [member.weight for member in found.members] == [1.0, 0.0]
    assert "wrong adds nothing: its weight is 0" in " ".join(found.notes)


def test_texts_that_differ_too_much_are_abstentions(tmp_path: Path) -> None:
    """Both are right on a third of the texts; on the others the second leans to the wrong side."""
    noisy = {
        one.text: ROW[one.label] if at % 3 == 0 else (0.2, 0.35, 0.45) for at, one in enumerate(examples(150))
    }
    members = {"a": knowing("aa", 2), "b": Uncached(FixedScorer(noisy, "bb" * 32))}
    free, strict = (fitted(tmp_path / str(bound), members, bound) for bound in (None, 1.0))
    assert free.agree_above == 0.0
    assert strict.agree_above > 0.0
    assert free.measured.ensemble.coverage == 1.0
    assert strict.measured.ensemble.coverage < 1.0
    assert strict.measured.disagreement > 0.0
    assert strict.measured.ensemble.precision_at["0.25"] >= free.measured.ensemble.precision_at["0.25"]


def test_a_member_that_hardly_answers_is_refused(tmp_path: Path) -> None:
    silent = Uncached(FixedScorer({f"t{at}": HeadlineScore(*UP) for at in range(19)}, "bb" * 32))
    with pytest.raises(ModelError, match="silent answers 19 of 90 texts"):
        fitted(tmp_path, {"a": knowing("aa"), "silent": silent})


def test_something_must_be_held_out(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no text is held out"):
        train_ensemble(
            open_members(["a"], lambda _: knowing("aa")), split_of(test=0), [RECORD], tmp_path / "out"
        )
