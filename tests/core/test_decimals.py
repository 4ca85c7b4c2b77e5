"""A float becomes the decimal that it prints as, with its digits and its exponent."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.core.decimals import exact


@given(st.floats())
@example(0.0)
@example(-0.0)
@example(5e-324)
@example(1e-05)
@example(0.00005)
@example(1e10)
@example(1e22)
def test_any_float(number: float) -> None:
    assert str(exact(number)) == str(Decimal(repr(number)))


@given(st.integers(1, 10**15), st.integers(0, 8))
@example(1, 4)
@example(400_001_200, 4)
@example(10**14 - 1, 4)
@example(10**14, 4)
def test_prices_of_a_few_places(units: int, places: int) -> None:
    number = units / 10**places
    assert str(exact(number)) == str(Decimal(repr(number)))


@pytest.mark.parametrize(
    ("number", "printed"), [(40_000.0, "40000.0"), (40_000.1, "40000.1"), (0.05, "0.05")]
)
def test_one_place_is_kept(number: float, printed: str) -> None:
    assert str(exact(number)) == printed
