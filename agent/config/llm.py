"""Configuration of language models at servers with OpenAI's protocol."""

from __future__ import annotations

from datetime import date
from typing import Literal

from pydantic import Field

from agent.core.durations import Duration
from agent.core.settings import Section


class LlmBudget(Section):
    """Limits of an hour, counted back from now. Beyond one of them the model isn't queried. 0: no limit."""

    requests: int = Field(0, ge=0)
    tokens: int = Field(0, ge=0)  # of prompts and answers
    cost: float = Field(0.0, ge=0.0)  # in the currency of the prices
    price_in: float = Field(0.0, ge=0.0)  # of a million tokens of prompts
    price_out: float = Field(0.0, ge=0.0)  # of a million tokens of answers


class LlmConfig(Section):
    """How `model.path = "openai:URL#MODEL"` is queried: on loopback, and at the hosts allowed here."""

    allow_hosts: tuple[str, ...] = ()
    key_file: str = ""  # one line, mode 0600; default: TAPEWIRE_LLM_KEY
    # logprobs: of the label words; json: the shares of labels in `samples` answers; auto: logprobs if offered
    method: Literal["auto", "logprobs", "json"] = "auto"
    samples: int = Field(5, ge=1, le=64)
    temperature: float = Field(0.7, ge=0.0, le=2.0)  # of the samples; with logprobs it is 0
    seed: int = 42
    reasons: bool = False  # request a reason of one line
    examples: str = ""  # CSV of text and label that the prompt shows
    calibration: str = ""  # file written by `tapewire calibrate`; empty: probabilities are used as they are
    cutoffs: dict[str, date] = {}  # last day that a model can know, by its id
    concurrency: int = Field(4, ge=1, le=256)  # requests at a time
    request_timeout: Duration = 10_000
    deadline: Duration = 20_000  # for a headline, with repeated requests; then `fallback` answers
    fallback: str = "starter"  # local model; empty: abstain
    budget: LlmBudget = LlmBudget()
