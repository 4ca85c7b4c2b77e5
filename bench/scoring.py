"""Compares the speed of the scorer with the plain transformers pipeline on the same cores.

    python -m bench.scoring [--data ../shared/data] [--model starter] [--headlines 5000]

Prints one JSON object: headlines per second, p50 and p99 of a single headline, ratios to the pipeline (batch
1 and 32), the cost of named assets, macro-F1 on PhraseBank, and the cost of a fresh scorer process. The
scorer finds the named assets and answers for each, and for the kind of news, if the model does. The pipeline
is the embedded base in fp32 with an untrained head for whole headlines: only its speed counts. It reads only
a part of the headlines because it is slow; both read the same headlines for latency.

`assets` compares headlines that name 0, 1, 2 and 4 assets with those that name one. Such headlines also
differ in length, so `same_headlines` are those of at least 4 assets, of which the scorer is told of so many.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from agent.core.symbols import AssetFinder
from models.sentiment import model_dir
from models.sentiment.serve.headline_text import clean
from models.sentiment.serve.scorer import Scorer, cores

NAMED = (0, 1, 2, 4)
"""Numbers of named assets whose cost is measured."""

OF_EACH = 200
"""Headlines of each number of assets."""

ROUNDS = 5
"""Scorer and pipeline take turns, so that a busy moment of the machine affects both; medians count."""

FRESH = """
import time; began = time.perf_counter()
import resource, sys
from pathlib import Path
from models.sentiment.serve.scorer import Scorer
Scorer.load(Path(sys.argv[1])).score(["Exchange lists the token"])
print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--model", default="starter")
    parser.add_argument("--headlines", type=int, default=5_000)
    parser.add_argument("--pipeline-headlines", type=int, default=1_000)
    parser.add_argument("--threads", type=int, default=cores())
    given = parser.parse_args()
    folder = model_dir(given.model)
    titles = pd.read_parquet(given.data / "news/crypto-headlines.parquet", columns=["title"])["title"]
    headlines = titles.drop_duplicates().sample(given.headlines, random_state=0).tolist()
    few = headlines[: given.pipeline_headlines]

    cold = [measure_fresh_process(folder) for _ in range(3)]
    scorer = Scorer.load(folder, threads=given.threads)
    pipeline = plain_pipeline(given.threads)
    contestants: dict[str, tuple[Callable[[list[str]], Any], list[str]]] = {
        "scorer": (scorer.score, headlines),
        "pipeline_1": (lambda texts: pipeline(texts, batch_size=1), few),
        "pipeline_32": (lambda texts: pipeline(texts, batch_size=32), few),
    }
    rounds = [
        {name: rate(score, texts[turn::ROUNDS]) for name, (score, texts) in contestants.items()}
        for turn in range(ROUNDS)
    ]
    rates = {name: statistics.median(row[name] for row in rounds) for name in contestants}
    single = {"scorer": latency(lambda text: scorer.score([text]), few), "pipeline": latency(pipeline, few)}
    quality = served_macro_f1(scorer, given.data / "sentiment/phrasebank/Sentences_50Agree.txt")
    print(
        json.dumps(
            {
                "headlines": len(headlines),
                "threads": given.threads,
                "processor": processor(),
                "headlines_a_second": rates,
                "throughput_ratio": statistics.median(
                    row["scorer"] / max(row["pipeline_1"], row["pipeline_32"]) for row in rounds
                ),
                "single_headline_ms": single,
                "latency_ratio_p50": single["scorer"]["p50"] / single["pipeline"]["p50"],
                "latency_ratio_p99": single["scorer"]["p99"] / single["pipeline"]["p99"],
                "reads_assets": scorer.reads_assets,
                "assets": cost_of_assets(folder, titles.drop_duplicates().tolist()),
                "phrasebank_macro_f1": quality,
                "cold_start_s": min(seconds for seconds, _ in cold),
                "resident_mb": max(megabytes for _, megabytes in cold),
                "model_mb": (folder / "model.onnx").stat().st_size / 1e6,
            }
        )
    )


def plain_pipeline(threads: int) -> Callable[..., Any]:
    """Return the transformers pipeline of the embedded base with three classes."""
    import torch
    from transformers import AutoTokenizer, BertForSequenceClassification, pipeline

    from models.sentiment.train.bases import EMBEDDED, locate

    torch.set_num_threads(threads)
    base = locate(EMBEDDED)
    model = BertForSequenceClassification.from_pretrained(base, num_labels=3)
    tokenizer = AutoTokenizer.from_pretrained(base)
    return pipeline("text-classification", model=model.eval(), tokenizer=tokenizer, top_k=None, device="cpu")


class FirstAssets(AssetFinder):
    """Finds only the first `most` assets of a headline."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def find(self, title: str) -> dict[str, tuple[tuple[int, int], ...]]:
        found = super().find(title)
        return dict(list(found.items())[: self.most])


def cost_of_assets(folder: Path, titles: Sequence[str]) -> dict[str, Any]:
    """Return ms a headline, one at a time on one thread, by the number of assets that it names.

    `relative` is the ratio to one asset; the means of `ROUNDS` alternating rounds have their median taken.
    """
    finder = AssetFinder()
    by_count: dict[int, list[str]] = {count: [] for count in NAMED}
    for title in titles:
        count = min(len(finder.find(clean(title))), NAMED[-1])
        if count in by_count and len(by_count[count]) < OF_EACH:
            by_count[count].append(title)
    scorer = Scorer.load(folder, threads=1)
    own = {count: (scorer, texts) for count, texts in by_count.items() if texts}
    many = by_count[NAMED[-1]]
    same = {count: (Scorer.load(folder, threads=1, finder=FirstAssets(count)), many) for count in NAMED}
    return {
        "headlines": {str(count): len(texts) for count, (_, texts) in own.items()},
        "own_headlines": relative_cost(own),
        "same_headlines": relative_cost(same) if many else {},
    }


def relative_cost(groups: dict[int, tuple[Scorer, list[str]]]) -> dict[str, Any]:
    """Return ms a headline of each group, and the ratio to that of one asset."""
    rounds = []
    for _ in range(ROUNDS):
        taken = {}
        for count, (scorer, texts) in groups.items():
            began = time.perf_counter()
            for text in texts:
                scorer.score([text])
            taken[count] = (time.perf_counter() - began) * 1e3 / len(texts)
        rounds.append(taken)
    found: dict[str, Any] = {
        "ms": {str(count): statistics.median(row[count] for row in rounds) for count in groups}
    }
    if 1 in groups:
        found["relative"] = {
            str(count): statistics.median(row[count] / row[1] for row in rounds) for count in groups
        }
    return found


def rate(score: Callable[[list[str]], Any], texts: list[str]) -> float:
    """Return texts per second after a warm-up."""
    score(texts[:8])
    began = time.perf_counter()
    score(texts)
    return len(texts) / (time.perf_counter() - began)


def latency(score: Callable[[str], Any], texts: Sequence[str]) -> dict[str, float]:
    """Return p50 and p99 in ms for one text at a time."""
    taken = []
    for text in texts:
        began = time.perf_counter()
        score(text)
        taken.append((time.perf_counter() - began) * 1e3)
    return {"p50": float(np.percentile(taken, 50)), "p99": float(np.percentile(taken, 99))}


def served_macro_f1(scorer: Scorer, phrasebank: Path) -> float:
    """Return the scorer's macro-F1 on PhraseBank, which it was not trained on."""
    from models.classification_metrics import macro_f1, predictions
    from models.sentiment.train.datasets import load
    from models.sentiment.train.evaluation import as_array, class_indices

    examples = load(phrasebank, "phrasebank").examples
    scores = scorer.score([example.text for example in examples])
    return macro_f1(predictions(as_array(scores)), class_indices(examples))


def measure_fresh_process(folder: Path) -> tuple[float, float]:
    """Return seconds from import to the first score, and peak resident MB, of a new process."""
    done = subprocess.run(
        [sys.executable, "-c", FRESH, str(folder)], capture_output=True, text=True, check=True
    )
    seconds, megabytes = map(float, done.stdout.split())
    return seconds, megabytes


def processor() -> str:
    """Return the CPU's name."""
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )


if __name__ == "__main__":
    main()
