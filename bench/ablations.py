"""Compares the four ablations of the fusion model on bars and headlines that none of them has seen.

    python bench/ablations.py [--data ../shared/data] [--output bench/results] [--work var/ablations]

Trains on [2023-11, 2024-10) of BTC and ETH and evaluates on 2024-10 to 2025-05, beside gradient boosting and
the class frequencies. Then trades that window with each model (fees, spread and latency as in config.toml)
beside buy-and-hold. Prints one JSON object and writes `ablations.json` and `ablations.md` to --output.
Headlines are scored once, into the store in --work.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ABLATIONS = ("full", "price", "text", "probabilities")
START, CUT, END = "2023-11-01", "2024-10-01", "2025-06-01"
TAPEWIRE = str(Path(sys.executable).with_name("tapewire"))


def run_command(*arguments: str) -> dict[str, Any]:
    """Run a tapewire command and return the JSON that it prints."""
    done = subprocess.run([TAPEWIRE, *arguments, "--json"], stdout=subprocess.PIPE, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def measure(ablation: str, files: list[str], news: list[str], work: Path) -> dict[str, Any]:
    """Train, evaluate and backtest one ablation."""
    config = ["--config", str(work / "config.toml")]
    folder = work / ablation
    trained = run_command(
        "train",
        "fusion",
        *config,
        *files,
        *news,
        "--start",
        START,
        "--end",
        CUT,
        "--test-until",
        END,
        "--ablation",
        ablation,
        "--output",
        str(folder),
    )
    traded = run_command(
        "backtest",
        *config,
        *files,
        *news,
        "--start",
        CUT,
        "--end",
        END,
        "--strategy",
        "fusion",
        "--fusion",
        str(folder),
    )
    return {"ablation": ablation, "trained": trained, "traded": traded}


def markdown_table(rows: list[dict[str, Any]], benchmark: dict[str, Any]) -> str:
    lines = [
        "| model | accuracy | macro-F1 | NLL | Brier | ECE | boosting's NLL | shares' NLL "
        "| return | Sharpe | drawdown | trades |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for item in rows:
        metrics, traded = item["trained"]["metrics"], item["traded"]["metrics"]
        network = [
            f"{metrics['network'][name]['value']:.4f}"
            for name in ("accuracy", "macro_f1", "nll", "brier", "ece")
        ]
        others = [f"{metrics[name]['nll']['value']:.4f}" for name in ("boosting", "shares")]
        columns = [item["ablation"], *network, *others, *performance_columns(traded)]
        lines.append(f"| {' | '.join(columns)} |")
    lines.append(f"| buy and hold |{'  |' * 7} {' | '.join(performance_columns(benchmark['metrics']))} |")
    return "\n".join(lines) + "\n"


def performance_columns(metrics: dict[str, Any]) -> list[str]:
    """Return the columns return, Sharpe ratio, drawdown and trades."""
    performance = metrics["performance"]
    sharpe = performance["sharpe"]
    return [
        f"{performance['total_return']:+.1%}",
        "–" if sharpe is None else f"{sharpe:.2f}",
        f"{performance['max_drawdown']:.1%}",
        str(metrics["trades"]["trades"]),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    root = Path(__file__).resolve().parent.parent
    parser.add_argument("--data", type=Path, default=root.parent / "shared" / "data")
    parser.add_argument("--output", type=Path, default=root / "bench" / "results")
    parser.add_argument("--work", type=Path, default=root / "var" / "ablations")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    (options.work / "config.toml").write_text(f'[store]\nurl = "sqlite:///{options.work}/ablations.db"\n')
    files = [
        part for s in ("BTCUSDT", "ETHUSDT") for part in ("--klines", f"{options.data}/klines/{s}-1m.parquet")
    ]
    news = ["--news", f"{options.data}/news/crypto-headlines.parquet"]
    rows = [
        measure(ablation, files, news if ablation != "price" else [], options.work) for ablation in ABLATIONS
    ]
    held = run_command(
        "backtest",
        "--config",
        str(options.work / "config.toml"),
        *files,
        "--start",
        CUT,
        "--end",
        END,
        "--strategy",
        "buy_and_hold",
    )
    for item in rows:
        for part in ("trained", "traded"):
            item[part].pop("folder", None)
    result = {
        "benchmark": "fusion ablations",
        "train": [START, CUT],
        "test": [CUT, END],
        "rows": rows,
        "buy_and_hold": held,
    }
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "ablations.json").write_text(json.dumps(result, indent=1) + "\n")
    (options.output / "ablations.md").write_text(markdown_table(rows, held))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
