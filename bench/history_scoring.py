"""Measures how fast a history is scored into an empty cache; prints one JSON line with ratios.

    python -m bench.history_scoring [--texts 3000] [--jobs 1,2] [--rounds 3] [--model starter] [--data DIR]

`threads` is one process that scores as many texts at once as there are cores, as a replay does on its way;
the others are `score_history` in 1, 2, … processes (`--jobs`, by default 1 and the number of cores). Each
figure is the median of texts per second over rounds that are interleaved, with the start of the processes;
`ratio` is to `threads`. `estimate` is the minutes that 64,704 headlines take at that speed.

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
from models.sentiment.serve import history_scoring
from models.sentiment.serve.history_scoring import BLOCK, score_history
from models.sentiment.serve.score_cache import SCORES, CachedScorer, SqlScoreCache
from models.sentiment.serve.scorer import Scorer, cores

ROOT: Final = Path(__file__).resolve().parent.parent
WHOLE: Final = 64_704


def headlines(data: Path, count: int) -> list[str]:
    """Return distinct real titles, spread over the whole file."""
    column = pq.read_table(data / "news/crypto-headlines.parquet", columns=["title"]).column(0)
    distinct = list(dict.fromkeys(title for title in column.to_pylist() if title))
    return distinct[:: max(1, len(distinct) // count)][:count]


def scored(model: Scorer, texts: list[str], jobs: int, folder: Path) -> tuple[float, str]:
    """Return texts per second, and a hash of the stored rows. 0 jobs: as a replay scores."""
    with closing(open_database(f"sqlite:///{folder / 'scores.db'}")) as database:
        cached = CachedScorer(model, SqlScoreCache(database))
        began = time.perf_counter()
        if jobs:
            score_history(cached, texts, embedded=False, jobs=jobs)
        else:
            for begin in range(0, len(texts), BLOCK):
                cached.score(texts[begin : begin + BLOCK])
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
    parser.add_argument("--jobs", default=f"1,{cores()}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="starter")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data")
    given = parser.parse_args()
    history_scoring.WORTH_PROCESSES = 1
    texts = headlines(given.data, given.texts)
    wide = Scorer.load(model_dir(given.model))
    one = Scorer.load(model_dir(given.model), threads=1)
    ways = {"threads": 0} | {f"jobs_{jobs}": int(jobs) for jobs in dict.fromkeys(given.jobs.split(","))}
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    hashes = set()
    with tempfile.TemporaryDirectory(prefix="tapewire-") as folder:
        for _ in range(given.rounds):
            for name, jobs in ways.items():
                speed, rows = scored(one if jobs == 1 else wide, texts, jobs, Path(folder))
                speeds[name].append(speed)
                hashes.add(rows)
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
        ratios = [mine / theirs for mine, theirs in zip(own, speeds["threads"], strict=True)]
        line[name] = {
            "texts_a_second": round(speed, 1),
            "ratio": round(statistics.median(ratios), 2),
            "estimate": round(WHOLE / speed / 60, 1),
        }
    print(json.dumps(line))
    sys.exit(not line["same_rows"])


if __name__ == "__main__":
    main()
