"""The figures of a job's result that a list shows, and the runs that the job recorded."""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class JobSummary(msgspec.Struct, frozen=True, omit_defaults=True):
    """The result in a few figures; None: the kind of job has no such figure, or it is undefined.

    - `total_return`: a fraction; of a walk-forward and a tuning out of sample, of a sweep that of the best.
    - `sharpe`: annual, of the same time. `deflated_sharpe`: probability that it isn't the luck of many tries.
    - `tries`: by which it is deflated, or the variants of a sweep.
    - `passed`: of a check. `verdict`: the result in one sentence.
    """

    total_return: float | None = None
    sharpe: float | None = None
    deflated_sharpe: float | None = None
    max_drawdown: float | None = None
    trades: int | None = None
    tries: int | None = None
    passed: bool | None = None
    tone: Literal["good", "bad", "plain"] = "plain"
    verdict: str = ""
    params: dict[str, Any] = {}


def runs_of(kind: str, result: Any) -> tuple[str, ...]:
    """Return the ids of the runs that a job recorded."""
    if kind == "backtest":
        return (result["run"],)
    if kind == "sweep":
        return tuple(row["run"] for row in result if "run" in row)
    judged = {"walkforward": result, "tune": result["held_out"] if kind == "tune" else {}}.get(kind, {})
    return tuple(fold["run"] for fold in judged.get("folds", ()))


def summarise(kind: str, result: Any) -> JobSummary:
    """Summarise the JSON that the command of a job printed."""
    if kind == "backtest":
        found = _of_metrics(result["metrics"], "; ".join(result["stamps"]), tries=result["study"]["tries"])
        return msgspec.structs.replace(found, deflated_sharpe=result["study"]["deflated_sharpe"])
    if kind == "sweep":
        best = max(result, key=lambda row: float(row["final_equity"]))
        sentence = f"The best of {len(result):,} variants is mostly luck: a tuning judges it on other time."
        found = _of_metrics(best["metrics"], sentence, tries=len(result))
        return msgspec.structs.replace(found, params=best["params"])
    if kind == "walkforward":
        return _of_study(result)
    if kind == "tune":
        return msgspec.structs.replace(_of_study(result["held_out"]), params=result["params"])
    if kind.startswith("check-"):
        passed = bool(result["passed"])
        return JobSummary(
            passed=passed,
            tone="good" if passed else "bad",
            verdict="The check passed." if passed else "The check failed.",
        )
    if kind == "download":
        gaps = f"{result['gaps']:,} gaps ({result['missing']:,} bars)"
        return JobSummary(verdict=f"{result['rows']:,} bars of {result['symbol']}, {gaps}.")
    if kind == "import":
        return JobSummary(verdict=f"{result['news']:,} headlines from {result['rows']:,} rows.")
    return JobSummary()


def _of_metrics(metrics: Any, sentence: str, *, tries: int | None) -> JobSummary:
    performance = metrics["performance"]
    return JobSummary(
        total_return=performance["total_return"],
        sharpe=performance["sharpe"],
        max_drawdown=performance["max_drawdown"],
        trades=metrics["trades"]["trades"],
        tries=tries,
        verdict=sentence,
    )


def _of_study(study: Any) -> JobSummary:
    evidence, verdict = study["evidence"], study["verdict"]
    return JobSummary(
        total_return=evidence["total_return"],
        sharpe=evidence["sharpe"],
        deflated_sharpe=evidence["deflated_sharpe"],
        max_drawdown=evidence["max_drawdown"],
        trades=evidence["trades"],
        tries=evidence["trials"],
        tone=verdict["tone"],
        verdict=verdict["headline"],
    )
