"""Cross-validates each fine-tuning method on Financial PhraseBank, by the recipe that `compare` chose.

    python -m bench.cross_validation [--methods lora,full] [--folds 10] [--minutes 60]

The folds are stratified by class, and near-duplicates share a fold. A twentieth of the training part of each
fold stops the training early and fits the temperature. Each fold's result is added to
bench/results/cross_validation.json, so a later call continues with the folds that are missing; --minutes ends
a call after the fold that exceeds it. Matrices are multiplied in bfloat16 if the processor does so natively;
each fold records it. Prints the table as JSON: mean and standard deviation of accuracy and
macro-F1 over the folds, beside the published 10-fold figures of ModernFinBERT (149 M weights: accuracy
86.88 ± 0.96, macro-F1 85.40) and those of FinBERT (110 M: 86, 84; one split).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from models.sentiment.train import silence_warnings
from models.sentiment.train.datasets import Dataset, Example, load
from models.sentiment.train.methods.recipe import Recipe
from models.sentiment.train.splits import Split, deduplicate, story_groups
from models.sentiment.train.trainer import bf16_supported
from models.sentiment.train.training import train

RESULTS: Final = Path(__file__).parent / "results"
CHOSEN: Final = RESULTS / "compare_phrasebank.json"
FOUND: Final = RESULTS / "cross_validation.json"
SEED: Final = 42
PUBLISHED: Final = {
    "ModernFinBERT, 149 M": {"accuracy": 0.8688, "accuracy_sd": 0.0096, "macro_f1": 0.8540},
    "FinBERT, 110 M": {"accuracy": 0.86, "macro_f1": 0.84},
}
_KEPT: Final = ("accuracy", "macro_f1", "ece")
_INNER: Final = 0.05
"""Share of a fold's training part that stops the training and fits the temperature."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--methods", default="lora,full,adalora,qlora,prefix,prompt,ptuning")
    parser.add_argument("--folds", type=int, default=10)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    given = parser.parse_args()
    silence_warnings()
    dataset = load(given.data / "sentiment/phrasebank/Sentences_50Agree.txt", "phrasebank")
    found: dict[str, Any] = json.loads(FOUND.read_text()) if FOUND.is_file() else {"folds": {}}
    recipes = chosen_recipes()
    until = time.monotonic() + 60 * given.minutes
    for method in given.methods.split(","):
        for number, split in enumerate(folds(dataset.examples, given.folds)):
            key = f"{method} {number + 1}/{given.folds}"
            if key in found["folds"] or time.monotonic() > until:
                continue
            found["folds"][key] = measure(recipes[method], split, dataset)
            FOUND.write_text(json.dumps(found | {"table": table(found["folds"])}, indent=1) + "\n")
    print(json.dumps({"table": table(found["folds"]), "published": PUBLISHED}))


def chosen_recipes() -> dict[str, Recipe]:
    """Return the recipe of each method with the learning rate that its sweep chose."""
    rows = json.loads(CHOSEN.read_text())["rows"]
    return {row["method"]: msgspec.convert(row["hyper"], Recipe) for row in rows if row["hyper"]}


def folds(examples: Sequence[Example], count: int) -> list[Split]:
    """Return the splits of a cross-validation; near-duplicates are on the same side of each."""
    kept = deduplicate(examples)[0]
    groups = story_groups([example.text for example in kept])
    labels = [example.label for example in kept]
    outer = StratifiedGroupKFold(count, shuffle=True, random_state=SEED)
    splits = []
    for training, test in outer.split(kept, labels, groups):
        rows = np.random.default_rng(SEED).permutation(training)
        inner = round(_INNER * len(rows))
        held = tuple(kept[row] for row in rows[:inner])
        splits.append(
            Split(
                train=tuple(kept[row] for row in rows[inner:]),
                validation=held,
                calibration=held,
                test=tuple(kept[row] for row in test),
                by_time=False,
            )
        )
    return splits


def measure(recipe: Recipe, split: Split, dataset: Dataset) -> dict[str, float | bool]:
    """Train one fold; return its test metrics and CPU seconds."""
    began = time.process_time()
    recipe = msgspec.structs.replace(recipe, bf16=bf16_supported())
    with tempfile.TemporaryDirectory() as place:
        card = train(recipe, split, [dataset.record], Path(place) / "model").card
    found = {name: round(card.metrics["test"][name].value, 4) for name in _KEPT}
    return found | {"cpu_seconds": round(time.process_time() - began, 1), "bf16": recipe.bf16}


def table(found: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return mean and sample standard deviation of the folds of each method."""
    rows: dict[str, list[dict[str, float]]] = {}
    for key, fold in found.items():
        rows.setdefault(key.split()[0], []).append(fold)
    return {
        method: {
            "folds": len(parts),
            **{name: round(float(np.mean([part[name] for part in parts])), 4) for name in _KEPT},
            **{
                f"{name}_sd": round(float(np.std([part[name] for part in parts], ddof=1)), 4)
                for name in _KEPT[:2]
                if len(parts) > 1
            },
        }
        for method, parts in rows.items()
    }


if __name__ == "__main__":
    main()
