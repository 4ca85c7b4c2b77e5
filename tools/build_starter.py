"""Build the starter model from public data: train, distil, calibrate, export, measure (`make starter`).

1. Teachers: LoRA on the embedded base, one teacher per seed. The training data are tweets (TFNS), posts
   (FiQA), the project's own headlines and generated statements. The adapter of the first teacher is shipped
   as well.
2. Student: by default a copy of the teacher with all six layers and a trimmed vocabulary, without further
   training. With fewer layers (`--layers 0,2,3,5 --epochs 2`) the student learns the mean probabilities of
   the teachers on the same texts, on variations of them, on more statements and on real crypto headlines
   without labels. That student has two thirds of the size and 1.5 times the speed, but loses 2.7 points of
   macro-F1 on PhraseBank, so it is not shipped.
3. Calibration: the temperature is fitted on later crypto headlines, which the project has labelled.
   `wire_labels.csv` contains their hashes and labels, but not their text. The export is measured on data
   that no step has used.

PhraseBank and CryptoLin are used for measurement only; their terms forbid more.
"""

from __future__ import annotations

import csv
import hashlib
import random
import re
import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import msgspec
import numpy as np
import pandas as pd
import typer
from safetensors.torch import load_file, save_file

from agent.cli.console import err, out
from agent.core.errors import DataError
from models.calibration import fit_temperature, softmax
from models.cards import (
    Card,
    DatasetRecord,
    fingerprint,
    latest_of,
    read_card,
    sha256_files,
    write_card,
    write_card_with_hashes,
)
from models.classification_metrics import coverage, estimates
from models.sentiment import starter_dir
from models.sentiment.serve.headline_text import clean
from models.sentiment.serve.scorer import HeadlineScore, Scorer
from models.sentiment.train.datasets import Example, Options, load
from models.sentiment.train.distillation import Student, distil
from models.sentiment.train.evaluation import class_indices
from models.sentiment.train.methods.recipe import Recipe
from models.sentiment.train.onnx_export import CORPUS, export_model, reference_texts
from models.sentiment.train.splits import Fractions, Split, make_split, story_key
from models.sentiment.train.trained_model import TrainedClassifier, load_trained
from models.sentiment.train.training import train
from tools import synthetic_headlines as grammar
from tools.synthetic_headlines import statements

CALIBRATED_FROM: Final = datetime(2023, 12, 10, tzinfo=UTC)
CALIBRATED_UNTIL: Final = datetime(2024, 1, 1, tzinfo=UTC)
"""Headlines before `CALIBRATED_FROM` are training text without labels. Labelled headlines from then until
`CALIBRATED_UNTIL` calibrate the student. Later headlines are not used.
"""
HEADLINE_LABELS: Final = CORPUS.with_name("wire_labels.csv")
SPLIT_SEED: Final = 7
FRACTIONS: Final = Fractions(validation=0.02, calibration=0.1, test=0.1)
TEACHER: Final = Recipe(
    method="lora",
    rank=16,
    targets="all",
    learning_rate=1e-3,
    epochs=2,
    dropout=0.1,
    smoothing=0.05,
    patience=0,
)
LABELLED: Final = {
    "tfns": ("sentiment/tfns/sent_train.csv", "tfns", 1),
    "fiqa": ("sentiment/fiqa/task1_post_ABSA_train.json", "fiqa", 2),
}
"""Name → path below the data folder, format, repetitions of each text per epoch."""
STARTER_FOLDER: Final = starter_dir()
CORPUS_REPEATS: Final = 2
STATEMENTS: Final = 1_800
DISTILLED_STATEMENTS: Final = 5_400
COMPOSED: Final = DatasetRecord(
    name="statements",
    format="grammar",
    sha256=sha256_files([Path(grammar.__file__)]),
    rows=STATEMENTS,
    basis="eventless (by chance)",
)
MEASURED_ONLY: Final = {
    "phrasebank": ("sentiment/phrasebank/Sentences_50Agree.txt", "phrasebank"),
    "cryptolin": ("sentiment/cryptolin-train.csv", "cryptolin"),
}
_COINS: Final = (
    "bitcoin",
    "ether",
    "solana",
    "cardano",
    "dogecoin",
    "litecoin",
    "xrp",
    "tron",
    "polkadot",
    "avalanche",
    "chainlink",
    "toncoin",
)
_COIN: Final = re.compile(rf"\b({'|'.join(_COINS)})\b", re.IGNORECASE)


def build(
    data: Annotated[Path, typer.Option(help="Folder of the public datasets.")] = Path("../shared/data"),
    output: Annotated[Path, typer.Option(help="Folder of the finished model.")] = STARTER_FOLDER,
    work: Annotated[
        Path, typer.Option(help="Folder of teachers and student; a teacher that exists is not trained again.")
    ] = Path("var/starter"),
    teachers: Annotated[
        int, typer.Option(min=1, help="Number of teachers, whose probabilities are averaged.")
    ] = 1,
    layers: Annotated[
        str, typer.Option(help="Layers that the student copies from the teacher.")
    ] = "0,1,2,3,4,5",
    epochs: Annotated[int, typer.Option(min=0, help="Training epochs of the student.")] = 0,
) -> None:
    """Train the teachers, distil a student, calibrate it, export it and measure it."""
    student = Student(layers=tuple(int(layer) for layer in layers.split(",")), epochs=epochs)
    sets = {name: load(data / path, format) for name, (path, format, _) in LABELLED.items()}
    sets["corpus"] = load(CORPUS, "csv", Options(eventless=True))
    splits = {
        name: make_split(found.examples, FRACTIONS, seed=SPLIT_SEED, stratified=True)
        for name, found in sets.items()
    }
    records = [*(found.record for found in sets.values()), COMPOSED]
    composed = statements(STATEMENTS, SPLIT_SEED)
    mixed = mix(splits, composed)
    trained = [
        _teacher(work / f"teacher-{seed}", mixed, records, seed)
        for seed in range(TEACHER.seed, TEACHER.seed + teachers)
    ]
    headlines, labelled, record = load_headlines(data / "news/crypto-headlines.parquet")
    own = [example.text for name in ("fiqa", "corpus") for example in splits[name].train]
    more = [example.text for example in statements(DISTILLED_STATEMENTS, SPLIT_SEED)]
    texts = (
        [example.text for example in splits["tfns"].train]
        + headlines
        + more
        + own
        + varied(own, seed=SPLIT_SEED)
    )
    with err.status(f"distilling on {len(texts)} texts"):
        distil(trained, texts, work / "student", student, progress=_print_progress("student"))
    _calibrate(work / "student", labelled, [*records, record])
    card = export_model(work / "student", output, reference=reference_texts(), overwrite=True)
    held_out: dict[str, Sequence[Example]] = {name: split.test for name, split in splits.items()}
    held_out |= {name: load(data / path, format).examples for name, (path, format) in MEASURED_ONLY.items()}
    measure(card, output, held_out, trained[0])
    ship_adapter(work / f"teacher-{TEACHER.seed}", output / "adapter")


def mix(splits: dict[str, Split], composed: Sequence[Example] = ()) -> Split:
    """Merge the splits; repeat small sets in the training part and add `composed` to it."""
    repeats = {name: times for name, (_, _, times) in LABELLED.items()} | {"corpus": CORPUS_REPEATS}
    shown = tuple(
        example for name, split in splits.items() for _ in range(repeats[name]) for example in split.train
    )
    return Split(
        train=(*shown, *composed),
        validation=tuple(example for split in splits.values() for example in split.validation),
        calibration=tuple(example for split in splits.values() for example in split.calibration),
        test=tuple(example for split in splits.values() for example in split.test),
        by_time=False,
    )


def load_headlines(path: Path) -> tuple[list[str], list[Example], DatasetRecord]:
    """Return unlabelled headlines before `CALIBRATED_FROM`, labelled ones after it, and their common record.

    All headlines are cleaned and distinct. An unlabelled headline is left out if it is of the same story as a
    labelled one. Raises DataError if the file lacks a headline that `wire_labels.csv` labels.
    """
    frame = pd.read_parquet(path, columns=["published_at", "title"])
    frame = frame[frame["published_at"] < CALIBRATED_UNTIL]
    frame = frame.assign(text=frame["title"].map(clean)).drop_duplicates("text")
    with HEADLINE_LABELS.open(encoding="utf-8", newline="") as stream:
        labels = {row["sha256"]: row["label"] for row in csv.DictReader(stream)}
    texts = frame["text"].tolist()
    labelled = [Example(text, labels[key]) for text in texts if (key := headline_key(text)) in labels]
    if len(labelled) < len(labels):
        raise DataError(
            f"{path} lacks {len(labels) - len(labelled)} of the headlines that {HEADLINE_LABELS.name} labels"
        )
    stories = {story_key(example.text) for example in labelled}
    earlier = frame.loc[frame["published_at"] < CALIBRATED_FROM, "text"]
    record = DatasetRecord(
        name=path.name,
        format="headlines, mostly unlabelled",
        sha256=hashlib.sha256("\n".join(texts).encode()).hexdigest(),
        rows=len(texts),
        latest=int(CALIBRATED_UNTIL.timestamp() * 1000),
        basis="dated rows",
    )
    return [text for text in earlier if text and story_key(text) not in stories], labelled, record


def headline_key(text: str) -> str:
    """Return the key of a cleaned headline in `wire_labels.csv`.

    The key is the first 16 hexadecimal digits of the SHA-256 of the text.
    """
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def varied(texts: Sequence[str], seed: int) -> list[str]:
    """Return a variation of each text: other coins, a tenth of the tokens dropped, sometimes an excerpt."""
    rng = random.Random(seed)
    return [_variation(text, rng) for text in texts]


def _variation(text: str, rng: random.Random) -> str:
    words = _COIN.sub(lambda _: rng.choice(_COINS), text).split()
    kept = [word for word in words if rng.random() > 0.1] or words
    if len(kept) > 6 and rng.random() < 0.3:
        length = rng.randint(len(kept) // 2, len(kept))
        start = rng.randint(0, len(kept) - length)
        kept = kept[start : start + length]
    return " ".join(kept)


def _teacher(folder: Path, split: Split, records: Sequence[DatasetRecord], seed: int) -> TrainedClassifier:
    if not (folder / "card.json").is_file():
        with err.status(f"training {folder.name} on {len(split.train)} texts"):
            recipe = msgspec.structs.replace(TEACHER, seed=seed)
            train(recipe, split, records, folder, progress=_print_progress(folder.name))
    return load_trained(folder)


def _calibrate(folder: Path, examples: Sequence[Example], records: Sequence[DatasetRecord]) -> None:
    """Fit the temperature of the student and complete its card."""
    student = load_trained(folder)
    logits, truth = student.logits([example.text for example in examples])[0], class_indices(examples)
    card = student.card
    card.temperature = fit_temperature(logits, truth)
    calibrated = softmax(logits, card.temperature)
    card.coverage = coverage(calibrated, truth)
    card.metrics["calibration"] = estimates(calibrated, truth)
    card.datasets = tuple(records)
    card.trained_until = latest_of(records)
    write_card(card, folder)


def measure(
    card: Card, folder: Path, held_out: dict[str, Sequence[Example]], teacher: TrainedClassifier
) -> None:
    """Measure the export and its fp32 teacher on each held-out set, and write the figures to the card."""
    scorer = Scorer.load(folder)
    for name, examples in held_out.items():
        texts, truth = [example.text for example in examples], class_indices(examples)
        found = np.array([_row(score) for score in scorer.score(texts)])
        card.metrics[name] = estimates(found, truth)
        card.metrics[f"{name}_teacher"] = estimates(teacher.probabilities(texts, batch_size=64), truth)
        f1, error = card.metrics[name]["macro_f1"].value, card.metrics[name]["ece"].value
        out.print(
            f"{name}: macro-F1 {f1:.3f}, teacher {card.metrics[f'{name}_teacher']['macro_f1'].value:.3f}, "
            f"ECE {error:.3f}"
        )
    write_card(card, folder)


def ship_adapter(source: Path, target: Path) -> None:
    """Copy an adapter at half precision, which halves the download and changes no prediction."""
    shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.png"))
    weights = target / "adapter_model.safetensors"
    save_file({name: tensor.half() for name, tensor in load_file(weights).items()}, weights)
    card = read_card(target)
    card.fingerprint = fingerprint([weights, target / "tokenizer.json"], card.temperature)
    write_card_with_hashes(card, target, card.files)


def _row(score: HeadlineScore) -> tuple[float, float, float]:
    return (np.nan, np.nan, np.nan) if score.abstained else score.probabilities


def _print_progress(name: str) -> Callable[[int, int, float], None]:
    def show(step: int, steps: int, loss: float) -> None:
        if step % 100 == 0 or step == steps:
            err.print(f"{name}: step {step} of {steps}, loss {loss:.3f}")

    return show


if __name__ == "__main__":
    typer.run(build)
