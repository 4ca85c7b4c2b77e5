"""`make starter`: the model that ships, from public data to a folder that is ready to serve, in one command.

1. Teachers: LoRA on the embedded base, on tweets (TFNS), posts (FiQA), the project's own headlines and
  statements by its grammar,
   one a seed. The first one's adapter ships too.
2. A student. By default it has all six layers over a trimmed vocabulary, and nothing more to learn. With
  fewer layers (`--layers
   0,2,3,5 --epochs 2`) it learns the teachers' mean answers, on the same texts and variations of them, on
   more statements, and on real crypto headlines without labels: two thirds of the size and half as fast
   again, at 2.7 points of macro-F1 on PhraseBank, which is why it doesn't ship.
3. Its temperature is fitted on later headlines of the wire, which the project has labelled: `wire_labels.csv`
  holds their hashes
   and our labels, not their words. The export is measured on what none of this has seen.

PhraseBank and CryptoLin, whose terms forbid more, measure and teach nothing.
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
"""Headlines before the first teach without labels; between the two lie those that calibrate. Nothing
younger is looked at.
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
"""Name → path below the data folder, format, how often each text is shown an epoch."""
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
    data: Annotated[Path, typer.Option(help="Folder of the public data sets.")] = Path("../shared/data"),
    output: Annotated[Path, typer.Option(help="Folder of the model.")] = starter_dir(),  # noqa: B008 constant
    work: Annotated[
        Path, typer.Option(help="For teachers and student; teachers found there are not trained again.")
    ] = Path("var/starter"),
    teachers: Annotated[int, typer.Option(min=1, help="Teachers whose answers are averaged.")] = 1,
    layers: Annotated[
        str, typer.Option(help="Layers of the teacher that the student begins with.")
    ] = "0,1,2,3,4,5",
    epochs: Annotated[int, typer.Option(min=0, help="Passes of the student over its texts.")] = 0,
) -> None:
    """Train the teachers, distil the student, calibrate, export, measure."""
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
    headlines, labelled, record = wire(data / "news/crypto-headlines.parquet")
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
        distil(trained, texts, work / "student", student, progress=_told("student"))
    _calibrate(work / "student", labelled, [*records, record])
    card = export_model(work / "student", output, reference=reference_texts(), overwrite=True)
    held_out: dict[str, Sequence[Example]] = {name: split.test for name, split in splits.items()}
    held_out |= {name: load(data / path, format).examples for name, (path, format) in MEASURED_ONLY.items()}
    measure(card, output, held_out, trained[0])
    ship_adapter(work / f"teacher-{TEACHER.seed}", output / "adapter")


def mix(splits: dict[str, Split], composed: Sequence[Example] = ()) -> Split:
    """One split of all: small sets are shown more often than once an epoch; composed text only teaches."""
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


def wire(path: Path) -> tuple[list[str], list[Example], DatasetRecord]:
    """(headlines before `CALIBRATED_FROM`, the project's labelled ones after it, their common record),
    cleaned and distinct.

    Raises DataError if the file lacks a headline that `wire_labels.csv` has a label for.
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
    """What stands for a headline in `wire_labels.csv`: the first 16 hexadecimal digits of the SHA-256 of
    its cleaned text.
    """
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def varied(texts: Sequence[str], seed: int) -> list[str]:
    """A variation of each text: another coin, a tenth of the words missing, sometimes a part of it only."""
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
        with err.status(f"teaching {folder.name} on {len(split.train)} texts"):
            recipe = msgspec.structs.replace(TEACHER, seed=seed)
            train(recipe, split, records, folder, progress=_told(folder.name))
    return load_trained(folder)


def _calibrate(folder: Path, examples: Sequence[Example], records: Sequence[DatasetRecord]) -> None:
    """Fits the temperature of a student, and completes its card."""
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
    """Measures the export, and beside it its fp32 teacher, on each held-out set; writes the figures into
    the card.
    """
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
    """Copies an adapter at half precision, which changes no prediction and halves what everybody
    downloads.
    """
    shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.png"))
    weights = target / "adapter_model.safetensors"
    save_file({name: tensor.half() for name, tensor in load_file(weights).items()}, weights)
    card = read_card(target)
    card.fingerprint = fingerprint([weights, target / "tokenizer.json"], card.temperature)
    write_card_with_hashes(card, target, card.files)


def _row(score: HeadlineScore) -> tuple[float, float, float]:
    return (np.nan, np.nan, np.nan) if score.abstained else score.probabilities


def _told(name: str) -> Callable[[int, int, float], None]:
    def tell(step: int, steps: int, loss: float) -> None:
        if step % 100 == 0 or step == steps:
            err.print(f"{name}: step {step} of {steps}, loss {loss:.3f}")

    return tell


if __name__ == "__main__":
    typer.run(build)
