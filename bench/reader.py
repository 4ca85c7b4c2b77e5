"""Measures an exported sentiment model on every labelled set at hand.

    python -m bench.reader [--model starter] [--data ../shared/data] [--from 2023-10-01]

Sets: headlines of the labelled wire published from --from on (overall, per named asset, assets of headlines
whose assets differ, kind of news), SEntFiN per entity, TFNS, FiQA, PhraseBank and CryptoLin. An asset for
which the model has no answer gets the headline's own, as in the agent; an abstention is wrong. Intervals are
95 % of the bootstrap, over headlines. `seen` compares the sets with the datasets of the model's card:
"trained on" if the card names the file, "held out" for the part of such a file that `tools/build_starter.py`
neither trains nor calibrates on, "never". Writes bench/results/reader.json and .md, and prints the JSON.
Sets that are not in --data are named.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from agent.core.news_kinds import NEWS_KINDS
from agent.core.symbols import AssetFinder
from agent.system.atomic import write_bytes
from bench.reader_tables import markdown
from models.cards import Card, DatasetRecord
from models.classification_metrics import ABSTAINED, BINS, chance_ece, estimates, macro_f1
from models.labels import LABELS
from models.sentiment import model_dir
from models.sentiment.serve.headline_score import HeadlineScore
from models.sentiment.serve.scorer import Scorer
from models.sentiment.train.datasets import Example, load
from models.sentiment.train.datasets.asset_labels import (
    AssetExample,
    EntityFinder,
    asset_name,
    load_assets,
)
from models.sentiment.train.evaluation import as_array, class_indices
from models.sentiment.train.splits import make_split
from tools.starter_periods import CALIBRATED_UNTIL, FRACTIONS, SPLIT_SEED

ROOT: Final = Path(__file__).parents[1]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
KEPT: Final = ("accuracy", "macro_f1", "weighted_f1", "ece")
RESAMPLES: Final = 1000
TIMED: Final = 300
"""Headlines whose latency is measured one at a time."""

PUBLISHED: Final = {
    "wire": "two careful readers agree on .96",
    "wire, assets": "two careful readers agree on .97; the true overall label for each asset: .87",
    "wire, kinds": "two careful readers agree on .95",
    "TFNS": "weighted F1: FinGPT-13B .903, FinBERT .733",
    "FiQA": "weighted F1: FinGPT-13B .874, FinBERT .596",
    "PhraseBank 50Agree": "trained on it: ModernFinBERT (149 M) .869 ± .010 accuracy, .854 macro-F1; FinBERT "
    ".86, .84",
    "CryptoLin": "careful readers reach only .68 accuracy, .67–.69 macro-F1 against these labels",
}


class Plain(NamedTuple):
    """A set with one label a text. `held_out` measures the test part of the starter's split, too."""

    name: str
    path: str
    format: str
    held_out: bool = False


PLAIN: Final = (
    Plain("TFNS", "tfns/sent_train.csv", "tfns", held_out=True),
    Plain("TFNS, validation file", "tfns/sent_valid.csv", "tfns"),
    Plain("FiQA", "fiqa/task1_post_ABSA_train.json", "fiqa", held_out=True),
    Plain("PhraseBank 50Agree", "phrasebank/Sentences_50Agree.txt", "phrasebank"),
    Plain("PhraseBank AllAgree", "phrasebank/Sentences_AllAgree.txt", "phrasebank"),
    Plain("CryptoLin", "cryptolin-train.csv", "cryptolin"),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="starter")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    since = f"{CALIBRATED_UNTIL:%Y-%m-%d}"
    parser.add_argument("--from", dest="since", default=since, help="first day of the wire's slice")
    parser.add_argument("--output", type=Path, default=ROOT / "bench" / "results")
    args = parser.parse_args()
    result = measure_model(model_dir(args.model), args.data / "sentiment", args.since)
    args.output.mkdir(parents=True, exist_ok=True)
    write_bytes(args.output / "reader.json", json.dumps(result, indent=1).encode() + b"\n")
    write_bytes(args.output / "reader.md", markdown(result).encode())
    print(json.dumps(result))


def measure_model(folder: Path, data: Path, since: str) -> dict[str, Any]:
    """Return the figures of the model in `folder` on the sets below `data`."""
    scorer = Scorer.load(folder)
    card = scorer.card
    rows: list[dict[str, Any]] = []
    missing: list[str] = []
    wire = data / "wire/labelled.parquet"
    timed: list[str] = []
    if wire.is_file():
        found = load_assets(wire, "wire")
        first = int(datetime.fromisoformat(since).replace(tzinfo=UTC).timestamp() * 1000)
        examples = [example for example in found.examples if (example.ts or 0) >= first]
        rows += wire_rows(scorer, examples, seen(card, found.record, held_out=True), since)
        timed = [example.text for example in examples]
    else:
        missing.append("wire")
    sentfin = data / "sentfin.csv"
    if sentfin.is_file():
        entities = load_assets(sentfin, "sentfin")
        finder = cast(AssetFinder, EntityFinder(entities.examples))
        own = Scorer.load(folder, finder=finder)
        rows.append(entity_row(own, entities.examples, seen(card, entities.record)))
    else:
        missing.append("SEntFiN")
    for plain in PLAIN:
        if (data / plain.path).is_file():
            rows += plain_rows(scorer, plain, data / plain.path)
        else:
            missing.append(plain.name)
    for row in rows:
        name = row["set"].partition(" from ")[0].removesuffix(", held-out tenth")
        row["published"] = PUBLISHED.get(name, "")
    return {
        "model": card.fingerprint[:12],
        "method": card.method,
        "trained_until": card.trained_until_iso,
        "rows": rows,
        "missing": missing,
        "speed": speed(scorer, timed or ["Exchange lists the token"] * TIMED),
        "model_mb": round((folder / "model.onnx").stat().st_size / 1e6, 1),
        "folder_mb": round(sum(file.stat().st_size for file in folder.iterdir() if file.is_file()) / 1e6, 1),
    }


def seen(card: Card, record: DatasetRecord, *, held_out: bool = False) -> str:
    """Return whether the model was trained on a file; `held_out`: it is the part that isn't trained on."""
    known = record.sha256 in {one.sha256 for one in card.datasets}
    return ("held out" if held_out else "trained on") if known else "never"


# -- the sets ------------------------------------------------------------------------------------------


def wire_rows(
    scorer: Scorer, examples: Sequence[AssetExample], status: str, since: str
) -> list[dict[str, Any]]:
    """Return the rows of the wire: overall, assets, assets of mixed headlines, kinds."""
    scores = scorer.score([example.text for example in examples])
    name = f"from {since}"
    truth = np.array([LABELS.index(example.label or "") for example in examples], np.int64)
    rows = [classes(f"wire {name}", status, as_array(scores), truth)]
    targets = asset_answers(examples, scores)
    if len(targets.truth):
        mixed = targets.mixed
        rows += [
            classes(f"wire, assets {name}", status, targets.answers, targets.truth, targets.headline)
            | {"answered": round(float(targets.own.mean()), 4)},
            classes(
                f"wire, assets by the overall answer {name}",
                status,
                as_array(scores)[targets.headline],
                targets.truth,
                targets.headline,
            ),
        ]
        if mixed.any():
            rows.append(
                classes(
                    f"wire, assets of mixed headlines {name}",
                    status,
                    targets.answers[mixed],
                    targets.truth[mixed],
                    targets.headline[mixed],
                )
            )
    if scorer.reads_assets:
        rows.append(kinds(f"wire, kinds {name}", status, examples, scores))
    return rows


def entity_row(scorer: Scorer, examples: Sequence[AssetExample], status: str) -> dict[str, Any]:
    """Return the row of SEntFiN: the answer for each entity."""
    scores = scorer.score([example.text for example in examples])
    targets = asset_answers(examples, scores)
    row = classes("SEntFiN, entities", status, targets.answers, targets.truth, targets.headline)
    mixed = classes(
        "", "", targets.answers[targets.mixed], targets.truth[targets.mixed], targets.headline[targets.mixed]
    )
    return row | {
        "answered": round(float(targets.own.mean()), 4),
        "mixed": {"n": mixed["n"], "accuracy": mixed["accuracy"]},
    }


def plain_rows(scorer: Scorer, plain: Plain, path: Path) -> list[dict[str, Any]]:
    """Return the rows of a set with one label a text: all of it, and what the starter's split holds out."""
    dataset = load(path, plain.format)
    status = seen(scorer.card, dataset.record)
    rows = [classes(plain.name, status, *_scored(scorer, dataset.examples))]
    if plain.held_out and status != "never":
        held = make_split(dataset.examples, FRACTIONS, seed=SPLIT_SEED, stratified=True).test
        rows.append(classes(f"{plain.name}, held-out tenth", "held out", *_scored(scorer, held)))
    return rows


def _scored(scorer: Scorer, examples: Sequence[Example]) -> tuple[Floats, Ints]:
    scores = scorer.score([example.text for example in examples])
    return as_array(scores), class_indices(examples)


class Targets(NamedTuple):
    """One row for each labelled asset: probabilities, class, number of its headline; all of length n."""

    answers: Floats
    truth: Ints
    headline: Ints
    mixed: NDArray[np.bool_]
    own: NDArray[np.bool_]  # the model has an answer for this asset


def asset_answers(examples: Sequence[AssetExample], scores: Sequence[HeadlineScore]) -> Targets:
    """Return the model's answers for the labelled assets; the headline's own if it has none for an asset."""
    overall = as_array(scores)
    answers, truth, headline, mixed, own = [], [], [], [], []
    for number, (example, score) in enumerate(zip(examples, scores, strict=True)):
        known = {asset_name(one.asset): (one.bearish, one.neutral, one.bullish) for one in score.assets}
        known |= {one.asset: (one.bearish, one.neutral, one.bullish) for one in score.assets}
        for target in example.targets:
            found = known.get(target.asset)
            answers.append(tuple(overall[number]) if found is None else found)
            truth.append(LABELS.index(target.label))
            headline.append(number)
            mixed.append(example.mixed)
            own.append(found is not None)
    return Targets(
        np.array(answers, np.float64).reshape(-1, len(LABELS)),
        np.array(truth, np.int64),
        np.array(headline, np.int64),
        np.array(mixed, np.bool_),
        np.array(own, np.bool_),
    )


# -- figures -------------------------------------------------------------------------------------------


def classes(
    name: str, status: str, probabilities: Floats, truth: Ints, blocks: Ints | None = None
) -> dict[str, Any]:
    """Return a row: the metrics with intervals, and those of always answering the commonest class.

    Rows of one headline have one number in `blocks` and are drawn together.
    """
    found = estimates(probabilities, truth, blocks=blocks, resamples=RESAMPLES)
    chance = chance_ece(probabilities, resamples=RESAMPLES)
    counts = np.bincount(truth, minlength=len(LABELS))
    constant = np.full(len(truth), counts.argmax(), np.int64)
    return {
        "set": name,
        "seen": status,
        "n": len(truth),
        "abstained": int(np.isnan(probabilities).any(axis=1).sum()),
        **{
            metric: [round(x, 4) for x in (found[metric].value, found[metric].low, found[metric].high)]
            for metric in KEPT
        },
        "chance_ece": [round(x, 4) for x in (chance.value, chance.low, chance.high)],
        "majority": {
            "accuracy": round(float(counts.max() / len(truth)), 4),
            "macro_f1": round(macro_f1(constant, truth), 4),
        },
    }


def kinds(
    name: str, status: str, examples: Sequence[AssetExample], scores: Sequence[HeadlineScore]
) -> dict[str, Any]:
    """Return the row of the kinds of news, of which there are nine."""
    truth = np.array([NEWS_KINDS.index(example.kind or "") for example in examples], np.int64)
    predicted = np.array(
        [NEWS_KINDS.index(score.kind) if score.kind else ABSTAINED for score in scores], np.int64
    )
    confidence = np.array([score.kind_confidence for score in scores])
    figures = kind_figures(predicted, truth, confidence, np.ones((1, len(truth))))
    rng = np.random.default_rng(0)
    draws = rng.multinomial(len(truth), np.full(len(truth), 1 / len(truth)), RESAMPLES).astype(np.float64)
    drawn = kind_figures(predicted, truth, confidence, draws)
    intervals = {metric: np.nanpercentile(values, [2.5, 97.5]) for metric, values in drawn.items()}
    counts = np.bincount(truth, minlength=len(NEWS_KINDS))
    own = predicted[:, None] == np.arange(len(NEWS_KINDS))
    recall = (own & (truth[:, None] == np.arange(len(NEWS_KINDS)))).sum(axis=0)
    return {
        "set": name,
        "seen": status,
        "n": len(truth),
        "abstained": int((predicted == ABSTAINED).sum()),
        **{
            metric: [round(float(x), 4) for x in (values[0], *intervals[metric])]
            for metric, values in figures.items()
        },
        "majority": {"accuracy": round(float(counts.max() / len(truth)), 4)},
        "recall": {
            kind: {"n": int(n), "recall": round(int(hits) / int(n), 4) if n else None}
            for kind, n, hits in zip(NEWS_KINDS, counts, recall, strict=True)
        },
    }


def kind_figures(predicted: Ints, truth: Ints, confidence: Floats, weights: Floats) -> dict[str, Floats]:
    """Return accuracy, macro-F1 over the kinds that occur, and ECE, for each row of `weights` (draws, n)."""
    right = (predicted == truth).astype(np.float64)
    every = np.arange(len(NEWS_KINDS))
    true = weights @ (truth[:, None] == every)
    claimed = weights @ (predicted[:, None] == every)
    hits = weights @ ((truth[:, None] == every) * right[:, None])
    f1 = 2 * hits / np.maximum(true + claimed, 1e-12)
    occurs = true > 0
    bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    gaps = weights @ ((bins[:, None] == np.arange(BINS)) * (right - confidence)[:, None])
    total = weights.sum(axis=1)
    return {
        "accuracy": weights @ right / total,
        "macro_f1": (f1 * occurs).sum(axis=1) / occurs.sum(axis=1),
        "ece": np.abs(gaps).sum(axis=1) / total,
    }


def speed(scorer: Scorer, texts: Sequence[str]) -> dict[str, float]:
    """Return the time of single headlines in ms, and headlines a second in one call."""
    few = list(dict.fromkeys(texts))[:TIMED]
    taken = []
    for text in few:
        began = time.perf_counter()
        scorer.score([text])
        taken.append((time.perf_counter() - began) * 1e3)
    began = time.perf_counter()
    scorer.score(few)
    return {
        "p50_ms": round(float(np.percentile(taken, 50)), 2),
        "p99_ms": round(float(np.percentile(taken, 99)), 2),
        "headlines_a_second": round(len(few) / (time.perf_counter() - began), 1),
    }


if __name__ == "__main__":
    main()
