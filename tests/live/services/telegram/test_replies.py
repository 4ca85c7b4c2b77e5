"""The bot's texts: within Telegram's limits, and valid HTML whatever comes from outside."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import SafetyError
from agent.live.services.telegram.confirmations import Confirmations
from agent.live.services.telegram.replies import HELP, error_text, joined, safe
from agent.live.services.telegram.telegram_bot import CommandTasks
from tests.support.telegram_server import text_of

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=600)


@given(st.lists(st.one_of(ANY_TEXT, st.sampled_from(["🚀" * 500, "<b>&amp;</b>" * 90])), max_size=40))
def test_any_lines_become_one_message_that_telegram_accepts(lines: list[str]) -> None:
    html = joined([f"<b>{safe(one)}</b>" for one in lines])
    text, problem = text_of(html)
    assert problem == ""
    assert len(html.encode("utf-16-le")) // 2 <= 4096
    shown = text.split("\n") if lines else []
    whole = [safe(one) for one in lines]
    if shown and shown[-1] == "… cut":
        assert len(shown) - 1 < len(whole)
    else:
        assert len(shown) == len(whole)


@given(ANY_TEXT, ANY_TEXT)
def test_an_error_is_shown_as_text(message: str, hint: str) -> None:
    text, problem = text_of(error_text(message, hint))
    assert problem == ""
    assert text.startswith("⚠")


def test_the_help_is_valid() -> None:
    text, problem = text_of(HELP)
    assert problem == ""
    assert "/resume resume from kill" in text


def test_requests_beyond_the_limit_displace_the_oldest() -> None:
    confirmations = Confirmations(60, timer=lambda: 0.0)
    codes = [confirmations.request(1, user, "run", "kill", {}) for user in range(150)]
    for user in range(50):
        with pytest.raises(SafetyError, match="used, replaced or withdrawn"):
            confirmations.redeem(codes[user], 1, user, "run")
    assert [confirmations.redeem(codes[user], 1, user, "run").user for user in range(50, 150)] == [
        *range(50, 150)
    ]


def test_a_confirmation_is_for_one_run() -> None:
    confirmations = Confirmations(60)
    code = confirmations.request(1, 2, "run-1", "kill", {})
    with pytest.raises(SafetyError, match="run-1, now run run-2"):
        confirmations.redeem(code, 1, 2, "run-2")


async def test_commands_that_hang_do_not_keep_out_a_kill() -> None:
    refused: list[SafetyError] = []
    hangs, killed = asyncio.Event(), asyncio.Event()

    async def command() -> None:
        await hangs.wait()

    async def kill() -> None:
        killed.set()

    async with asyncio.TaskGroup() as tasks:
        running = CommandTasks(tasks)
        for _ in range(9):
            running.start(command, refused.append)
        assert len(refused) == 1
        running.start(kill, refused.append, always=True)
        await asyncio.wait_for(killed.wait(), 5)
        hangs.set()
    assert len(refused) == 1
