"""Journal entry of headlines whose revision was given up, so that the record tells why they kept their first
score.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, islice
from operator import itemgetter
from typing import Final

from agent.core.events import Command

GIVEN_UP: Final = "revision-given-up"
"""Action of the command, which changes no decision. Each argument is a cause and its headlines' ids."""

CAUSES: Final[Mapping[str, str]] = {
    "late": "no answer within model.revise_within",
    "unanswered": "a language model didn't answer",
    "failed": "the model raised an error",
    "dropped": "too many headlines waited",
    "outlived": "model.revise_within had passed when the agent started again",
}
"""Why a revision was given up, with an explanation for people."""

_MOST: Final = 500  # headlines of one command


def given_up(causes: Mapping[str, str], now: int) -> Iterator[tuple[Command, Sequence[str]]]:
    """Yield commands, each with the ids in it, for headlines by id with the cause; `now` is UTC ms."""
    rest = iter(sorted(causes.items(), key=itemgetter(1)))
    while part := list(islice(rest, _MOST)):
        args = {cause: " ".join(id_ for id_, _ in own) for cause, own in groupby(part, key=itemgetter(1))}
        yield Command(GIVEN_UP, now, now, args, "daemon"), [id_ for id_, _ in part]


def causes_of(command: Command) -> dict[str, str]:
    """Return the cause by headline id of a command; empty for one of another action."""
    if command.action != GIVEN_UP:
        return {}
    return {id_: cause for cause, ids in command.args.items() for id_ in ids.split()}


def counted(command: Command) -> dict[str, str]:
    """Return the arguments of a command to show: of a `GIVEN_UP` the number of headlines by cause."""
    if command.action != GIVEN_UP:
        return command.args
    return {cause: f"{count:,}" for cause, count in sorted(Counter(causes_of(command).values()).items())}
