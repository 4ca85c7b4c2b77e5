"""Members of an ensemble in a run: counts, agreement and hit rates, and the report's section on them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from agent.analysis.daily import Closes
from agent.analysis.member_study import AnsweredHeadline, MemberStudy, member_study
from agent.analysis.report.html import render
from agent.analysis.report.report_loader import load_report_data
from agent.core.events import HOUR_MS, MINUTE_MS, AssetSentiment, Provenance, Sentiment
from models.sentiment.ensemble.ensemble_file import Ensemble, Member, write_ensemble
from models.sentiment.ensemble.member_answers import MemberAnswer, State, Triple, encode_answers
from models.sentiment.serve.drift import reference_shares
from models.sentiment.serve.headline_score import HeadlineScore
from tests.analysis.stored import record_run
from tests.analysis.test_report import Page

T0 = 1_704_067_200_000
UP, FLAT, DOWN = (0.1, 0.2, 0.7), (0.1, 0.8, 0.1), (0.6, 0.3, 0.1)


def answer(name: str, row: Triple | None, state: State = "", **assets: Triple) -> MemberAnswer:
    return MemberAnswer(name=name, model=name * 8, p=row, state=state, assets=assets)


def headline(hour: int, own: Triple | None, *answers: MemberAnswer, **assets: Triple) -> AnsweredHeadline:
    """Return a headline on BTCUSDT; `own` is the ensemble's answer, None an abstention."""
    at = T0 + hour * HOUR_MS + MINUTE_MS
    sentiment = Sentiment(
        f"h{hour}",
        at,
        at,
        *(own or (1 / 3, 1 / 3, 1 / 3)),
        abstained=own is None,
        assets=tuple(AssetSentiment(asset, *row) for asset, row in assets.items()),
    )
    return AnsweredHeadline("BTCUSDT", sentiment, answers)


def studied(*headlines: AnsweredHeadline) -> MemberStudy:
    """Study headlines on a price that rises until hour 3, falls to hour 5, and ends at hour 6."""
    ts = T0 + np.arange(7, dtype=np.int64) * HOUR_MS
    closes = {"BTCUSDT": Closes(ts, np.array([100.0, 101, 102, 103, 102, 101, 101]))}
    found = member_study(list(headlines), closes, HOUR_MS, HOUR_MS)
    assert found is not None
    return found


def test_members_are_counted_and_compared_by_hand() -> None:
    """Calls at hours 0 to 2 are followed by a rise, at 3 and 4 by a fall, at 5 by no move."""
    found = studied(
        headline(0, UP, answer("a", UP), answer("b", DOWN)),
        headline(1, UP, answer("a", UP), answer("b", UP)),
        headline(2, FLAT, answer("a", FLAT), answer("b", None, "abstained")),
        headline(3, DOWN, answer("a", UP), answer("b", DOWN)),
        headline(4, None, answer("a", UP), answer("b", DOWN)),
        headline(5, UP, answer("a", UP), answer("b", None, "failed")),
    )
    assert (found.headlines, found.differing, found.horizon) == (6, 3, HOUR_MS)
    a, b = found.members
    assert (a.name, a.model, b.name) == ("a", "aaaaaaaa", "b")
    assert (a.answered, a.abstained, a.failed) == (6, 0, 0)
    assert (b.answered, b.abstained, b.fell_back, b.failed) == (4, 1, 0, 1)
    assert a.classes == {"bearish": 0.0, "neutral": pytest.approx(1 / 6), "bullish": pytest.approx(5 / 6)}
    assert a.confidence == pytest.approx((5 * 0.7 + 0.8) / 6)
    assert (a.agreement, b.agreement) == (pytest.approx(4 / 5), pytest.approx(2 / 3))
    # a calls up at 0, 1 (right), 3, 4 (wrong), 5 (no move); b calls down at 0 (wrong), 3, 4, and up at 1
    assert (a.calls.calls, a.calls.rate, a.left_out) == (4, 0.5, 1)
    assert (b.calls.calls, b.calls.rate, b.left_out) == (4, 0.75, 0)
    whole = found.ensemble
    assert (whole.answered, whole.abstained) == (5, 1)
    assert (whole.calls.calls, whole.calls.rate, whole.left_out) == (3, 1.0, 1)


def test_the_answer_for_the_symbols_own_asset_counts() -> None:
    found = studied(
        headline(0, DOWN, answer("a", DOWN, BTC=UP), answer("b", DOWN, ETH=UP), BTC=UP),
    )
    a, b = found.members
    assert (found.ensemble.classes["bullish"], a.classes["bullish"], b.classes["bullish"]) == (1.0, 1.0, 0.0)
    assert (a.agreement, b.agreement) == (1.0, 0.0)


def test_a_member_that_was_fitted_again_is_another_one() -> None:
    later = MemberAnswer(name="a", model="new", p=UP)
    found = studied(headline(0, UP, answer("a", UP)), headline(1, UP, later))
    assert [(one.name, one.model, one.answered) for one in found.members] == [
        ("a", "aaaaaaaa", 1),
        ("a", "new", 1),
    ]


def test_without_members_there_is_no_study() -> None:
    assert member_study([], {}, HOUR_MS, HOUR_MS) is None


def recorded(*answers: MemberAnswer, verbatim: tuple[str, ...] = ()) -> Provenance:
    return Provenance("ensemble", "", 0, (*encode_answers(answers), *verbatim))


def test_the_report_shows_the_members_of_a_recorded_run(tmp_path: Path) -> None:
    """The price rises throughout, and the run's own answers are bearish and bullish by turns."""
    provenance = recorded(
        answer("starter", UP), answer("<b>other</b>", DOWN), answer("qwen", None, "fell back")
    )
    data = load_report_data(record_run(tmp_path, headlines=120, provenance=provenance))
    study = data.members
    assert study is not None
    assert (study.headlines, study.differing) == (60, 60)  # two headlines a story
    starter, other, qwen = study.members
    assert (starter.calls.rate, other.calls.rate, qwen.calls.rate) == (1.0, 0.0, None)
    assert (starter.agreement, other.agreement) == (0.5, 0.5)
    assert starter.calls.calls + starter.left_out == 60
    assert (qwen.fell_back, qwen.answered) == (60, 0)
    page = render(data)
    assert "<b>other</b>" not in page
    text = " ".join(Page(page).text.split())
    assert "Members of the ensemble" in text
    assert "60 scores, one for each story and traded symbol" in text
    assert msgspec.json.decode(msgspec.json.encode(study), type=MemberStudy) == study


def test_runs_without_an_ensemble_have_no_section(tmp_path: Path) -> None:
    data = load_report_data(record_run(tmp_path, headlines=4))
    assert data.members is None
    assert "Members of the ensemble" not in render(data)


def test_unreadable_records_are_counted(tmp_path: Path) -> None:
    found = load_report_data(record_run(tmp_path, headlines=4, provenance=recorded(verbatim=("{",)))).members
    assert found is None  # nothing else is recorded


@pytest.mark.parametrize("fitted", [True, False])
def test_drift_is_measured_against_the_texts_of_the_fitting(tmp_path: Path, fitted: bool) -> None:
    reference = reference_shares([HeadlineScore(0.1, 0.8, 0.1)] * 200)
    member = Member(name="a", path="starter", fingerprint="aa", weight=1.0)
    ensemble = Ensemble(members=(member,), reference=reference)
    if fitted:
        write_ensemble(ensemble, tmp_path / "ensemble")
    data = load_report_data(record_run(tmp_path, headlines=120, model=f"ensemble:{tmp_path / 'ensemble'}"))
    assert data.model_drift is not None
    reason = data.model_drift.drift.reason
    assert ("another model than the one that scored" if fitted else "does not exist") in reason
