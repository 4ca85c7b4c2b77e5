"""Masking of passwords, tokens and keys."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import ConfigError, TapewireError
from agent.core.masking import mask, mask_also, masked, secrets_in, without_secrets

S = "s3cr3t"
TOKEN = "A1b2C3d4E5f6G7h8I9j0"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"https://anna:{S}@feeds.test/rss", "https://***@feeds.test/rss"),
        (f"https://{S}@feeds.test/rss", "https://***@feeds.test/rss"),
        (f"https://anna:{S}/{S}@feeds.test/rss", "https://***@feeds.test/rss"),
        (f"postgresql+psycopg://anna:{S}@db.test:5432/tape", "postgresql+psycopg://***@db.test:5432/tape"),
        (
            f"postgresql://db.test/tape?user=anna&password={S}",
            "postgresql://db.test/tape?user=anna&password=***",
        ),
        (f"mqtts://anna:{S}@broker.test:8883", "mqtts://***@broker.test:8883"),
        (f"ray://anna:{S}@10.0.0.5:10001", "ray://***@10.0.0.5:10001"),
        (f"socks5h://anna:{S}@proxy.test:1080", "socks5h://***@proxy.test:1080"),
        (f"https://feeds.test/rss?apikey={S}&page=2", "https://feeds.test/rss?apikey=***&page=2"),
        (
            f"https://feeds.test/rss?page=2&sig={S}#access_token={S}",
            "https://feeds.test/rss?page=2&sig=***#access_token=***",
        ),
        (
            f"https://feeds.test/rss?X-Amz-Signature={S}&api%5Fkey={S}",
            "https://feeds.test/rss?X-Amz-Signature=***&api%5Fkey=***",
        ),
        (f"https://feeds.test/rss?u={TOKEN}", "https://feeds.test/rss?u=***"),
        (
            f"https://api.telegram.org/bot123456:{S}-x/sendMessage",
            "https://api.telegram.org/bot***/sendMessage",
        ),
        (f"https://hooks.test/services/T0/B0/{TOKEN}", "https://hooks.test/services/T0/B0/***"),
        ("https://feeds.test/0123456789abcdef0123456789abcdef/rss", "https://feeds.test/***/rss"),
        (f"tgram://123456:{S}/42", "tgram://***"),
        (f"mailto://anna:{S}@mail.test, and more", "mailto://*** and more"),
        (f"discord://4242/{S}", "discord://***"),
        (f"a key: api_key={S}, secret: {S}", "a key: api_key=***, secret: ***"),
        (f"Authorization: Bearer {S}", "Authorization: Bearer ***"),
        (
            f"got {{'url': 'https://anna:{S}@h/', 'password': '{S} {S}'}}",
            "got {'url': 'https://***@h/', 'password': '***'}",
        ),
    ],
)
def test_secrets_are_masked(text: str, shown: str) -> None:
    assert mask(text) == shown
    assert mask(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "https://www.coindesk.com/arc/outboundfeeds/rss/",
        "https://news.test/2026/09/26/bitcoin-hits-100000-after-approval?utm_source=rss&keyword=btc&author=a",
        "https://mastodon.test/@anna.rss",
        "http://127.0.0.1:3000/@anna",
        "sqlite:///var/tapewire.db",
        "no Ray cluster at ray://10.0.0.5:10001: it takes too long",
        "dask worker tcp://10.0.0.5:8786",
        "write sqlite:///FILE or postgresql://USER@HOST/NAME",
        "postgresql+psycopg://anna:***@db.test/tape",
        "the control port asks for the token",
        "10:15 BTCUSDT: fill 0.02 @ 60,000",
        "",
    ],
)
def test_other_text_is_not_masked(text: str) -> None:
    assert mask(text) == text


def test_known_secrets_are_masked_everywhere() -> None:
    secrets = secrets_in(f"https://anna:{S}%21@feeds.test/bot1:{TOKEN}/rss?key={S}-2")
    assert {f"{S}!", f"{S}%21", TOKEN, f"{S}-2"} <= set(secrets)
    assert S not in mask_also(f"no such user: anna/{S}!, key {S}-2 or {TOKEN}", secrets)
    assert secrets_in("https://feeds.test/rss?page=2") == ()


def test_a_base_url_of_relative_links_has_no_secrets() -> None:
    assert (
        without_secrets(f"https://anna:{S}@feeds.test:8080/a/rss?key={S}#x")
        == "https://feeds.test:8080/a/rss"
    )
    assert without_secrets("http://[::1") == ""


def test_plain_data_are_masked_by_field_name_and_by_content() -> None:
    data = {
        "password": S,
        "token_file": "var/t",
        "urls": [f"https://h/?token={S}"],
        "deep": {"api_key": S},
        "n": 3,
        "secret": "",
    }
    assert masked(data) == {
        "password": "***",
        "token_file": "var/t",
        "urls": ["https://h/?token=***"],
        "deep": {"api_key": "***"},
        "n": 3,
        "secret": "",
    }


def test_errors_are_masked() -> None:
    error = ConfigError(f"store.url: 'postgresql://anna:{S}@h/x' is none", hint=f"https://h/?token={S}")
    assert S not in f"{error} {error!r} {error.args} {error.message} {error.hint}"
    assert isinstance(error, TapewireError)
    assert S not in str(pickle.dumps(error))


@given(st.text("://@?&=ab1A%'\" \n;#/-", max_size=80))
def test_masked_text_stays_masked(text: str) -> None:
    once = mask(text)
    assert mask(once) == once or "***" in once
