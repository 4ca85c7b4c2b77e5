"""From answers to probabilities."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.sentiment.llm.llm_answers import (
    InvalidAnswer,
    LowMass,
    calibrated,
    clean_reason,
    label_log_probabilities,
    label_of,
    read_sample,
    reason_after_word,
    shares,
    verbatim,
)


def logprobs(*tokens: dict[str, float]) -> bytes:
    """The JSON of log-probabilities, for each token of an answer its alternatives with their probability."""
    content = []
    for token in tokens:
        alternatives = [{"token": text, "logprob": math.log(chance)} for text, chance in token.items()]
        content.append(alternatives[0] | {"top_logprobs": alternatives})
    return json.dumps({"content": content}).encode()


@pytest.mark.parametrize(
    ("token", "label"),
    [
        ("bearish", "bearish"),
        (" Bear", "bearish"),
        ("be", "bearish"),
        ("bu", "bullish"),
        ("BULL", "bullish"),
        ("neut", "neutral"),
        ("Neutral", "neutral"),
        ("b", ""),  # begins two
        ("n", ""),  # might begin "no", "negative"
        ("bullish!", ""),
        ("positive", ""),
        ("", ""),
        (" ", ""),
        ("{", ""),
        ("earish", ""),
    ],
)
def test_a_token_stands_for_the_label_whose_word_alone_it_begins(token: str, label: str) -> None:
    assert label_of(token) == label


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([{"bull": 0.5, " Bullish": 0.3, "neutral": 0.1, "be": 0.1}], (0.1, 0.1, 0.8)),
        ([{"bull": 0.4, "neutral": 0.1, "The": 0.4}], (2e-6, 0.2, 0.8)),  # 0.5 in all; the rest is left out
        ([{"\n": 0.9, "bear": 0.1}, {"bear": 1.0}], (1.0, 1e-6, 1e-6)),  # white space is no answer
        ([{"bear": 0.6, "bull": 0.2}, {"bull": 1.0}], (0.75, 1e-6, 0.25)),  # later tokens don't count
        ([{"bull": 0.5, "bull ": 0.5}], (1e-6, 1e-6, 1.0)),
    ],
)
def test_probabilities_of_the_label_words_at_the_first_token_are_renormalised(
    tokens: list[dict[str, float]], expected: tuple[float, float, float]
) -> None:
    found = np.exp(label_log_probabilities(logprobs(*tokens)))
    assert found == pytest.approx(expected, abs=2e-6)
    assert found.sum() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (logprobs({"The": 0.6, "bull": 0.3}), LowMass),
        (logprobs({"<think>": 0.99}), LowMass),
        (logprobs({"bull": 0.9, "bear": 0.9}), InvalidAnswer),
        (logprobs({"bull": 3.0}), InvalidAnswer),
        (b'{"content": []}', InvalidAnswer),
        (b'{"content": null}', InvalidAnswer),
        (b'{"tokens": ["bull"]}', InvalidAnswer),
        (b'{"content": [{"token": "bull", "logprob": -0.1, "top_logprobs": []}]}', LowMass),
        (
            b'{"content": [{"token": "bull", "top_logprobs": [{"token": "bull", "logprob": "0"}]}]}',
            InvalidAnswer,
        ),
        (
            b'{"content": [{"token": "bull", "top_logprobs": [{"token": "bull", "logprob": NaN}]}]}',
            InvalidAnswer,
        ),
        (
            b'{"content": [{"token": "bull", "top_logprobs": [{"token": "bull", "logprob": 1e400}]}]}',
            InvalidAnswer,
        ),
        (b"[" * 100_000, InvalidAnswer),
        (b"\xff", InvalidAnswer),
    ],
)
def test_log_probabilities_that_make_no_sense_are_invalid(raw: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        label_log_probabilities(raw)


def test_an_impossible_alternative_is_worth_nothing() -> None:
    content = [{"token": "bull", "logprob": 0.0}, {"token": "bear", "logprob": -9999.0}]
    raw = json.dumps({"content": [{"token": "bull", "top_logprobs": content}]}).encode()
    assert np.exp(label_log_probabilities(raw)) == pytest.approx([1e-6, 1e-6, 1.0], abs=1e-5)


@pytest.mark.parametrize(
    ("text", "reasons", "expected"),
    [
        ('{"sentiment": "bullish"}', False, ("bullish", "")),
        (' {"sentiment":"bearish"}\n', False, ("bearish", "")),
        ('{"sentiment": "neutral", "reason": "No\\nnews"}', True, ("neutral", "No news")),
        ('{"sentiment": "neutral"}', True, ("neutral", "")),
        ('{"sentiment": "neutral", "reason": "no"}', False, None),
        ('{"sentiment": "neutral", "reason": 1}', True, None),
        (json.dumps({"sentiment": "neutral", "reason": "x" * 200}), True, ("neutral", "x" * 200)),
        (json.dumps({"sentiment": "neutral", "reason": "x" * 201}), True, None),
        ('{"sentiment": "Bullish"}', False, None),
        ('{"sentiment": "up"}', False, None),
        ('{"sentiment": ["bullish"]}', False, None),
        ('{"sentiment": null}', False, None),
        ('{"sentiment": "bullish", "sentiment": "bearish"}', False, None),
        ('{"sentiment": "bullish", "size": 1}', True, None),
        ('{"label": "bullish"}', False, None),
        ('["bullish"]', False, None),
        ('"bullish"', False, None),
        ("bullish", False, None),
        ('```json\n{"sentiment": "bullish"}\n```', False, None),
        ('Sure! {"sentiment": "bullish"}', False, None),
        ('{"sentiment": "bullish"} {"sentiment": "bullish"}', False, None),
        ("", False, None),
        ("[" * 100_000, False, None),
    ],
)
def test_only_an_object_that_fits_the_schema_is_a_sample(
    text: str, reasons: bool, expected: tuple[str, str] | None
) -> None:
    if expected is None:
        with pytest.raises(InvalidAnswer):
            read_sample(text, reasons)
    else:
        sample = read_sample(text, reasons)
        assert (sample.label, sample.reason) == expected


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["bullish"] * 5, (1 / 8, 1 / 8, 6 / 8)),
        (["bullish", "bearish", "bullish"], (2 / 6, 1 / 6, 3 / 6)),
        (["neutral"], (1 / 4, 2 / 4, 1 / 4)),
    ],
)
def test_shares_of_samples_are_smoothed(labels: list[str], expected: tuple[float, float, float]) -> None:
    assert np.exp(shares(labels)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [(1.0, (0.2, 0.4, 0.4)), (2.0, (0.2612, 0.3694, 0.3694)), (0.5, (1 / 9, 4 / 9, 4 / 9))],
)
def test_a_temperature_flattens_or_sharpens(temperature: float, expected: tuple[float, ...]) -> None:
    # at 2 in proportion to the square roots 0.4472, 0.6325, 0.6325; at 0.5 to the squares 1, 4, 4
    assert calibrated(np.log([0.2, 0.4, 0.4]), temperature) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("bullish: inflows rise", "inflows rise"),
        (" **Bullish** - inflows\nrise", "inflows rise"),
        ("bullish", ""),
        ("It is bullish: inflows", ""),
        ("", ""),
    ],
)
def test_a_reason_follows_the_label_word(text: str, reason: str) -> None:
    assert reason_after_word(text) == reason


@given(st.text(max_size=600))
def test_a_reason_is_one_printable_line(text: str) -> None:
    reason = clean_reason(text)
    assert len(reason) <= 200
    assert reason.isprintable()


@given(st.text(max_size=2_000))
def test_a_verbatim_answer_is_bounded_and_can_be_stored(text: str) -> None:
    kept = verbatim(text)
    assert len(kept) <= 1_000
    assert b"\0" not in kept.encode()


def test_a_verbatim_answer_loses_only_what_a_store_can_not_hold() -> None:
    assert verbatim('{"sentiment":\n "up\0\ud800"}') == '{"sentiment":\n "up\ufffd?"}'
