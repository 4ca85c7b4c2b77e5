"""Headline cleaning, and abstention from text that is empty or not English."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.sentiment.serve.headline_text import EMPTY, MAX_CHARACTERS, NOT_ENGLISH, abstention_reason, clean


@pytest.mark.parametrize(
    ("raw", "read"),
    [
        ("Token climbs https://example.org/a?b=c", "Token climbs"),
        ("$BTC and #Ether up, $5 fee", "BTC and Ether up, $5 fee"),
        ("RT @desk: Fund sees inflows @you", "Fund sees inflows"),
        ("Bank&#039;s <b>profit</b> &amp; loss", "Bank's profit & loss"),
        ("  Miner\n\tpauses\u200b  output… ", "Miner pauses output"),
        ("To the moon!!!!!!", "To the moon!"),
        ("Ｆｕｌｌ width", "Full width"),
        ("lone \ud800 surrogate", "lone surrogate"),
    ],
)
def test_links_markup_and_unusual_characters_are_cleaned(raw: str, read: str) -> None:
    assert clean(raw) == read


@given(st.text(max_size=200))
def test_any_cleaned_string_is_short_printable_and_encodable(text: str) -> None:
    once = clean(text)
    assert len(once) <= MAX_CHARACTERS
    once.encode("utf-8")
    assert not any(character in once for character in "\n\t\x00\u200b")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", EMPTY),
        ("12.5% 🚀 !!", EMPTY),
        ("Der Kurs von Bitcoin ist nach dem Absturz wieder im Plus", NOT_ENGLISH),
        ("El precio de la moneda sube tras las noticias del banco", NOT_ENGLISH),
        ("Le cours du jeton monte après la décision de la banque", NOT_ENGLISH),
        ("Биржа приостановила вывод средств", NOT_ENGLISH),
        ("交易所暂停提款", NOT_ENGLISH),
        ("取引所がビットコインの出金を停止", NOT_ENGLISH),
        ("Exchange halts withdrawals", ""),
        ("La Liga club signs a fan token deal", ""),
        ("De minimis rule for DAO tokens", ""),
        ("SEC approves BTC ETF", ""),
    ],
)
def test_the_model_abstains_from_empty_and_foreign_text(text: str, reason: str) -> None:
    assert abstention_reason(clean(text)) == reason
