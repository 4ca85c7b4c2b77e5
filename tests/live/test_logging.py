"""The log records events without secrets."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import msgspec
import pytest
import structlog

from agent.config.live import LogConfig
from agent.core.events import Command, Kline, OrderStatus, OrderUpdate
from agent.live.log import configure
from agent.live.observers import LogObserver

SECRET = "s3cr3t-Value/9"


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    yield io.StringIO()
    logging.basicConfig(force=True)


@pytest.mark.parametrize("style", ["json", "console"])
@pytest.mark.parametrize(
    "fields",
    [
        {"api_key": SECRET},
        {"apiSecret": SECRET},
        {"token": SECRET},
        {"PASSWORD": SECRET},
        {"headers": {"Authorization": SECRET, "Accept": "*/*"}},
        {"headers": [{"Set-Cookie": SECRET}]},
        {
            "url": f"postgresql://user:{SECRET.replace('/', '')}@host/name".replace(
                SECRET.replace("/", ""), "s3cr3t-Value9"
            )
        },
        {"url": f"https://feed.example/rss?api_key={SECRET}&page=2"},
        {"url": f"https://feed.example/rss?page=2&access_token={SECRET}"},
        {"reason": f"refused: api_secret={SECRET}"},
        {"reason": f'{{"apiKey": "{SECRET}", "x": 1}}'},
    ],
    ids=str,
)
def test_secrets_are_masked(stream: io.StringIO, style: str, fields: dict[str, object]) -> None:
    configure(LogConfig(format=style), stream)  # type: ignore[arg-type]
    structlog.get_logger().info("something", **fields)
    text = stream.getvalue()
    assert "s3cr3t" not in text
    assert "***" in text


def test_secrets_in_tracebacks_are_masked(stream: io.StringIO) -> None:
    configure(LogConfig(format="json"), stream)
    try:
        raise ConnectionError(f"GET https://user:{SECRET.replace('/', '')}@host/")
    except ConnectionError as error:
        structlog.get_logger().error("producer failed", exc_info=error)
        logging.getLogger("a.library").warning("and a library says https://x/?token=%s", SECRET)
    assert "ConnectionError" in stream.getvalue()
    assert "a library says" in stream.getvalue()
    assert "s3cr3t" not in stream.getvalue()


def test_json_lines_carry_run_event_id_level_and_time(stream: io.StringIO) -> None:
    configure(LogConfig(format="json", level="info"), stream)
    with structlog.contextvars.bound_contextvars(run="run-1"):
        structlog.get_logger().debug("open bar", event_id=6)
        structlog.get_logger().info("fill", event_id=7, symbol="BTCUSDT")
    (line,) = stream.getvalue().splitlines()
    said = msgspec.json.decode(line)
    assert said.pop("timestamp").endswith("Z")
    assert said == {"event": "fill", "run": "run-1", "event_id": 7, "symbol": "BTCUSDT", "level": "info"}


def test_json_is_the_default_without_a_terminal(stream: io.StringIO) -> None:
    configure(LogConfig(), stream)
    structlog.get_logger().info("begun")
    assert msgspec.json.decode(stream.getvalue())["event"] == "begun"


@pytest.mark.parametrize("style", ["json", "console"])
def test_control_characters_are_escaped_in_the_log(stream: io.StringIO, style: str) -> None:
    dirty = "up \x1b[2J\x1b]0;owned\x07 \x9b31m \u202egnp\u2066 \x00\x08\r down"
    configure(LogConfig(format=style), stream)  # type: ignore[arg-type]
    try:
        raise ValueError(dirty)
    except ValueError as error:
        structlog.get_logger().warning(dirty, title=dirty, deep={"x": [dirty]}, exc_info=error)
    logging.getLogger("a.library").warning("it says %s", dirty)
    text = stream.getvalue()
    assert text.count("down") >= 4
    assert not [c for c in text if not c.isprintable() and c not in "\n\t"]
    assert not [escape for escape in ("\\u001b", "\\u202e", "\\u009b") if escape in text], (
        "nor where JSON is printed decoded"
    )


def test_bars_are_in_the_log_at_level_debug_alone_also_after_it_was_configured_again(
    stream: io.StringIO,
) -> None:
    observer = LogObserver()
    bar = Kline("BTCUSDT", 60_000, 0, 60_000, 60_000, 1.0, 2.0, 0.5, 1.5, 10.0)
    update = OrderUpdate("a", "BTCUSDT", 1, 1, OrderStatus.FILLED)
    lines = []
    for level in ("info", "debug", "info"):
        configure(LogConfig(format="json", level=level), stream)
        before = len(stream.getvalue().splitlines())
        observer.event(7, bar)
        observer.decision(7, update)
        observer.event(8, Command("pause", 1, 1))
        lines.append([msgspec.json.decode(line) for line in stream.getvalue().splitlines()[before:]])
    assert [[line["event_id"] for line in part] for part in lines] == [[8], [7, 7, 8], [8]]
    assert (lines[1][0]["symbol"], lines[1][0]["close"]) == ("BTCUSDT", 1.5)
