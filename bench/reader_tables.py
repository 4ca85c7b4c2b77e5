"""Markdown of `bench/reader.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def markdown(
    result: dict[str, Any],
    title: str = "# The reader of headlines on all labelled sets at hand",
    made_by: str = "bench/reader.py",
) -> str:
    """Return the table."""
    timing = result["speed"]
    lines = [
        title,
        "",
        f"Model {result['model']} ({result['method']}), trained until {result['trained_until']}; "
        f"{result['model_mb']} MB (folder {result['folder_mb']} MB). One headline takes "
        f"{timing['p50_ms']} ms (p99 {timing['p99_ms']}); {timing['headlines_a_second']} headlines a second.",
        f"Intervals are 95 % of the bootstrap over headlines. Made by `{made_by}`.",
        "ECE by chance: that of a perfectly calibrated model with the same confidences, mean and 95 % range.",
        "",
        "| set | seen in training | n | accuracy | macro-F1 | ECE | by chance | majority class | published |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        majority = row["majority"]
        cells = (
            row["set"],
            row["seen"],
            f"{row['n']:,}",
            *(_interval(row[metric]) for metric in ("accuracy", "macro_f1", "ece")),
            _interval(row["chance_ece"]) if "chance_ece" in row else "",
            " / ".join(
                _digits(majority[metric]) for metric in ("accuracy", "macro_f1") if metric in majority
            ),
            row["published"] + _remarks(row),
        )
        lines.append(f"| {' | '.join(cells)} |")
    if result["missing"]:
        lines += ["", f"Not at hand: {', '.join(result['missing'])}."]
    for row in result["rows"]:
        if "recall" in row:
            found = (
                f"{kind} {_digits(one['recall'])} of {one['n']}"
                for kind, one in row["recall"].items()
                if one["n"]
            )
            lines += ["", f"Recall of each kind of news: {', '.join(found)}."]
    return "\n".join(lines) + "\n"


def _remarks(row: dict[str, Any]) -> str:
    remarks = []
    if "answered" in row:
        remarks.append(f"{_digits(row['answered'])} have an answer of their own")
    if "mixed" in row:
        remarks.append(f"in mixed headlines {_interval(row['mixed']['accuracy'])} of {row['mixed']['n']:,}")
    if row["abstained"]:
        remarks.append(f"{row['abstained']} abstained")
    if "weighted_f1" in row and "weighted F1" in row["published"]:
        remarks.append(f"weighted F1 here {_interval(row['weighted_f1'])}")
    return ("; " if row["published"] and remarks else "") + "; ".join(remarks)


def _interval(values: Sequence[float]) -> str:
    value, low, high = map(_digits, values)
    return f"{value} [{low}, {high}]"


def _digits(value: float) -> str:
    """Format a share with three digits and no leading zero."""
    return f"{value:.3f}".removeprefix("0")
