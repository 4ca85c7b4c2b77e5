"""Comparison of two walk-forwards, such as those that `walkforward` and `tune` write."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from agent.analysis.comparison.comparison_data import FileDifference, MetricRow, Unit
from agent.analysis.comparison.comparison_page import overlay, render_page
from agent.analysis.comparison.comparison_text import differing_settings, paired_lines
from agent.analysis.comparison.paired_returns import PairedReturns
from agent.analysis.comparison.setting_differences import SettingDifference, differing, flatten
from agent.analysis.report.report_data import Curve
from agent.analysis.significance import DRAWS, MIN_PERIODS, block_length, difference
from agent.core.errors import DataError, UsageError
from agent.core.events import DAY_MS
from agent.research.assessment import PERIODS_PER_YEAR
from agent.research.walk_forward import FOLDER, FoldRecord, WalkForward

PREFIX: Final = "wf-"
"""With what the id of a walk-forward begins."""


class FoldPair(msgspec.Struct, frozen=True):
    """The folds of both studies that judge the same time; None if a study has none."""

    test: tuple[int, int]  # UTC ms
    a: FoldRecord | None
    b: FoldRecord | None


class StudyComparison(msgspec.Struct, frozen=True, kw_only=True):
    """A comparison of walk-forwards a and b over the days that both have judged."""

    a: str
    b: str
    identical: bool
    settings: list[SettingDifference]
    files: list[FileDifference]
    folds: list[FoldPair]
    metrics: list[MetricRow]
    paired: PairedReturns
    equity_a: Curve = Curve()  # growth of 1 over all judged days
    equity_b: Curve = Curve()
    stamps: tuple[str, ...] = ()


def is_study(name: str) -> bool:
    """Return whether `name` is that of a walk-forward."""
    return name.startswith(PREFIX)


def find_study(name: str, folder: Path = FOLDER) -> WalkForward:
    """Read the walk-forward whose id begins with `name`. Raises UsageError unless exactly one matches."""
    known = sorted(path.parent.name for path in folder.glob(f"{PREFIX}*/result.json"))
    found = [one for one in known if one == name] or [one for one in known if one.startswith(name)]
    if len(found) > 1:
        raise UsageError(f"several walk-forwards begin with {name!r}", hint=", ".join(found[:5]))
    if not found:
        hint = f"the newest: {', '.join(known[-3:])}" if known else "tapewire walkforward makes one"
        raise UsageError(f"{folder}: no walk-forward {name!r}", hint=hint)
    path = folder / found[0] / "result.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=WalkForward)
    except (msgspec.MsgspecError, OSError) as error:
        raise DataError(f"{path} can't be read: {error}", hint="repeat the walk-forward") from None


def compare_studies(a: WalkForward, b: WalkForward, *, seed: int = 0, draws: int = DRAWS) -> StudyComparison:
    """Compare two walk-forwards; `seed` is that of the bootstrap over their common days."""
    settings = differing(_settings(a), _settings(b))
    files = _files(a, b)
    judged = (a.days, a.returns) == (b.days, b.returns)
    return StudyComparison(
        a=a.id,
        b=b.id,
        identical=not settings and not files and judged,
        settings=settings,
        files=files,
        folds=_fold_pairs(a, b),
        metrics=_metrics(a, b),
        paired=_paired(a, b, seed, draws),
        equity_a=_growth(a),
        equity_b=_growth(b),
        stamps=tuple(dict.fromkeys((*a.stamps, *b.stamps))),
    )


def render_studies(found: StudyComparison) -> str:
    """Return the page of a comparison as HTML."""
    ahead = [a - b for a, b in zip(found.equity_a.values, found.equity_b.values, strict=False)]
    same_days = found.equity_a.ts == found.equity_b.ts
    return render_page(
        title=f"{found.a} and {found.b}",
        lines=["Walk-forwards: each fold is judged on time after the data that it was fitted on."],
        headline="Identical." if found.identical else f"{differing_settings(found.settings).capitalize()}.",
        paired=paired_lines(found.paired),
        warnings=[],
        stamps=found.stamps,
        figure=overlay(
            found.equity_a, found.equity_b, Curve(found.equity_a.ts, ahead) if same_days else Curve()
        ),
        settings=found.settings,
        input_lines=[
            f"{len(found.files)} kline files differ." if found.files else "The kline files are the same."
        ],
        metrics=found.metrics,
        folds=found.folds,
    )


def _settings(study: WalkForward) -> dict[str, Any]:
    """Return what was set, by flattened key; the number of processes changes no result."""
    settings = {key: value for key, value in study.settings.items() if key not in ("jobs", "config")}
    own = {"strategy": study.strategy, "symbols": list(study.symbols), "version": study.version}
    config = study.settings.get("config") or {}
    if isinstance(config.get("strategy"), dict):
        params = config["strategy"].get("params") or {}
        config = config | {"strategy": {"params": {name: _number(value) for name, value in params.items()}}}
    return flatten({"study": own | settings}) | flatten(config)


def _number(value: Any) -> Any:
    """Return the number or truth value that a text of the command line stands for, else the value."""
    if not isinstance(value, str):
        return value
    try:
        return msgspec.json.decode(value)
    except msgspec.DecodeError:
        return value


def _files(a: WalkForward, b: WalkForward) -> list[FileDifference]:
    """Return the kline files of one study whose content the other did not read."""
    hashes = set(a.inputs.values()), set(b.inputs.values())
    found = [
        FileDifference("klines", Path(path).name, sha, "")
        for path, sha in a.inputs.items()
        if sha not in hashes[1]
    ]
    found += [
        FileDifference("klines", Path(path).name, "", sha)
        for path, sha in b.inputs.items()
        if sha not in hashes[0]
    ]
    return found


def _fold_pairs(a: WalkForward, b: WalkForward) -> list[FoldPair]:
    one, other = ({fold.test: fold for fold in study.folds} for study in (a, b))
    return [FoldPair(test, one.get(test), other.get(test)) for test in sorted(one.keys() | other.keys())]


def _metrics(a: WalkForward, b: WalkForward) -> list[MetricRow]:
    names: tuple[tuple[str, str, Unit], ...] = (
        ("total_return", "Total return", "percent"),
        ("sharpe", "Sharpe", "number"),
        ("max_drawdown", "Max drawdown, daily", "percent"),
        ("probabilistic_sharpe", "True Sharpe above 0", "percent"),
        ("deflated_sharpe", "Deflated by the tries", "percent"),
        ("trials", "Tries", "count"),
        ("trades", "Round trips", "count"),
        ("cost", "Cost of a round trip", "percent"),
        ("buy_and_hold", "Buy and hold", "percent"),
        ("days", "Judged days", "count"),
    )
    rows = []
    for name, label, unit in names:
        one, other = getattr(a.evidence, name), getattr(b.evidence, name)
        if one is not None or other is not None:
            lead = one - other if one is not None and other is not None else None
            rows.append(MetricRow(name, label, unit, one, other, lead))
    return rows


def _paired(a: WalkForward, b: WalkForward, seed: int, draws: int) -> PairedReturns:
    """Compare the daily returns of the days that both have judged."""
    one, other = (dict(zip(study.days, study.returns, strict=True)) for study in (a, b))
    days = sorted(one.keys() & other.keys())
    if not days:
        return PairedReturns(period=DAY_MS, absent="the walk-forwards have no judged day in common")
    first, second = (np.array([own[day] for day in days]) for own in (one, other))
    found = PairedReturns(
        days[0] - DAY_MS,
        days[-1],
        DAY_MS,
        len(days),
        float(np.prod(1 + first) - 1),
        float(np.prod(1 + second) - 1),
    )
    if len(days) < MIN_PERIODS:
        absent = f"the walk-forwards have {len(days)} judged days in common, fewer than {MIN_PERIODS}"
        return msgspec.structs.replace(found, absent=absent)
    lead = difference(first, second, PERIODS_PER_YEAR, draws=draws, seed=seed)
    if lead is None:
        return msgspec.structs.replace(found, absent="neither has a Sharpe ratio on the common days")
    return msgspec.structs.replace(found, difference=lead, draws=draws, block=block_length(first - second))


def _growth(study: WalkForward) -> Curve:
    growth = np.cumprod(1 + np.array(study.returns)).tolist()
    return Curve([study.days[0] - DAY_MS, *study.days], [1.0, *growth]) if study.days else Curve()
