"""Commands on recorded runs and headlines that an assistant may have run as jobs, beside those of
`agent.jobs.job_requests`.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from agent.jobs.job_requests import JobSurroundings

_RUN: Final = r"^[A-Za-z0-9][A-Za-z0-9-]{0,60}$"

RunName = Annotated[
    str, Meta(pattern=_RUN, description="Id of a run, its first characters, or latest: the newest run.")
]
Headline = Annotated[str, Meta(min_length=1, max_length=1_000, pattern=r"^[^\u0000-\u001f]*$")]


class _RunCommand(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", kw_only=True):
    pass


class ExplainRequest(_RunCommand, frozen=True, kw_only=True, tag="explain"):
    """Explain an order: event, headlines, votes, features, target, size, risk checks and fills."""

    run: RunName = "latest"
    order: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9-]{0,60}$",
            description="Number of an order in the run, its id, or t3: the third round trip; empty: list.",
        ),
    ] = ""

    def arguments(self, at: JobSurroundings) -> tuple[str, ...]:
        order = (self.order,) if self.order else ()
        return ("explain", "--json", "--", self.run, *order)


class TwinRequest(_RunCommand, frozen=True, kw_only=True, tag="twin"):
    """Explain why a run on a testnet earned more or less than on paper."""

    run: RunName = "latest"
    own_orders: Annotated[bool, Meta(description="Only execute the run's orders on paper.")] = False

    def arguments(self, at: JobSurroundings) -> tuple[str, ...]:
        own = ("--own-orders",) if self.own_orders else ()
        return ("twin", *own, "--json", "--", self.run)


class DiffRequest(_RunCommand, frozen=True, kw_only=True, tag="diff"):
    """Compare two runs, or two walk-forwards: settings, inputs, decisions, figures, returns."""

    a: RunName
    b: RunName

    def arguments(self, at: JobSurroundings) -> tuple[str, ...]:
        return ("diff", "--json", "--", self.a, self.b)


class ScoreRequest(_RunCommand, frozen=True, kw_only=True, tag="score"):
    """Score headlines by the configured sentiment model."""

    texts: Annotated[tuple[Headline, ...], Meta(min_length=1, max_length=100)]

    def arguments(self, at: JobSurroundings) -> tuple[str, ...]:
        return ("score", f"--model={at.model}", "--json", "--together", "--", *self.texts)


AssistantRequest = ExplainRequest | TwinRequest | DiffRequest | ScoreRequest
"""A job that only an assistant starts."""
