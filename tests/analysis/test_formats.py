"""The formatting of figures."""

from __future__ import annotations

import pytest

from agent.analysis.report import formats


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (formats.number(1234.5), "1,234.50"),
        (formats.number(-0.001), "0.00"),
        (formats.number(0.001, signed=True), "0.00"),
        (formats.number(-2.5, 1), "−2.5"),
        (formats.number(None), "–"),
        (formats.number(float("inf")), "–"),
        (formats.percent(0.1234, signed=True), "+12.3\u00a0%"),
        (formats.percent(None), "–"),
        (formats.money(99_999.994, "USDT"), "99,999.99\u00a0USDT"),
        (formats.money(-1_000_000.4, signed=True), "−1,000,000"),
        (formats.price(0.00001234), "0.00001234"),
        (formats.price(1.5), "1.5000"),
        (formats.price(65_000.0), "65,000.00"),
        (formats.duration(0), "0\u00a0s"),
        (formats.duration(90_000), "1\u00a0min 30\u00a0s"),
        (formats.duration(93_600_000), "1\u00a0d 2\u00a0h"),
        (formats.duration(86_400_000 + 60_000), "1\u00a0d"),
        (formats.date(1_704_067_200_000), "2024-01-01"),
        (formats.minute(1_704_067_260_000), "2024-01-01 00:01"),
        (formats.minute(None), "–"),
    ],
)
def test_format(text: str, expected: str) -> None:
    assert text == expected
