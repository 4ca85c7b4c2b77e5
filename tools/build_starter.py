"""Build the starter model from public data (`make starter`).

1. Teachers: full fine-tuning of a larger base (all-mpnet-base-v2), one teacher per seed, on the labelled wire
   (headline, named assets, kind of news) and on entities of SEntFiN.
2. Students: the embedded base (22.7 M weights), fine-tuned twice. They learn the labels of all sets, and the
   mean answers of the teachers to the wire, to crypto headlines without labels, and (the second) to SEntFiN.
   A last epoch finishes each of them, and their mean; the weights that ship are the mean of these three
   (Wortsman and others 2022), which reads sets that it was not trained on better than any of them.
3. Calibration: one temperature each for headline, assets and kind. They are fitted on labelled headlines of a
   later month than any that was learned from and measured on the month after; those that ship are fitted on
   both months.

Nothing after `KNOWN_UNTIL` is read, so later headlines can judge. Sets whose terms forbid training
(PhraseBank, CryptoLin) are not read at all; `bench/reader.py` measures on them. Each step leaves its result
in `--work`; an interrupted build continues where it stopped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import msgspec
import numpy as np
import pandas as pd
import torch
import typer
from torch import Tensor

from agent.cli.console import err, out
from agent.core.symbols import AssetFinder
from agent.system.atomic import replaced_file
from models.cards import Card, DatasetRecord, latest_of, sha256_files, write_card
from models.sentiment import starter_dir
from models.sentiment.serve.headline_text import clean
from models.sentiment.serve.scorer import fingerprint
from models.sentiment.train.bases import EMBEDDED, load_base
from models.sentiment.train.datasets import Example, Options, load, record_of
from models.sentiment.train.datasets.asset_labels import AssetExample, AssetTarget, load_assets
from models.sentiment.train.onnx_export import CORPUS, reference_texts
from models.sentiment.train.reader.reader_batches import TokenisedHeadline, tokenise
from models.sentiment.train.reader.reader_build import MAX_LENGTH, base_card
from models.sentiment.train.reader.reader_export import export_reader
from models.sentiment.train.reader.reader_folder import WEIGHTS, load_reader, save_reader
from models.sentiment.train.reader.reader_measure import calibrate, measure_export, measure_reference
from models.sentiment.train.reader.reader_network import HeadlineReader
from models.sentiment.train.reader.reader_training import (
    ReaderAnswers,
    ReaderRecipe,
    ReaderSet,
    answers_of,
    fit_reader,
    mean_answers,
)
from models.sentiment.train.splits import make_split, story_key
from models.sentiment.train.trainer import bf16_supported
from tools import synthetic_headlines as grammar
from tools.mpnet_base import mpnet_base
from tools.starter_periods import CALIBRATED_UNTIL, FRACTIONS, KNOWN_UNTIL, LEARNED_UNTIL, SPLIT_SEED
from tools.synthetic_headlines import statements

STARTER_FOLDER: Final = starter_dir()
TEACHER: Final = ReaderRecipe(epochs=3, learning_rate=5e-5, frozen_layers=2)
TEACHER_ENTITIES: Final = 0.3
"""Share of SEntFiN that a teacher reads in an epoch."""
STUDENT: Final = ReaderRecipe(epochs=3, learning_rate=2.5e-4)
METRICS: Final = frozenset(("accuracy", "macro_f1", "ece"))
"""Metrics that a build prints."""
SHARES: Final = {"wire": 1.0, "headlines": 0.8, "tfns": 0.4, "fiqa": 1.0, "corpus": 1.0}
"""Share of each set that a student reads in an epoch; that of SEntFiN is `Student.entities`."""
FINISH: Final = ReaderRecipe(epochs=1, learning_rate=1e-4, head_learning_rate=3e-4, seed=43)
FINISHING_SHARES: Final = {"wire": 1.0, "headlines": 0.3, "tfns": 1.0, "fiqa": 1.0, "corpus": 1.0}
"""A last epoch reads more tweets; with the shares above the student learns too little of their language. It
reads half of the share of SEntFiN.
"""


class Student(NamedTuple):
    """One of the students, whose weights are averaged."""

    name: str
    entities: float
    """Share of SEntFiN that it reads in an epoch."""
    taught: tuple[str, ...]
    """Sets to which it also learns the teachers' answers."""
    teachers: int | None = None
    """Number of teachers whose mean answers it learns; None: all."""


STUDENTS: Final = (
    Student("student-a", 0.3, ("wire", "headlines"), teachers=1),
    Student("student-b", 0.6, ("wire", "headlines", "sentfin")),
)
STATEMENTS: Final = 1_800
COMPOSED: Final = DatasetRecord(
    name="statements",
    format="grammar",
    sha256=sha256_files([Path(grammar.__file__)]),
    rows=STATEMENTS,
    basis="eventless (by chance)",
)


class Material(msgspec.Struct, frozen=True):
    """What the build reads. `learned` are sets by name; `records` are those of the card."""

    learned: dict[str, list[AssetExample]]
    calibrating: list[AssetExample]
    measuring: list[AssetExample]
    held_out: dict[str, list[AssetExample]]
    records: tuple[DatasetRecord, ...]


def build(
    data: Annotated[Path, typer.Option(help="Folder of the public datasets.")] = Path("../shared/data"),
    output: Annotated[Path, typer.Option(help="Folder of the finished model.")] = STARTER_FOLDER,
    work: Annotated[Path, typer.Option(help="Folder of the steps' results.")] = Path("var/starter"),
    teachers: Annotated[int, typer.Option(min=0, help="Number of teachers; their answers are averaged.")] = 2,
    teacher_base: Annotated[str, typer.Option(help="Base of the teachers: mpnet, embedded or a folder.")] = (
        "mpnet"
    ),
) -> None:
    """Train the teachers and the students, calibrate, export and measure."""
    material = read_material(data)
    folders: list[Path] = []
    if teachers:
        base = str(mpnet_base(work / "mpnet")) if teacher_base == "mpnet" else teacher_base
        folders = [
            _teacher(work / f"teacher-{seed}", base, material, seed)
            for seed in range(TEACHER.seed, TEACHER.seed + teachers)
        ]
    model, tokenizer, card = _students(work, material, folders)
    card.datasets, card.trained_until = material.records, latest_of(material.records)
    card.notes = {"teachers": teachers, "teacher_base": teacher_base if teachers else ""}
    calibrating, measuring = (_rows(part, tokenizer) for part in (material.calibrating, material.measuring))
    calibrate(card, answers_of(model, calibrating), calibrating)
    export_reader(model, tokenizer, card, output, reference=reference_texts())
    measure_export(card, output, {"wire": material.measuring, **material.held_out})
    # What was measured is the temperature of one month; what ships is that of both, which knows more
    calibrate(card, answers_of(model, [*calibrating, *measuring]), [*calibrating, *measuring])
    card.fingerprint = fingerprint(output, card)
    write_card(card, output)
    measure_reference(card, output, [row.text for row in (*material.calibrating, *material.measuring)])
    for name, found in card.metrics.items():
        values = (f"{metric} {found[metric].value:.3f}" for metric in METRICS & found.keys())
        out.print(f"{name}: {', '.join(sorted(values))}")


def read_material(data: Path) -> Material:
    """Read all sets and separate what is learned, what calibrates and what measures."""
    path = data / "sentiment/wire/labelled.parquet"
    known = [row for row in load_assets(path, "wire").examples if (row.ts or 0) < ms(KNOWN_UNTIL)]
    entities = load_assets(data / "sentiment/sentfin.csv", "sentfin")
    unlabelled, record = _headlines(data / "news/crypto-headlines-2018-2023.parquet", known)
    learned = {
        "wire": [row for row in known if (row.ts or 0) < ms(LEARNED_UNTIL)],
        "sentfin": list(entities.examples),
        "headlines": unlabelled,
    }
    later = [row for row in known if (row.ts or 0) >= ms(LEARNED_UNTIL)]
    held_out: dict[str, list[AssetExample]] = {}
    records = [record_of(path, "wire", None, known), entities.record, record]
    for name, (path, format, options) in {
        "tfns": (data / "sentiment/tfns/sent_train.csv", "tfns", Options()),
        "fiqa": (data / "sentiment/fiqa/task1_post_ABSA_train.json", "fiqa", Options()),
        "corpus": (CORPUS, "csv", Options(eventless=True)),
    }.items():
        found = load(path, format, options)
        split = make_split(found.examples, FRACTIONS, seed=SPLIT_SEED, stratified=True)
        learned[name] = as_assets(split.train)
        held_out[name] = as_assets(split.test)
        records.append(found.record)
    unplaced = sum(not target.spans for row in learned["wire"] for target in row.targets)
    err.print(f"wire: {unplaced:,} labels of assets whose names aren't in the headline teach nothing")
    learned["corpus"] += as_assets(statements(STATEMENTS, SPLIT_SEED))
    return Material(
        learned,
        [row for row in later if (row.ts or 0) < ms(CALIBRATED_UNTIL)],
        [row for row in later if (row.ts or 0) >= ms(CALIBRATED_UNTIL)],
        held_out,
        (*records, COMPOSED),
    )


def as_assets(examples: Sequence[Example]) -> list[AssetExample]:
    """Return examples of a set without labels of assets."""
    return [AssetExample(example.text, example.label, ts=example.ts) for example in examples]


def ms(moment: datetime) -> int:
    """Return UTC ms."""
    return int(moment.timestamp() * 1000)


def _headlines(path: Path, labelled: Sequence[AssetExample]) -> tuple[list[AssetExample], DatasetRecord]:
    """Return distinct headlines without labels that were published before `LEARNED_UNTIL`.

    Those of the same story as a labelled headline are left out.
    """
    frame = pd.read_parquet(path, columns=["published_at", "title"])
    frame = frame[frame["published_at"] < LEARNED_UNTIL]
    texts = dict.fromkeys(frame["title"].map(clean))
    stories = {story_key(example.text) for example in labelled}
    finder = AssetFinder()
    examples = [
        AssetExample(
            text,
            None,
            targets=tuple(AssetTarget(asset, spans, "") for asset, spans in finder.find(text).items()),
        )
        for text in texts
        if text and story_key(text) not in stories
    ]
    record = DatasetRecord(
        name=path.name,
        format="headlines without labels",
        sha256=hashlib.sha256("\n".join(example.text for example in examples).encode()).hexdigest(),
        rows=len(examples),
        latest=ms(LEARNED_UNTIL),
        basis="dated rows",
    )
    return examples, record


def _rows(examples: Sequence[AssetExample], tokenizer: Any) -> list[TokenisedHeadline]:
    return tokenise(examples, tokenizer, MAX_LENGTH)


def _teacher(folder: Path, base: str, material: Material, seed: int) -> Path:
    if not (folder / WEIGHTS).is_file():
        torch.manual_seed(seed)
        loaded = load_base(base)
        model = HeadlineReader(loaded.encoder)
        sets = [
            ReaderSet(_rows(material.learned["wire"], loaded.tokenizer)),
            ReaderSet(_rows(material.learned["sentfin"], loaded.tokenizer), TEACHER_ENTITIES),
        ]
        recipe = msgspec.structs.replace(TEACHER, seed=seed)
        _fit(model, loaded.tokenizer, sets, recipe, folder)
    return folder


def _fit(
    model: HeadlineReader, tokenizer: Any, sets: Sequence[ReaderSet], recipe: ReaderRecipe, folder: Path
) -> None:
    """Train a model that continues from a checkpoint beside `folder`, and save it there."""
    checkpoint = folder.with_name(folder.name + ".checkpoint")
    recipe = msgspec.structs.replace(recipe, bf16=bf16_supported())
    pad = tokenizer.pad_token_id
    fit_reader(model, sets, recipe, checkpoint, pad=pad, progress=_print_progress(folder.name))
    save_reader(model, tokenizer, folder)
    checkpoint.unlink(missing_ok=True)


def _answers(teachers: Sequence[Path], material: Material, name: str, work: Path) -> ReaderAnswers:
    """Return the mean answers of the teachers to one set, from the file of an earlier call if it is there."""
    examples = material.learned[name]
    texts = hashlib.sha256("\n".join(example.text for example in examples).encode()).hexdigest()
    found = []
    for folder in teachers:
        path = work / f"{folder.name}-{name}-{texts[:8]}.npz"
        if not path.is_file():
            model, tokenizer = load_reader(folder)
            err.print(f"{folder.name} answers {len(examples):,} texts of {name}")
            answers = answers_of(
                model, _rows(examples, tokenizer), pad=tokenizer.pad_token_id, bf16=bf16_supported()
            )
            counts = [len(own) for own in answers.asset_logits]
            with replaced_file(path) as file:
                np.savez(
                    file,
                    logits=answers.logits,
                    kinds=answers.kind_logits,
                    assets=np.concatenate(answers.asset_logits),
                    counts=counts,
                )
        with np.load(path) as stored:
            parts = np.split(stored["assets"], np.cumsum(stored["counts"])[:-1])
            found.append(ReaderAnswers(stored["logits"], stored["kinds"], tuple(parts)))
    return mean_answers(found)


def _students(work: Path, material: Material, teachers: Sequence[Path]) -> tuple[HeadlineReader, Any, Card]:
    """Return the mean of the finished students, its tokenizer and a card of its base; train what `work`
    lacks.
    """
    torch.manual_seed(STUDENT.seed)
    base = load_base(EMBEDDED)
    card = base_card(base, STUDENT, "distilled" if teachers else "full")
    sets: list[ReaderSet] = []
    for student in STUDENTS:
        taught = {
            name: _answers(teachers[: student.teachers], material, name, work)
            for name in (student.taught if teachers else ())
        }
        folder = work / student.name
        if not (folder / WEIGHTS).is_file():
            torch.manual_seed(STUDENT.seed)
            fresh = load_base(EMBEDDED)
            shares = SHARES | {"sentfin": student.entities}
            learned = _student_sets(material, fresh.tokenizer, taught, shares)
            _fit(HeadlineReader(fresh.encoder), fresh.tokenizer, learned, STUDENT, folder)
        shares = FINISHING_SHARES | {"sentfin": student.entities / 2}
        sets = _student_sets(material, base.tokenizer, taught, shares)
        _finish(work / f"{student.name}-finished", [folder], sets)
    folders = [work / student.name for student in STUDENTS]
    _finish(work / "student-mean-finished", folders, sets)
    finished = [work / f"{name}-finished" for name in (*(one.name for one in STUDENTS), "student-mean")]
    return *_mean_of(finished), card


def _finish(output: Path, folders: Sequence[Path], sets: Sequence[ReaderSet]) -> None:
    """Train the mean of the models in `folders` for the last epoch, unless `output` has the result."""
    if not (output / WEIGHTS).is_file():
        model, tokenizer = _mean_of(folders)
        _fit(model, tokenizer, sets, FINISH, output)


def _mean_of(folders: Sequence[Path]) -> tuple[HeadlineReader, Any]:
    """Return a reader whose weights are the mean of those in `folders`, and its tokenizer."""
    loaded = [load_reader(folder) for folder in folders]
    states = [model.state_dict() for model, _ in loaded]
    model, tokenizer = loaded[0]
    model.load_state_dict(mean_weights(states))
    return model, tokenizer


def mean_weights(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of each weight; what isn't a floating-point number is that of the first state."""
    return {
        name: torch.stack([state[name] for state in states]).mean(0) if first.is_floating_point() else first
        for name, first in states[0].items()
    }


def _student_sets(
    material: Material, tokenizer: Any, taught: dict[str, ReaderAnswers], shares: dict[str, float]
) -> list[ReaderSet]:
    return [
        ReaderSet(_rows(examples, tokenizer), shares[name], taught.get(name))
        for name, examples in material.learned.items()
        if taught or name != "headlines"
    ]


def _print_progress(name: str) -> Callable[[int, int, float], None]:
    def show(step: int, steps: int, loss: float) -> None:
        if step % 100 == 0 or step == steps:
            err.print(f"{name}: step {step} of {steps}, loss {loss:.3f}")

    return show


if __name__ == "__main__":
    typer.run(build)
