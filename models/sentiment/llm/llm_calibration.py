"""Calibration of a language model: one temperature, fitted on its log-probabilities for labelled headlines.

It is kept in a small JSON file that names the model, the prompt and the method that it was fitted for, and it
is refused for any other.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from agent.config.llm import LlmConfig
from agent.core.errors import ModelError
from agent.system.atomic import write_bytes
from agent.system.untrusted import JSON_DECODE_ERRORS
from models.calibration import before_after, fit_temperature
from models.labels import LABELS
from models.sentiment.llm.llm_prompt import Form, Prompt
from models.sentiment.serve.headline_score import HeadlineScore

FORMAT: Final = 1
LEAST_ROWS: Final = 30
"""Fewest answers that a temperature is fitted on."""

_METHOD_OF: Final[dict[Form, str]] = {"word": "logprobs", "json": "json"}


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """Contents of the file: probabilities = softmax(log-probabilities / temperature)."""

    format: int = FORMAT
    model: str
    method: str
    """"logprobs" or "json"; answers by the other method are used as they are."""
    prompt: str
    """SHA-256 of the prompt."""
    identity: str
    """`identity_of` model, prompt and method."""
    temperature: float
    rows: int
    """Answers that the temperature was fitted on."""
    left_out: int = 0
    """Labelled headlines without an answer of this model by this method."""
    ece_before: float
    ece_after: float
    """Expected calibration error on the same rows, at temperature 1 and at the fitted one."""
    trained_until: int = 0
    """UTC ms after which the labelled headlines hold no information; 0 if they name no event."""

    @property
    def form(self) -> Form:
        """Form of the answers to which the temperature applies."""
        return "word" if self.method == _METHOD_OF["word"] else "json"


def identity_of(model: str, prompt: Prompt, config: LlmConfig) -> str:
    """Return the SHA-256 of what the log-probabilities depend on: model id, prompt, method; for samples also
    their number and temperature.
    """
    parts = [model, prompt.sha256, _METHOD_OF[prompt.form]]
    if prompt.form == "json":
        parts += [str(config.samples), repr(config.temperature)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def fit_calibration(
    scores: Sequence[HeadlineScore],
    labels: Sequence[str],
    prompts: Sequence[Prompt],
    model: str,
    config: LlmConfig,
    trained_until: int = 0,
) -> Calibration:
    """Fit a temperature on the scores of labelled headlines, by a scorer without a calibration.

    Args:
        scores: One for each headline. Abstentions, answers of the fallback and, if the model answered by
            two methods, those by the rarer one are left out.
        labels: The true classes.
        prompts: The scorer's prompts, one for each method.
        model: Id of the model.
        config: Configuration of the scorer.
        trained_until: UTC ms after which the headlines hold no information.

    Raises ModelError if fewer than `LEAST_ROWS` answers are left, or if the fit reaches its bounds.
    """
    answered = [
        (score, label)
        for score, label in zip(scores, labels, strict=True)
        if score.provenance is not None and not score.abstained and not score.provenance.fallback
    ]
    by_prompt = {
        prompt: [pair for pair in answered if pair[0].provenance and pair[0].provenance.prompt == sha256]
        for prompt, sha256 in ((prompt, prompt.sha256) for prompt in prompts)
    }
    prompt, rows = max(by_prompt.items(), key=lambda item: len(item[1]))
    if len(rows) < LEAST_ROWS:
        what = f"{model} answered {len(rows)} of {len(scores)} labelled headlines, too few for a calibration"
        raise ModelError(what, hint=f"it takes {LEAST_ROWS}")
    logits = np.log(np.maximum([score.probabilities for score, _ in rows], 1e-12))
    truth = np.array([LABELS.index(label) for _, label in rows], np.int64)
    temperature = fit_temperature(logits, truth)
    errors = before_after(logits, truth, temperature)
    return Calibration(
        model=model,
        method=_METHOD_OF[prompt.form],
        prompt=prompt.sha256,
        identity=identity_of(model, prompt, config),
        temperature=temperature,
        rows=len(rows),
        left_out=len(scores) - len(rows),
        ece_before=errors["before"]["ece"],
        ece_after=errors["after"]["ece"],
        trained_until=trained_until,
    )


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Write a calibration file atomically. Raises StoreError."""
    write_bytes(path, msgspec.json.format(msgspec.json.encode(calibration), indent=2) + b"\n")


def read_calibration(path: Path, prompts: Sequence[Prompt], model: str, config: LlmConfig) -> Calibration:
    """Read the calibration of a model with one of its prompts.

    Raises ModelError for a missing or damaged file, and for one that was fitted for another model, prompt or
    method; the message names what differs.
    """
    again = "fit it again: tapewire calibrate"
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Calibration)
    except FileNotFoundError:
        raise ModelError(f"{path} does not exist", hint=again) from None
    except (*JSON_DECODE_ERRORS, OSError, ValueError) as error:
        raise ModelError(f"{path} holds no calibration: {error}", hint=again) from None
    if found.format > FORMAT:
        raise ModelError(f"{path}: its format {found.format} is newer than {FORMAT}", hint="update tapewire")
    if not (math.isfinite(found.temperature) and found.temperature > 0):
        raise ModelError(f"{path}: temperature {found.temperature}", hint=again)
    known = {
        (model, prompt.sha256, _METHOD_OF[prompt.form], identity_of(model, prompt, config))
        for prompt in prompts
    }
    if (found.model, found.prompt, found.method, found.identity) not in known:
        raise ModelError(f"{path} was fitted for {_difference(found, prompts, model)}", hint=again)
    return found


def _difference(found: Calibration, prompts: Sequence[Prompt], model: str) -> str:
    if found.model != model:
        return f"the model {found.model!r}, not for {model!r}"
    if found.prompt not in {prompt.sha256 for prompt in prompts}:
        return f"another prompt ({found.prompt[:12]}): other examples, reasons or method"
    return "other samples or another temperature"
