"""Temperature scaling (Guo et al. 2017): one number, fitted on held-out text, turns confidence into a
probability.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

from models.classification_metrics import Floats, Ints, measure, reliability

RANGE: Final = (0.05, 20.0)
"""Bounds of the fit. A temperature at a bound means that the calibration part is too small or perfectly
separated.
"""


def softmax(logits: Floats, temperature: float = 1.0) -> Floats:
    """Return the probabilities (n, classes) of logits (n, classes). Rows with logits that are not finite
    become NaN.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = logits / temperature
        raised = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def fit_temperature(logits: Floats, truth: Ints) -> float:
    """Return the temperature with the least negative log-likelihood; 1 without rows.

    The loss is convex in 1/T, so Newton's method finds its minimum.
    """
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
    """Return ECE, NLL and Brier score at temperature 1 ("before") and at the fitted one ("after")."""
    measured = {
        "before": measure(softmax(logits), truth),
        "after": measure(softmax(logits, temperature), truth),
    }
    return {when: {name: found[name] for name in ("ece", "nll", "brier")} for when, found in measured.items()}


def plot_reliability(logits: Floats, truth: Ints, temperature: float, path: Path) -> None:
    """Write a PNG of accuracy against confidence, before and after scaling. Calibrated bins lie on the
    diagonal.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    shared: dict[str, Any] = {"sharex": True, "sharey": True}
    panels = (("before", 1.0), (f"after, T = {temperature:.2f}", temperature))
    for axes, (title, at) in zip(figure.subplots(1, 2, **shared), panels, strict=True):
        probabilities = softmax(logits, at)
        axes.plot([0, 1], [0, 1], color="grey", linestyle="--", linewidth=1)
        for rows, confidence, accuracy in reliability(probabilities, truth):
            axes.scatter(confidence, accuracy, s=8 + 200 * rows / len(truth), color="C0")
        title = f"{title}: ECE {measure(probabilities, truth)['ece']:.3f}"
        axes.set(title=title, xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    figure.savefig(path, dpi=120)
