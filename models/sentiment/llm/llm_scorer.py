"""Scoring of headlines by a language model at a server.

One headline a request, so that no headline can affect another's score. A headline that the model doesn't
answer before its deadline, whatever the reason, is answered by the fallback, or by an abstention.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from agent.config.llm import LlmConfig
from agent.core.errors import TapewireError
from agent.core.events import Provenance
from agent.data.sentiment import NamedScorer, Score
from agent.data.text import one_line
from agent.system.latency_histogram import LatencyHistogram
from agent.system.secret import Secret
from models.classification_metrics import Floats
from models.labels import LABELS
from models.sentiment.llm.llm_answers import (
    InvalidAnswer,
    LowMass,
    Sample,
    calibrated,
    label_log_probabilities,
    log_probabilities_text,
    read_sample,
    reason_after_word,
    shares,
    verbatim,
)
from models.sentiment.llm.llm_budget import HourBudget
from models.sentiment.llm.llm_calibration import Calibration, read_calibration
from models.sentiment.llm.llm_client import Completion, InvalidResponse, LlmClient, NotOffered
from models.sentiment.llm.llm_cutoffs import knowledge_cutoff
from models.sentiment.llm.llm_health import LlmHealth
from models.sentiment.llm.llm_prompt import Form, Prompt, ShownExample, prompts, read_examples
from models.sentiment.llm.llm_retry import Cause, RetryingClient, Unanswered
from models.sentiment.llm.llm_spec import LlmSpec, read_key
from models.sentiment.serve.headline_score import HeadlineScore, abstention
from models.sentiment.serve.headline_text import EMPTY, VERSION, abstention_reason, clean

FORMAT: Final = 1
"""Version of the fingerprint: incremented with each change of how answers become scores."""

MOST_LOW: Final = 5
"""Answers whose first token is no label, after which "auto" asks for JSON at once if none had a label."""

_MAX_WHY: Final = 200  # characters of `Provenance.fallback`
_MAX_ABSTENTION: Final = 64  # characters of an abstention's reason, which the cache of scores can hold
_FORMS: Final[Mapping[str, tuple[Form, ...]]] = {
    "auto": ("word", "json"),
    "logprobs": ("word",),
    "json": ("json",),
}
_NEVER_FALLS_BACK: Final[frozenset[Cause]] = frozenset({"budget", "no words"})


class _Outcome(msgspec.Struct, frozen=True):
    """What the model returned for one text; `log_probabilities` is None if it gave no valid answer."""

    prompt: Prompt
    log_probabilities: Floats | None = None
    answers: tuple[str, ...] = ()
    valid: int = 1
    reason: str = ""
    cause: Cause = "error"
    why: str = ""


class _Try(msgspec.Struct, frozen=True):
    """One sample; `sample` is None without a valid answer."""

    sample: Sample | None = None
    answer: str = ""
    cause: Cause = "invalid"
    why: str = ""


class LlmScorer:
    """A `NamedScorer` that queries a language model. Thread-safe.

    Args:
        spec: Server and model.
        config: The section `[llm]`. Its files are read by `open`, not here.
        key: Key of the server.
        examples: Headlines with labels that the prompt shows.
        calibration: Temperature for answers by one method; `read_calibration` checks that it fits.
        fallback: Scorer that answers if the model doesn't. Without one the scorer abstains.
        timer: Seconds of a monotonic clock, for the budget's hour.

    Raises SafetyError if the server may not be queried.
    """

    def __init__(
        self,
        spec: LlmSpec,
        config: LlmConfig,
        *,
        key: Secret | None = None,
        examples: Sequence[ShownExample] = (),
        calibration: Calibration | None = None,
        fallback: NamedScorer | None = None,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self.spec = spec
        self.config = config
        self.fallback = fallback
        self.calibration = calibration
        self.latency = LatencyHistogram()
        """Time of each headline, with repeated requests, ms."""
        self._prompts = prompts(examples, config.reasons)
        client = LlmClient(spec, config, key)
        self._client = RetryingClient(client, HourBudget(config.budget, timer), config.concurrency)
        self._lock = threading.Lock()
        self._health = LlmHealth(model=spec.model)
        self._low = 0  # answers whose first token isn't a label
        self._has_labels = False

    @classmethod
    def open(
        cls,
        path: str,
        config: LlmConfig,
        *,
        fallback: NamedScorer | None = None,
        timer: Callable[[], float] = time.monotonic,
    ) -> LlmScorer:
        """Return the scorer of `openai:URL#MODEL`, with key, examples and calibration from their files.

        Sends no request. Raises ConfigError, SafetyError, DataError (examples) or ModelError (calibration).
        """
        spec = LlmSpec.parse(path)
        examples = read_examples(Path(config.examples).expanduser()) if config.examples else ()
        calibration = None
        if config.calibration:
            known = [prompts(examples, config.reasons)[form] for form in _FORMS[config.method]]
            file = Path(config.calibration).expanduser()
            calibration = read_calibration(file, known, spec.model, config)
        key = read_key(spec, config)
        return cls(
            spec,
            config,
            key=key,
            examples=examples,
            calibration=calibration,
            fallback=fallback,
            timer=timer,
        )

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what an answer of the model depends on: not of the server's address, nor of limits."""
        config = self.config
        parts = [
            "llm",
            FORMAT,
            VERSION,
            self.spec.model,
            [prompt.sha256 for prompt in self.prompts],
            config.method,
            config.samples,
            config.temperature,
            config.seed,
            self.calibration and [self.calibration.identity, self.calibration.temperature],
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """Prompts that the scorer may use, one for each method; the store keeps their texts."""
        return tuple(self._prompts[form] for form in _FORMS[self.config.method])

    @property
    def knowledge_cutoff(self) -> date | None:
        """Last day that the model can know, by `llm.cutoffs` or its publisher; None if it is unknown."""
        return knowledge_cutoff(self.spec.model, self.config.cutoffs)

    @property
    def calibrated_until(self) -> int:
        """UTC ms after which the calibration's headlines hold no information; 0 without a calibration."""
        return self.calibration.trained_until if self.calibration else 0

    @property
    def health(self) -> LlmHealth:
        """A copy of the counters."""
        client, budget = self._client, self._client.budget
        forms = self._forms()
        with self._lock:
            return msgspec.structs.replace(
                self._health,
                method="logprobs" if forms[0] == "word" else "json",
                fallbacks=dict(self._health.fallbacks),
                abstained=dict(self._health.abstained),
                requests=client.client.health.requests,
                retried=client.retried,
                tokens_in=budget.total_in,
                tokens_out=budget.total_out,
                cost=budget.total_cost,
                left_out=client.client.health.left_out,
                note=self._note(),
                down=client.breaker.down,
                last_error=client.last_error,
            )

    def score(self, texts: Sequence[str]) -> list[HeadlineScore]:
        """Return one score for each text, in the same order. Equal texts are queried once.

        Takes `llm.deadline` for each text at most, with `llm.concurrency` texts at a time. Each score has its
        provenance.
        """
        cleaned = [clean(text) for text in texts]
        distinct = list(dict.fromkeys(cleaned))
        size = self.config.concurrency
        with ThreadPoolExecutor(size, "llm-headline") as pool, ThreadPoolExecutor(size, "llm-sample") as more:
            run = map if len(distinct) < 2 else pool.map
            found = list(run(partial(self._timed, pool=more), distinct))
        outcomes = dict(zip(distinct, found, strict=True))
        open_texts = [
            text
            for text, outcome in outcomes.items()
            if outcome.log_probabilities is None and outcome.cause not in _NEVER_FALLS_BACK
        ]
        others, failure = self._fall_back(open_texts)
        scores = {text: self._score(outcome, others.get(text), failure) for text, outcome in outcomes.items()}
        for text in cleaned:
            self._count(outcomes[text], text in others)
        return [scores[text] for text in cleaned]

    def close(self) -> None:
        """End requests under way and send no more: a call of `score` then returns soon."""
        self._client.close()

    def _timed(self, text: str, pool: ThreadPoolExecutor) -> _Outcome:
        began = time.perf_counter()
        outcome = self._ask(text, pool)
        with self._lock:
            self.latency.add((time.perf_counter() - began) * 1e3)
        return outcome

    def _ask(self, text: str, pool: ThreadPoolExecutor) -> _Outcome:
        forms = self._forms()
        prompt = self._prompts[forms[0]]
        if abstention_reason(text) == EMPTY:
            return _Outcome(prompt, cause="no words", why=EMPTY)
        ends = time.monotonic() + self.config.deadline / 1000
        outcome = self._by_word(text, ends) if forms[0] == "word" else self._by_samples(text, ends, pool)
        if outcome.cause == "invalid" and outcome.log_probabilities is None and len(forms) > 1:
            return self._by_samples(text, ends, pool)
        return outcome

    def _by_word(self, text: str, ends: float) -> _Outcome:
        """Request the log-probabilities of the label words."""
        prompt = self._prompts["word"]
        answers: tuple[str, ...] = ()
        try:
            completion = self._client.ask(prompt, text, self.config.seed, ends)
            answers = (verbatim(completion.text),)
            found = label_log_probabilities(completion.logprobs)
        except Unanswered as error:
            return _Outcome(prompt, cause=error.cause, why=error.reason)
        except NotOffered as error:
            return _Outcome(prompt, cause="invalid", why=error.message)
        except (InvalidAnswer, InvalidResponse) as error:
            self._count_invalid(low=isinstance(error, LowMass))
            return _Outcome(prompt, answers=answers, cause="invalid", why=str(error))
        self._has_labels = True
        reason = reason_after_word(completion.text) if self.config.reasons else ""
        return _Outcome(prompt, found, (log_probabilities_text(found),), reason=reason)

    def _by_samples(self, text: str, ends: float, pool: ThreadPoolExecutor) -> _Outcome:
        """Request `samples` answers by schema, with the seeds seed, seed + 1, …"""
        prompt = self._prompts["json"]
        seeds = range(self.config.seed, self.config.seed + self.config.samples)
        run = map if len(seeds) < 2 else pool.map
        results = list(run(lambda seed: self._sample(prompt, text, seed, ends), seeds))
        valid = [one.sample for one in results if one.sample is not None]
        answers = tuple(one.answer for one in results if one.answer)
        if not valid:
            # no answer for a reason that isn't the model's tells more than an invalid one
            worst = next((one for one in results if one.cause != "invalid"), results[0])
            return _Outcome(prompt, answers=answers, cause=worst.cause, why=worst.why)
        log_probabilities = shares([sample.label for sample in valid])
        likeliest = LABELS[int(log_probabilities.argmax())]
        reason = next((sample.reason for sample in valid if sample.label == likeliest and sample.reason), "")
        return _Outcome(prompt, log_probabilities, answers, len(valid), reason)

    def _sample(self, prompt: Prompt, text: str, seed: int, ends: float) -> _Try:
        completion: Completion | None = None
        try:
            completion = self._client.ask(prompt, text, seed, ends)
            return _Try(read_sample(completion.text, self.config.reasons), verbatim(completion.text))
        except Unanswered as error:
            return _Try(cause=error.cause, why=error.reason)
        except (InvalidAnswer, InvalidResponse, NotOffered) as error:
            self._count_invalid()
            cut = completion is not None and completion.finish == "length"
            why = f"{error}: it was cut at {prompt.most_tokens} tokens" if cut else str(error)
            return _Try(answer=verbatim(completion.text) if completion else "", why=why)

    def _forms(self) -> tuple[Form, ...]:
        """Return the forms of answers that are tried for the next headline, in this order."""
        forms = _FORMS[self.config.method]
        return forms[-1:] if len(forms) > 1 and self._note() else forms

    def _note(self) -> str:
        """Return why "auto" no longer requests log-probabilities; "" if it does."""
        if self.config.method != "auto":
            return ""
        if not self._client.client.offers("logprobs"):
            return "the server sends no log-probabilities"
        if self._low >= MOST_LOW and not self._has_labels:
            return "the first token of its answers is no label; perhaps the model thinks first"
        return ""

    def _fall_back(self, texts: Sequence[str]) -> tuple[dict[str, Score], str]:
        """Return the fallback's scores by text, and why it failed ("" if it didn't)."""
        if self.fallback is None or not texts:
            return {}, ""
        try:
            return dict(zip(texts, self.fallback.score(texts), strict=True)), ""
        except TapewireError as error:
            return {}, f"the fallback failed: {error.message}"

    def _score(self, outcome: _Outcome, other: Score | None, failure: str) -> HeadlineScore:
        config = self.config
        why = one_line(outcome.why, _MAX_WHY)
        provenance = Provenance(
            self.spec.model, outcome.prompt.sha256, config.seed, outcome.answers, why, outcome.reason
        )
        if outcome.log_probabilities is not None:
            temperature = self.calibration.temperature if self.calibration and self._fits(outcome) else 1.0
            chances = calibrated(outcome.log_probabilities, temperature)
            return HeadlineScore(*chances, provenance=provenance)
        if other is not None:
            return msgspec.structs.replace(_as_headline_score(other), provenance=provenance)
        if failure:
            provenance = msgspec.structs.replace(provenance, fallback=one_line(f"{why}; {failure}", _MAX_WHY))
        reason = one_line(outcome.why, _MAX_ABSTENTION)
        return msgspec.structs.replace(abstention(reason), provenance=provenance)

    def _fits(self, outcome: _Outcome) -> bool:
        return self.calibration is not None and self.calibration.form == outcome.prompt.form

    def _count_invalid(self, *, low: bool = False) -> None:
        with self._lock:
            self._health.invalid += 1
            self._low += low

    def _count(self, outcome: _Outcome, fell_back: bool) -> None:
        health = self._health
        with self._lock:
            health.asked += 1
            if outcome.log_probabilities is not None:
                health.answered += 1
                health.short += outcome.prompt.form == "json" and outcome.valid < self.config.samples
                health.uncalibrated += self.calibration is not None and not self._fits(outcome)
                return
            counts = health.fallbacks if fell_back else health.abstained
            counts[outcome.cause] = counts.get(outcome.cause, 0) + 1


def _as_headline_score(score: Score) -> HeadlineScore:
    if isinstance(score, HeadlineScore):
        return score
    return HeadlineScore(score.bearish, score.neutral, score.bullish, score.abstained)
