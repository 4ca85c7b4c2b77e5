"""Evaluates the whole pipeline walk-forward, with the fusion model retrained in each fold.

    python bench/judge.py --klines BTCUSDT-1m.parquet --klines ETHUSDT-1m.parquet --news headlines.parquet \
        --start 2023-11-01 --judge 2024-10-01 --end 2025-05-31

For each ablation of the fusion model, and for the sentiment strategy without one, it runs `tapewire
walkforward` and writes the table to bench/results/walkforward.json and .md. Results of an earlier call in
--folder are reused. Prints the JSON. Peak memory is that of the largest process so far. On a busy machine CPU
seconds are more reliable than wall-clock time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
ABLATIONS = ("full", "price", "text", "probabilities")
SENTIMENT = "sentiment"
MEASURED = ("wall_seconds", "cpu_seconds", "peak_mb")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--klines", action="append", required=True)
    parser.add_argument("--news", required=True)
    parser.add_argument("--start", default="2023-11-01", help="start of training")
    parser.add_argument("--judge", default="2024-10-01", help="start of evaluation")
    parser.add_argument("--end", default="2025-05-31")
    parser.add_argument(
        "--model", action="append", choices=(*ABLATIONS, SENTIMENT), help="only this model; may be repeated"
    )
    parser.add_argument("--placebo", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--folder", type=Path, default=Path("var/judge"))
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    results = {name: walk_forward(name, args) for name in args.model or (*ABLATIONS, SENTIMENT)}
    table = {
        name: summarise(found["result"]) | {key: found[key] for key in MEASURED}
        for name, found in results.items()
    }
    summary = {
        "learned_from": args.start,
        "judged": [args.judge, args.end],
        "klines": [Path(path.partition("=")[2] or path).name for path in args.klines],
        "news": Path(args.news).name,
        "jobs": args.jobs,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "models": table,
    }
    target = ROOT / "bench" / "results"
    (target / "walkforward.json").write_text(json.dumps(summary, indent=1) + "\n")
    (target / "walkforward.md").write_text(markdown(summary))
    print(json.dumps(summary))


def walk_forward(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Return the walk-forward of one model, from the folder if it is there."""
    kept: Path = args.folder / f"{name}.json"
    if kept.is_file():
        found: dict[str, Any] = json.loads(kept.read_text())
        return found
    days = (date.fromisoformat(args.judge) - date.fromisoformat(args.start)).days - 1
    command = [
        sys.executable,
        "-m",
        "agent.cli.main",
        "walkforward",
        "--json",
        "--news",
        args.news,
        "--end",
        args.end,
        "--test",
        "30d",
    ]
    command += [word for path in args.klines for word in ("--klines", path)]
    command += ["--placebo", str(args.placebo), "--jobs", str(args.jobs)]
    if name == SENTIMENT:
        command += ["--strategy", "sentiment", "--start", args.judge, "--train", "0d"]
    else:
        command += [
            "--fit",
            "fusion",
            "--ablation",
            name,
            "--start",
            args.start,
            "--train",
            f"{days}d",
            "--embargo",
            "1d",
            "--anchored",
        ]
    began, used = time.monotonic(), child_cpu_seconds()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = {
        "result": json.loads(done.stdout),
        "wall_seconds": round(time.monotonic() - began, 1),
        "cpu_seconds": round(child_cpu_seconds() - used, 1),
        "peak_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024,
    }
    kept.write_text(json.dumps(found))
    return found


def child_cpu_seconds() -> float:
    """Return the CPU seconds of all child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def summarise(result: dict[str, Any]) -> dict[str, Any]:
    """Return a walk-forward without paths and daily returns."""
    folds = [
        {
            key: fold[key]
            for key in (
                "number",
                "test",
                "total_return",
                "buy_and_hold",
                "trades",
                "fit_seconds",
                "test_seconds",
            )
        }
        for fold in result["folds"]
    ]
    return {
        "evidence": result["evidence"],
        "verdict": result["verdict"],
        "folds": folds,
        "inputs": {Path(path).name: digest for path, digest in result["inputs"].items()},
        "version": result["version"],
    }


def markdown(summary: dict[str, Any]) -> str:
    """Format the table as Markdown."""
    begin, end = summary["judged"]
    lines = [
        f"# Walk-forward evaluation, {begin} to {end}",
        "",
        f"{', '.join(summary['klines'])} and {summary['news']}; trained from {summary['learned_from']} on,",
        "again before each fold of 30 days; fees, spread, slippage, latency and funding as in `config.toml`.",
        "Intervals are 95 % of the stationary bootstrap. Placebo: headlines shuffled in time. Made by",
        "`bench/judge.py`.",
        "",
        "| model | total return | Sharpe ratio | deflated | against buy-and-hold | round trips | cost of one "
        "| placebo: median, p | random times, p | minutes of CPU (wall) |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    hold = None
    for name, found in summary["models"].items():
        evidence = found["evidence"]
        hold = evidence["buy_and_hold"]
        versus = evidence["versus_hold"]
        placebo, random = evidence["placebo"], evidence["random_entries"]
        lines.append(
            "| "
            + " | ".join(
                (
                    f"fusion, {name}" if name != SENTIMENT else "sentiment only",
                    spread(evidence["total_return_interval"], percent),
                    spread(evidence["sharpe_interval"], number),
                    "–"
                    if evidence["deflated_sharpe"] is None
                    else f"{evidence['deflated_sharpe'] * 100:.0f} %",
                    spread(versus["total_return"], percent) if versus else "–",
                    f"{evidence['trades']:,}",
                    "–" if evidence["cost"] is None else f"{evidence['cost'] * 1e4:.1f} bps",
                    f"{percent(placebo['median'])}, {placebo['p_value']:.2f} of {placebo['draws']}"
                    if placebo
                    else "–",
                    f"{random['p_value']:.2f}" if random else "–",
                    f"{found['cpu_seconds'] / 60:.1f} ({found['wall_seconds'] / 60:.1f})",
                )
            )
            + " |"
        )
    lines += ["", f"Buy and hold, equal weights: {percent(hold)}.", "", "## Verdicts", ""]
    for name, found in summary["models"].items():
        verdict = found["verdict"]
        lines.append(
            f"- **{name}**: {verdict['headline']} {' '.join([*verdict['warnings'], *verdict['sentences']])}"
        )
    lines += [
        "",
        "## Folds",
        "",
        "| judged from | hold | " + " | ".join(summary["models"]) + " |",
        "|---" * (len(summary["models"]) + 2) + "|",
    ]
    models = list(summary["models"].values())
    for row, fold in enumerate(models[0]["folds"]):
        day = time.strftime("%Y-%m-%d", time.gmtime(fold["test"][0] / 1000))
        cells = [percent(model["folds"][row]["total_return"]) for model in models]
        lines.append(f"| {day} | {percent(fold['buy_and_hold'])} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def percent(value: float) -> str:
    """Format a fraction as a signed percentage."""
    return f"{value * 100:+.1f} %".replace("-", "−")


def number(value: float) -> str:
    """Format a number with two digits."""
    return f"{value:.2f}".replace("-", "−")


def spread(interval: dict[str, float] | None, show: Any) -> str:
    """Format a figure with its interval."""
    return (
        f"{show(interval['value'])} [{show(interval['low'])}, {show(interval['high'])}]" if interval else "–"
    )


if __name__ == "__main__":
    main()
