"""Drift of a model's answers: the population stability index, the window, the reference, the verdict."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from math import log, nan
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.core.errors import ModelError
from models.cards import Card, ReferenceShares, read_card, write_card
from models.sentiment.serve.drift import (
    ABSTAINED,
    CLASS,
    CONFIDENCE,
    UNKNOWN_TOKENS,
    Drift,
    SentimentWindow,
    confidence_bin,
    population_stability_index,
    psi_by_chance,
    reference_shares,
)
from models.sentiment.serve.headline_score import HeadlineScore, abstention

BEARISH, NEUTRAL, BULLISH = (0.8, 0.1, 0.1), (0.1, 0.8, 0.1), (0.1, 0.1, 0.8)
NOTHING = abstention("no Latin letters")


def scores(bearish: int = 0, neutral: int = 0, bullish: int = 0, abstained: int = 0) -> list[HeadlineScore]:
    """So many answers of each class with a confidence of 0.8, and abstentions."""
    counted = (bearish, HeadlineScore(*BEARISH)), (neutral, HeadlineScore(*NEUTRAL))
    rest = (bullish, HeadlineScore(*BULLISH)), (abstained, NOTHING)
    return [score for count, score in (*counted, *rest) for _ in range(count)]


def compared(live: Sequence[HeadlineScore], reference: ReferenceShares | None, **more: Any) -> Drift:
    window = SentimentWindow(None)
    for score in live:
        window.add(score, **more)
    return window.compare(reference)


EVEN = reference_shares(scores(300, 300, 300), [0.0] * 900)


@pytest.mark.parametrize(
    ("live", "reference", "psi"),
    [
        ((0.2, 0.3, 0.5), (0.2, 0.3, 0.5), 0.0),
        ((0.5, 0.3, 0.2), (0.2, 0.3, 0.5), 0.6 * log(2.5)),
        ((1.0, 0.0), (0.9, 0.1), 0.1 * log(1 / 0.9) - 0.095 * log(0.05)),  # half a text of 100 is 0.005
        ((0.9, 0.1), (1.0, 0.0), -0.1 * log(0.9) + 0.0995 * log(200)),  # half a text of 1,000 is 0.0005
        ((0.5, 0.0, 0.5), (0.5, 0.0, 0.5), 0.0),
    ],
    ids=["the same", "moved", "empty now", "empty in the reference", "empty in both"],
)
def test_the_index_of_100_texts_against_1000(
    live: tuple[float, ...], reference: tuple[float, ...], psi: float
) -> None:
    assert population_stability_index(live, reference, 100, 1_000) == pytest.approx(psi, abs=1e-12)


@pytest.mark.parametrize(
    ("bins", "quantile"),
    [(2, 6.635), (3, 9.210), (10, 21.666)],  # 99 % of chi-squared with 1, 2 and 9 degrees of freedom
)
def test_chance_alone_gives_the_quantile_of_chi_squared_over_the_sample_size(
    bins: int, quantile: float
) -> None:
    assert psi_by_chance(bins, 500, 1_000_000_000) == pytest.approx(quantile / 500, rel=0.01)
    assert psi_by_chance(bins, 500, 500) == pytest.approx(2 * quantile / 500, rel=0.01)


@pytest.mark.parametrize(
    ("confidence", "number"),
    [(0.0, 0), (1 / 3, 0), (0.39, 0), (0.41, 1), (0.8, 7), (0.94, 9), (1.0, 9)],
)
def test_ten_bins_of_confidence_lie_between_a_third_and_one(confidence: float, number: int) -> None:
    assert confidence_bin(confidence) == number


def test_the_reference_has_the_shares_of_the_training_texts() -> None:
    given = scores(bearish=2, neutral=5, bullish=1, abstained=2)
    found = reference_shares(given, [0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0])
    assert (found.texts, found.classes, found.abstained) == (10, (0.25, 0.625, 0.125), 0.2)
    assert found.confidence == (0, 0, 0, 0, 0, 0, 0, 1, 0, 0)
    assert found.mean_confidence == pytest.approx(0.8)
    assert found.unknown_tokens == 0.0625  # 0.5 over 8: an abstention's text was not read
    assert reference_shares(given).unknown_tokens is None


@pytest.mark.parametrize(
    ("given", "unknown"), [([], None), (scores(abstained=3), None), (scores(neutral=2), [0.0])]
)
def test_a_reference_needs_texts_that_the_model_judged(given: list[HeadlineScore], unknown: Any) -> None:
    with pytest.raises(ValueError, match=r"judged|zip"):
        reference_shares(given, unknown)


@pytest.mark.parametrize(
    ("live", "unknown", "state", "names"),
    [
        (scores(34, 33, 33), 0.0, "ok", []),
        (scores(170, 165, 165), 0.0, "ok", []),
        # .2467 ln(.58 / .3333) - 2 * .1233 ln(.21 / .3333) = .1366 + .1140 = .2506
        (scores(58, 21, 21), 0.0, "drifted", [CLASS]),
        # .1667 ln(.5 / .3333) - 2 * .0833 ln(.25 / .3333) = .0676 + .0479 = .1155, by chance .0287
        (scores(250, 125, 125), 0.0, "watch", [CLASS]),
        (scores(40, 20, 20), 0.0, "unknown", []),
        (scores(24, 23, 23, abstained=30), 0.0, "drifted", [ABSTAINED]),
        (scores(34, 33, 33), 0.25, "drifted", [UNKNOWN_TOKENS]),
    ],
    ids=["as trained", "more of the same", "drifted", "watch", "too few", "abstains", "unknown words"],
)
def test_the_state_is_that_of_the_worst_comparison(
    live: list[HeadlineScore], unknown: float, state: str, names: list[str]
) -> None:
    drift = compared(live, EVEN, unknown=unknown)
    assert drift.state == state
    assert [one.of for one in drift.comparisons if one.state in ("watch", "drifted")] == names
    assert all(name in drift.reason for name in names)


def confident(*counts: int) -> list[HeadlineScore]:
    """So many bearish answers with a confidence of 0.4, 0.5, 0.6, 0.7 and 0.9."""
    return [
        HeadlineScore(sure, (1 - sure) / 2, (1 - sure) / 2)
        for sure, count in zip((0.4, 0.5, 0.6, 0.7, 0.9), counts, strict=True)
        for _ in range(count)
    ]


@pytest.mark.parametrize(("times", "chance", "state"), [(1, 0.1328, "ok"), (3, 0.0443, "watch")])
def test_a_change_within_chance_is_ok_even_if_the_index_is_large(
    times: int, chance: float, state: str
) -> None:
    reference = msgspec.structs.replace(reference_shares(confident(20, 20, 20, 20, 20)), texts=10**9)
    found = compared(confident(30, 20, 10, 20, 20) * times, reference).of(CONFIDENCE)
    assert found.psi == pytest.approx(0.1 * log(1.5) - 0.1 * log(0.5))  # 0.1099
    assert found.chance == pytest.approx(chance, rel=0.01)  # chi-squared(4) is 13.28 at 99 %
    assert found.state == state


def test_without_a_reference_drift_is_unknown_and_the_shares_are_shown() -> None:
    drift = compared(scores(50, 25, 25), None, unknown=0.125)
    assert (drift.state, drift.reason) == ("unknown", "the model's card has no reference shares")
    assert (drift.of(CLASS).live, drift.of(CLASS).psi) == ((0.5, 0.25, 0.25), None)
    assert (drift.abstained, drift.unknown_tokens, drift.confidence) == (0.0, 0.125, pytest.approx(0.8))


def test_unknown_tokens_that_were_not_measured_are_unknown_and_not_zero() -> None:
    drift = compared(scores(34, 33, 33), EVEN)
    assert (drift.unknown_tokens, drift.of(UNKNOWN_TOKENS).state) == (None, "unknown")
    assert drift.state == "ok"  # the others are known


def test_nothing_is_known_before_the_first_headline() -> None:
    drift = SentimentWindow(500).compare(EVEN)
    assert (drift.state, drift.headlines, drift.abstained, drift.confidence) == ("unknown", 0, None, None)
    assert drift.reason == "0 headlines are too few: 100 are needed"


def test_the_window_rolls_over_the_oldest_scores() -> None:
    window = SentimentWindow(100)
    for score in scores(bearish=100, bullish=100):
        window.add(score, model="m")
    assert window.compare(EVEN).of(CLASS).live == (0.0, 0.0, 1.0)
    for score in scores(neutral=25):
        window.add(score, model="m")
    drift = window.compare(EVEN)
    assert (drift.headlines, drift.of(CLASS).live) == (100, (0.0, 0.25, 0.75))


def test_another_model_starts_the_window_anew_and_the_earlier_scores_are_counted() -> None:
    window = SentimentWindow(100)
    assert [window.add(score, model="old") for score in scores(3)] == [False] * 3
    assert [window.add(score, model="new") for score in scores(0, 2)] == [True, False]
    drift = window.compare(EVEN)
    assert (drift.model, drift.headlines, drift.left_out) == ("new", 2, 3)


@pytest.mark.parametrize("broken", [(nan, 0.5, 0.5), (0.9, 0.9, 0.9), (0.0, 0.0, 0.0)])
def test_probabilities_that_are_none_count_as_an_abstention(broken: tuple[float, float, float]) -> None:
    assert compared([HeadlineScore(*broken)], None).abstained == 1.0


def test_the_same_scores_give_the_same_figures_however_the_window_came_to_them() -> None:
    kept = [HeadlineScore(p, 0.9 - p, 0.1) for p in (0.1 + 0.7 * n / 99 for n in range(100))]
    rolled, fresh = SentimentWindow(100), SentimentWindow(100)
    for score in [*scores(77, 5, 9, 13), *kept]:
        rolled.add(score, model="m", unknown=0.1)
    for score in kept:
        fresh.add(score, model="m", unknown=0.1)
    one, other = (msgspec.json.encode(window.compare(EVEN)) for window in (rolled, fresh))
    assert one == other


# -- the card --------------------------------------------------------------------------------------------


def test_a_card_keeps_its_reference(tmp_path: Path) -> None:
    write_card(Card(base="b", method="m", reference=EVEN), tmp_path)
    assert read_card(tmp_path).reference == EVEN


@pytest.mark.parametrize(
    "damage",
    [{"classes": [0.5, 0.5]}, {"classes": [0.5, 0.5, 0.5]}, {"abstained": 1.5}, {"texts": 0}],
    ids=["two classes", "a sum of 1.5", "a share of 1.5", "no text"],
)
def test_a_damaged_reference_is_refused(tmp_path: Path, damage: dict[str, Any]) -> None:
    path = write_card(Card(base="b", method="m", reference=EVEN), tmp_path)
    card = json.loads(path.read_bytes())
    card["reference"] |= damage
    path.write_text(json.dumps(card))
    with pytest.raises(ModelError, match="reference shares"):
        read_card(tmp_path)


def test_the_reference_is_measured_without_torch_and_onnxruntime() -> None:
    code = (
        "import sys, models.sentiment.serve.drift as d; assert d.reference_shares; "
        "assert not {'torch', 'onnxruntime', 'tokenizers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
