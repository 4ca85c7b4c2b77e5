"""Ensembles: pooled answers, members that are silent, disagreement, the record of each member's answer."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import date
from math import nan
from pathlib import Path

import pytest

from agent.core.errors import ModelError
from agent.core.events import Provenance
from models.labels import NOT_READABLE
from models.sentiment.ensemble import EnsembleScorer, load_ensemble
from models.sentiment.ensemble.ensemble_file import (
    ENSEMBLE_NAME,
    Ensemble,
    Member,
    end_of_day,
    read_ensemble,
    write_ensemble,
)
from models.sentiment.ensemble.ensemble_scorer import DISAGREEMENT, NO_ANSWER
from models.sentiment.ensemble.member_answers import answers_of
from models.sentiment.serve.headline_score import AssetScore, HeadlineScore, abstention
from tests.support.fixed_scorer import Answer, FixedScorer

P, Q = (16 / 18, 1 / 18, 1 / 18), (1 / 18, 16 / 18, 1 / 18)
POOL = (8 / 11, 2 / 11, 1 / 11)  # of P with weight 3/4 and Q with 1/4: 16^.75 = 8, 16^.25 = 2
TEXT = "Exchange lists a token"


def member(name: str, weight: float, path: str = "starter", fingerprint: str = "") -> Member:
    return Member(name=name, path=path, fingerprint=fingerprint or name * 4, weight=weight)


def scorer(
    first: Answer | None,
    second: Answer | None,
    *,
    agree_above: float = 0.0,
    weights: tuple[float, float] = (0.75, 0.25),
) -> EnsembleScorer:
    """Return an ensemble of `a` and `b`, which answer `TEXT` so; None is an abstention."""
    ensemble = Ensemble(members=(member("a", weights[0]), member("b", weights[1])), agree_above=agree_above)
    answers = [{} if answer is None else {TEXT: answer} for answer in (first, second)]
    return EnsembleScorer(ensemble, {"a": FixedScorer(answers[0]), "b": FixedScorer(answers[1])})


def failing(_: Sequence[str]) -> None:
    raise ModelError("the model fails", hint="use another one")


def fallen_back(answer: tuple[float, float, float]) -> HeadlineScore:
    return HeadlineScore(*answer, provenance=Provenance("qwen", "ab", 1, (), fallback="deadline"))


@pytest.mark.parametrize(
    ("first", "second", "agree_above", "expected"),
    [
        (P, Q, 0.0, POOL),
        (P, Q, 0.72, POOL),  # sure enough: 8/11 = .727
        (P, Q, 0.73, DISAGREEMENT),
        (P, P, 1.0, P),  # they agree
        (P, None, 1.0, P),
        (None, Q, 0.0, Q),
        (None, None, 0.0, "not English"),  # the reason that the members share
        (abstention(NOT_READABLE), None, 0.0, NO_ANSWER),
        (abstention(NOT_READABLE), abstention(NOT_READABLE), 0.0, NOT_READABLE),
        (fallen_back(Q), P, 1.0, P),  # another model's answer has no weight
        ((nan, 0.5, 0.5), Q, 0.0, Q),
        ((0.9, 0.9, 0.9), Q, 0.0, Q),
    ],
)
def test_answers_and_abstentions(
    first: Answer | None, second: Answer | None, agree_above: float, expected: tuple[float, ...] | str
) -> None:
    (found,) = scorer(first, second, agree_above=agree_above).score([TEXT])
    if isinstance(expected, str):
        assert (found.abstained, found.reason, found.label) == (True, expected, "")
    else:
        assert not found.abstained
        assert found.probabilities == pytest.approx(expected, abs=1e-12)


def test_assets_are_pooled_over_the_members_that_answer_for_them() -> None:
    """Both answer for BTC, the first alone for ETH, the second alone for SOL."""
    one = HeadlineScore(*P, assets=(AssetScore("ETH", *Q), AssetScore("BTC", *P)))
    two = HeadlineScore(*P, assets=(AssetScore("BTC", *Q), AssetScore("SOL", *Q)))
    (found,) = scorer(one, two).score([TEXT])
    assert [answer.asset for answer in found.assets] == ["ETH", "BTC", "SOL"]
    expected = [Q, POOL, Q]
    for answer, row in zip(found.assets, expected, strict=True):
        assert (answer.bearish, answer.neutral, answer.bullish) == pytest.approx(row, abs=1e-12)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (("price", 0.8), ("price", 0.4), ("price", 0.75 * 0.8 + 0.25 * 0.4)),
        (("price", 0.2), ("failure", 0.9), ("failure", 0.25 * 0.9)),
        (("price", 0.6), ("", 0.0), ("price", 0.6)),
        (("", 0.0), ("", 0.0), ("", 0.0)),
    ],
)
def test_the_kind_of_news_has_the_largest_weighted_confidence(
    first: tuple[str, float], second: tuple[str, float], expected: tuple[str, float]
) -> None:
    one, two = (HeadlineScore(*P, kind=kind, kind_confidence=sure) for kind, sure in (first, second))
    (found,) = scorer(one, two).score([TEXT])
    assert (found.kind, found.kind_confidence) == (expected[0], pytest.approx(expected[1]))


def test_a_member_that_raises_counts_as_silent_and_is_named() -> None:
    ensemble = Ensemble(members=(member("a", 0.5), member("b", 0.5)))
    both = EnsembleScorer(
        ensemble, {"a": FixedScorer({TEXT: P}), "b": FixedScorer({TEXT: Q}, before=failing)}
    )
    scores = both.score([TEXT, TEXT])
    assert [score.probabilities for score in scores] == [pytest.approx(P)] * 2
    assert scores[0].provenance is not None
    assert scores[0].provenance.fallback == "b failed: the model fails (use another one)"
    assert both.counts["a"][:4] == (2, 0, 0, 0)
    assert both.counts["b"][:4] == (0, 0, 0, 2)
    assert both.notes() == [
        "Ensemble: b gave no answer of its own for 2 texts (last: the model fails (use another one))."
    ]


def test_a_shared_silence_is_an_answer_and_no_failure() -> None:
    (found,) = scorer(None, None).score([TEXT])
    assert found.provenance is not None
    assert found.provenance.fallback == ""  # so the cache keeps it


def test_members_score_at_the_same_time() -> None:
    """Each member waits for the other: one after the other they would break the barrier."""
    barrier = threading.Barrier(2, timeout=10)
    ensemble = Ensemble(members=(member("a", 0.5), member("b", 0.5)))
    waiting = {name: FixedScorer({TEXT: P}, before=lambda _: barrier.wait()) for name in ("a", "b")}
    both = EnsembleScorer(ensemble, waiting)
    assert both.score([TEXT])[0].probabilities == pytest.approx(P)
    assert {name: len(times) for name, times in both.latency.items()} == {"a": 1, "b": 1}
    assert both.score([]) == []


def test_each_members_answer_is_recorded() -> None:
    asked = Provenance("qwen", "ab" * 32, 7, ('{"sentiment": "bearish"}',), reason="Withdrawals are halted")
    one = HeadlineScore(*P, assets=(AssetScore("BTC", *Q),), kind="failure", kind_confidence=0.9)
    both = scorer(one, HeadlineScore(*P, provenance=asked))
    found = both.score([TEXT, "Etwas anderes"])
    provenance = found[0].provenance
    assert provenance is not None
    assert (provenance.model, provenance.prompt) == ("ensemble", "")
    assert provenance.reason == "Withdrawals are halted"
    answers = answers_of(provenance)
    assert answers is not None
    first, second = answers
    assert (first.name, first.model, first.state, first.kind) == ("a", "aaaa", "", "failure")
    assert first.p == (0.88889, 0.05556, 0.05556)
    assert first.of("BTC") == (0.05556, 0.88889, 0.05556)
    assert first.of("ETH") == first.p
    assert second.provenance == asked
    silent = answers_of(found[1].provenance)
    assert silent is not None
    assert [(one.state, one.p, one.why) for one in silent] == [("abstained", None, "not English")] * 2


def test_a_reason_for_another_class_is_not_shown() -> None:
    contrary = HeadlineScore(*Q, provenance=Provenance("qwen", "", 0, (), reason="Nothing happened"))
    (found,) = scorer(P, contrary).score([TEXT])
    assert found.label == "bearish"
    assert found.provenance is not None
    assert found.provenance.reason == ""


@pytest.mark.parametrize(
    "provenance",
    [
        None,
        Provenance("qwen", "", 0, ("bearish",)),
        Provenance("ensemble", "", 0, ("no JSON",)),
        Provenance("ensemble", "", 0, ('{"name": "a"}',)),
    ],
)
def test_other_records_hold_no_members_answers(provenance: Provenance | None) -> None:
    assert answers_of(provenance) is None


def test_the_fingerprint_covers_what_a_score_depends_on() -> None:
    base = Ensemble(members=(member("a", 0.75), member("b", 0.25)))
    same = Ensemble(members=(member("b", 0.25), member("a", 0.75), member("c", 0.0)), trained_until=1)
    assert base.fingerprint == same.fingerprint
    others = (
        Ensemble(members=(member("a", 0.7), member("b", 0.3))),
        Ensemble(members=(member("a", 0.75), member("b", 0.25, fingerprint="ff"))),
        Ensemble(members=base.members, temperature=2.0),
        Ensemble(members=base.members, agree_above=0.5),
    )
    assert len({base.fingerprint, *(other.fingerprint for other in others)}) == 5
    assert len(base.fingerprint) == 64


def test_the_names_of_assets_are_those_of_all_members() -> None:
    def of(*names: str) -> str:
        found = {name: FixedScorer({}, names=own) for name, own in zip("ab", names, strict=True)}
        return EnsembleScorer(Ensemble(members=(member("a", 0.5), member("b", 0.5))), found).names

    assert (of("", ""), of("ab", ""), of("ab", "ab")) == ("", "ab", "ab")
    assert of("ab", "cd") == of("cd", "ab") not in ("ab", "cd")
    assert len(bytes.fromhex(of("ab", "cd"))) == 32  # the key of a cached score


class TestLoading:
    """`load_ensemble` opens each member that has a weight, and compares its fingerprint."""

    def test_members_without_a_weight_are_not_opened(self, tmp_path: Path) -> None:
        folder = tmp_path / "ensemble"
        write_ensemble(
            Ensemble(
                members=(
                    member("a", 1.0, "../mine", "aa"),
                    member("b", 0.0, "starter"),
                )
            ),
            folder,
        )
        opened: list[str] = []

        def opening(path: str) -> FixedScorer:
            opened.append(path)
            return FixedScorer({TEXT: P}, "aa")

        found = load_ensemble(folder, opening)
        assert opened == [str(tmp_path / "mine")]  # a relative folder is beside the ensemble's
        assert found.score([TEXT])[0].probabilities == pytest.approx(P)

    def test_another_model_than_at_the_fitting_is_refused(self, tmp_path: Path) -> None:
        write_ensemble(Ensemble(members=(member("a", 1.0, "starter", "aa"),)), tmp_path)
        with pytest.raises(
            ModelError, match=r"a \(starter\) is not the model .* \(fingerprint aa then, bb"
        ) as no:
            load_ensemble(tmp_path, lambda _: FixedScorer({}, "bb"))
        assert "tapewire train ensemble" in no.value.hint

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (None, "holds no ensemble.json"),
            ("{", "truncated"),
            ('{"format": 99, "members": []}', "newer than this version"),
            ('{"members": []}', "not shares that sum to 1"),
            (
                '{"members": [{"name": "a", "path": "ensemble:x", "fingerprint": "", "weight": 1}]}',
                "a is an ensemble itself",
            ),
            (
                '{"temperature": 0, "members": [{"name": "a", "path": "x", "fingerprint": "", "weight": 1}]}',
                "temperature 0.0 is not above 0",
            ),
            (
                '{"members": [{"name": "a", "path": "x", "fingerprint": "", "weight": 0.5}, '
                '{"name": "a", "path": "y", "fingerprint": "", "weight": 0.5}]}',
                "two members have the same name",
            ),
            (
                '{"agree_above": 2, "members": [{"name": "a", "path": "x", "fingerprint": "", "weight": 1}]}',
                "agree_above 2.0 is no confidence",
            ),
        ],
    )
    def test_an_unusable_file_is_one_error(self, tmp_path: Path, content: str | None, message: str) -> None:
        if content is not None:
            (tmp_path / ENSEMBLE_NAME).write_text(content)
        with pytest.raises(ModelError, match=message):
            read_ensemble(tmp_path)

    def test_a_missing_folder_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="does not exist"):
            read_ensemble(tmp_path / "none")


SERVER = "openai:http://127.0.0.1:1/v1#qwen"


@pytest.mark.parametrize(
    ("recorded", "now", "until"),
    [
        ("", None, None),
        ("2025-03-31", None, end_of_day(date(2025, 3, 31))),
        ("", date(2025, 4, 30), end_of_day(date(2025, 4, 30))),
        ("2025-03-31", date(2020, 1, 1), 1_700_000_000_000),  # the weights were fitted later
    ],
)
def test_it_may_know_what_a_member_or_the_weights_may_know(
    recorded: str, now: date | None, until: int | None
) -> None:
    remote = Member(name="qwen", path=SERVER, fingerprint="", weight=0.5, knowledge_cutoff=recorded)
    ensemble = Ensemble(members=(member("a", 0.5), remote), trained_until=1_700_000_000_000)
    found = EnsembleScorer(ensemble, {"a": FixedScorer({}), "qwen": FixedScorer({}, knowledge_cutoff=now)})
    assert found.trained_until == until
    assert end_of_day(date(1970, 1, 1)) == 86_400_000
