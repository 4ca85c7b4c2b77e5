"""Temperature scaling (Guo et al. 2017): one number, fitted on held-out text, that makes confidence a probability."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

from models.classification_metrics import Floats, Ints, measure, reliability

RANGE: Final = (0.05, 20.0)
"""A temperature outside it means that the calibration slice is too small or perfectly separated."""


def softmax(logits: Floats, temperature: float = 1.0) -> Floats:
    """Probabilities (n, classes) of logits (n, classes) at a temperature."""
    # logits that are not finite have no probabilities: NaN
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = logits / temperature
        raised = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def fit_temperature(logits: Floats, truth: Ints) -> float:
    """The temperature of least negative log-likelihood. Convex in 1/T, so Newton's method finds it. No rows: 1."""
    if not len(truth):
        return 1.0
    inverse = 1.0
    chosen = logits[np.arange(len(truth)), truth]
    for _ in range(50):
        probabilities = softmax(logits * inverse)
        mean = (probabilities * logits).sum(axis=1)
        slope = float((mean - chosen).mean())
        curvature = float(((probabilities * logits**2).sum(axis=1) - mean**2).mean())
        step = slope / max(curvature, 1e-9)
        updated = float(np.clip(inverse - step, inverse / 2, inverse * 2).clip(1 / RANGE[1], 1 / RANGE[0]))
        if abs(updated - inverse) < 1e-7:
            break
        inverse = updated
    return 1 / inverse


def before_after(logits: Floats, truth: Ints, temperature: float) -> dict[str, dict[str, float]]:
    """ECE, NLL and Brier score at temperature 1 and at the fitted one."""
    return {
        when: {name: found[name] for name in ("ece", "nll", "brier")}
        for when, found in (
            ("before", measure(softmax(logits), truth)),
            ("after", measure(softmax(logits, temperature), truth)),
        )
    }


def plot_reliability(logits: Floats, truth: Ints, temperature: float, path: Path) -> None:
    """A PNG: accuracy against confidence before and after scaling; on the diagonal, confidence is a probability."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    shared: dict[str, Any] = {"sharex": True, "sharey": True}
    for axes, (title, at) in zip(
        figure.subplots(1, 2, **shared),
        (("before", 1.0), (f"after, T = {temperature:.2f}", temperature)),
        strict=True,
    ):
        probabilities = softmax(logits, at)
        rows = reliability(probabilities, truth)
        axes.plot([0, 1], [0, 1], color="grey", linestyle="--", linewidth=1)
        axes.scatter(
            [sure for _, sure, _ in rows],
            [right for *_, right in rows],
            s=[8 + 200 * n / len(truth) for n, *_ in rows],
        )
        axes.set(
            title=f"{title}: ECE {measure(probabilities, truth)['ece']:.3f}",
            xlabel="confidence",
            ylabel="accuracy",
            xlim=(0, 1),
            ylim=(0, 1),
        )
    figure.savefig(path, dpi=120)
