"""Measures how fast a history is scored into an empty cache; prints one JSON line with ratios.

    python -m bench.history_scoring [--texts 3000] [--threads 1,2] [--rounds 3] [--model starter] [--data DIR]

The model scores 1, 2, … texts at once (`--threads`, by default 1 and the number of cores). Each figure is the
median of texts per second over rounds that are interleaved; `ratio` is to the first. `estimate` is the
minutes that 64,704 headlines take at that speed.

The exit code is 1 if the stored rows differ in a bit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq

from agent.store.database import open_database
from models.sentiment import model_dir
from models.sentiment.serve.history_scoring import score_history
from models.sentiment.serve.score_cache import SCORES, CachedScorer, SqlScoreCache
from models.sentiment.serve.scorer import Scorer, cores

ROOT: Final = Path(__file__).resolve().parent.parent
WHOLE: Final = 64_704


def headlines(data: Path, count: int) -> list[str]:
    """Return distinct real titles, spread over the whole file."""
    column = pq.read_table(data / "news/crypto-headlines.parquet", columns=["title"]).column(0)
    distinct = list(dict.fromkeys(title for title in column.to_pylist() if title))
    return distinct[:: max(1, len(distinct) // count)][:count]


def scored(model: Scorer, texts: list[str], folder: Path) -> tuple[float, str]:
    """Return texts per second, and a hash of the stored rows."""
    with closing(open_database(f"sqlite:///{folder / 'scores.db'}")) as database:
        began = time.perf_counter()
        score_history(CachedScorer(model, SqlScoreCache(database)), texts, embedded=False)
        speed = len(texts) / (time.perf_counter() - began)
        with database.write() as connection:
            rows = connection.execute(SCORES.select().order_by(SCORES.c.text_hash)).fetchall()
            connection.execute(SCORES.delete())
    return speed, hashlib.sha256(repr(rows).encode()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", type=int, default=3_000)
    parser.add_argument("--threads", default=f"1,{cores()}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="starter")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data")
    given = parser.parse_args()
    texts = headlines(given.data, given.texts)
    counts = dict.fromkeys(given.threads.split(","))
    ways = {f"threads_{n}": Scorer.load(model_dir(given.model), threads=int(n)) for n in counts}
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    hashes = set()
    with tempfile.TemporaryDirectory(prefix="tapewire-") as folder:
        for _ in range(given.rounds):
            for name, model in ways.items():
                speed, rows = scored(model, texts, Path(folder))
                speeds[name].append(speed)
                hashes.add(rows)
    first = next(iter(speeds.values()))
    line: dict[str, Any] = {
        "benchmark": "history_scoring",
        "model": given.model,
        "texts": len(texts),
        "cores": cores(),
        "load_average": round(os.getloadavg()[0], 1),
        "same_rows": len(hashes) == 1,
    }
    for name, own in speeds.items():
        speed = statistics.median(own)
        ratios = [mine / theirs for mine, theirs in zip(own, first, strict=True)]
        line[name] = {
            "texts_a_second": round(speed, 1),
            "ratio": round(statistics.median(ratios), 2),
            "estimate": round(WHOLE / speed / 60, 1),
        }
    print(json.dumps(line))
    sys.exit(not line["same_rows"])


if __name__ == "__main__":
    main()
