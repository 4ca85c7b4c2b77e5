"""Compares speed and accuracy of the scorer with the plain transformers pipeline on the same cores.

    python bench/scoring.py [--data ../shared/data] [--model starter] [--headlines 5000]

Prints one JSON object: headlines per second, p50 and p99 of a single headline, ratios to the pipeline (batch
1 and 32, the fp32 LoRA teacher on the embedded base), macro-F1 of both on PhraseBank, and the cost of a fresh
scorer process. The pipeline reads only a part of the headlines because it is slow; both read the same
headlines for latency.
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

from models.sentiment import model_dir
from models.sentiment.serve.scorer import Scorer, cores

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
    pipeline = plain_pipeline(folder / "adapter", given.threads)
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
    quality = macro_f1_scores(
        scorer, folder / "adapter", given.data / "sentiment/phrasebank/Sentences_50Agree.txt"
    )
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
                "phrasebank": quality,
                "cold_start_s": min(seconds for seconds, _ in cold),
                "resident_mb": max(megabytes for _, megabytes in cold),
                "model_mb": (folder / "model.onnx").stat().st_size / 1e6,
            }
        )
    )


def plain_pipeline(adapter: Path, threads: int) -> Callable[..., Any]:
    import torch
    from transformers import AutoTokenizer, BertForSequenceClassification, pipeline

    from models.sentiment.train.bases import locate
    from models.sentiment.train.trained_model import load_trained

    torch.set_num_threads(threads)
    trained = load_trained(adapter)
    merged = trained.model.classifier
    model = BertForSequenceClassification.from_pretrained(locate(trained.card.base), num_labels=3)
    model.bert.load_state_dict(merged.encoder.state_dict(), strict=False)
    model.classifier.load_state_dict(merged.classifier.state_dict())
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    return pipeline("text-classification", model=model.eval(), tokenizer=tokenizer, top_k=None, device="cpu")


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


def macro_f1_scores(scorer: Scorer, adapter: Path, phrasebank: Path) -> dict[str, float]:
    """Return macro-F1 of the served and of the fp32 model, on text that neither was trained on."""
    from models.classification_metrics import macro_f1, predictions
    from models.sentiment.train.datasets import load
    from models.sentiment.train.evaluation import class_indices
    from models.sentiment.train.trained_model import load_trained

    examples = load(phrasebank, "phrasebank").examples
    texts, truth = [example.text for example in examples], class_indices(examples)
    served = np.array([score.probabilities for score in scorer.score(texts)])
    full = load_trained(adapter).probabilities(texts)
    found = {
        "macro_f1_served": macro_f1(predictions(served), truth),
        "macro_f1_fp32": macro_f1(predictions(full), truth),
    }
    return {**found, "macro_f1_points_lost": 100 * (found["macro_f1_fp32"] - found["macro_f1_served"])}


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
