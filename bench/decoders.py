"""Compares the speed of a decoder with the starter, both served as `tapewire worker sentiment` serves them.

    python -m bench.decoders [--model FOLDER] [--headlines 320] [--rounds 5] [--threads 1]

Prints one JSON object: for batches of 1 and 16 headlines, milliseconds of a batch (p50, p99), headlines per
second, and the ratio of the starter's to the decoder's. Both are opened by the call that a worker uses, and
score the same headlines of the wire; the broker, which costs both the same, is left out. They take turns, so
that a busy moment of the machine affects both; the median of the rounds counts.

Without `--model`, SmolLM2-135M-Instruct is exported once to var/decoders/smollm2-onnx as it is: int8 ONNX,
classifying by label words, no example in its prompt. What it is trained for changes no weight's size, so the
speed is that of a fine-tuned one. `--output FILE` also writes the object to a file.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pandas as pd

from agent.config import parse
from agent.system.atomic import write_bytes
from bench.llms import ROOT, Row, machine, read_sets, train_row
from bench.qlora import scoring_speed
from models.sentiment import model_dir
from models.sentiment.open_scorer import open_scorer

BATCHES: Final = (1, 16)
FOLDER: Final = ROOT / "var" / "decoders"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="exported decoder (default: SmolLM2 as it is)")
    parser.add_argument("--headlines", type=int, default=320, help="texts of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    folder = given.model or exported(given.data)
    titles = pd.read_parquet(given.data / "news/crypto-headlines.parquet", columns=["title"])["title"]
    texts = titles.drop_duplicates().sample(given.headlines, random_state=0).tolist()
    found = compare("starter", str(folder), texts, given.rounds, given.threads)
    found |= {"machine": machine(), "threads": given.threads, "headlines": len(texts)}
    found["model_mb"] = {
        name: round((path / "model.onnx").stat().st_size / 1e6, 1)
        for name, path in (("starter", model_dir("starter")), ("decoder", folder))
    }
    if given.output is not None:
        write_bytes(given.output, json.dumps(found, indent=1).encode() + b"\n")
    print(json.dumps(found))


def exported(data: Path) -> Path:
    """Export SmolLM2 as it is, unless that was done before; return the folder."""
    folder = FOLDER / "smollm2-onnx"
    if not (folder / "model.onnx").is_file():
        split, record, _ = read_sets(data / "sentiment", 0, 32)
        row = Row("smollm2-zero-shot", "smollm2", "none", "words")
        train_row(row, split, record, FOLDER / "smollm2", folder)
    return folder


def compare(starter: str, decoder: str, texts: Sequence[str], rounds: int, threads: int) -> dict[str, Any]:
    """Return by model and size of a batch the median figures of the rounds, and the starter's speed in
    multiples of the decoder's.
    """
    config = parse({}, where="the benchmark")
    scorers = {
        name: open_scorer(path, config, threads=threads)
        for name, path in (("starter", starter), ("decoder", decoder))
    }
    measured: dict[tuple[str, int], list[dict[str, float]]] = {}
    for scorer in scorers.values():
        scorer.score(texts[: max(BATCHES)])  # warm
    for turn in range(rounds):
        mine = list(texts[turn::rounds])
        for size in BATCHES:
            for name, scorer in scorers.items():
                measured.setdefault((name, size), []).append(scoring_speed(scorer, mine, size))
    found: dict[str, Any] = {
        name: {
            str(size): {
                key: round(statistics.median(row[key] for row in measured[name, size]), 3)
                for key in ("p50_ms", "p99_ms", "per_s")
            }
            for size in BATCHES
        }
        for name in scorers
    }
    found["ratio"] = {
        str(size): round(found["starter"][str(size)]["per_s"] / found["decoder"][str(size)]["per_s"], 1)
        for size in BATCHES
    }
    return found


if __name__ == "__main__":
    main()
