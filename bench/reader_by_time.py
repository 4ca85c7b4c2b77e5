"""Measures how a reader that learned until 2022 reads 2023, and entities of finance headlines it hasn't seen.

    python -m bench.reader_by_time [--data ../shared/data] [--base embedded] [--epochs 3] [--work var/by_time]

One reader of the embedded base, without teachers, learns the labelled wire until September 2022 and four
fifths of SEntFiN (near-duplicates on one side); its temperatures are fitted on the wire of the rest of 2022.
It is measured, as an int8 export, on the wire of 2023 and on the other fifth of SEntFiN. Writes
bench/results/reader_by_time.json and .md and prints the JSON. An interrupted training continues; a finished
export in --work is measured again without training.
"""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, cast

from sklearn.model_selection import GroupShuffleSplit

from agent.core.symbols import AssetFinder
from agent.system.atomic import write_bytes
from bench.reader import ROOT, TIMED, entity_row, speed, wire_rows
from bench.reader_tables import markdown
from models.sentiment.serve.scorer import MODEL_NAME, Scorer
from models.sentiment.train import silence_warnings
from models.sentiment.train.bases import EMBEDDED
from models.sentiment.train.datasets.asset_labels import AssetExample, EntityFinder, load_assets
from models.sentiment.train.reader.reader_build import AssetSplit, train_reader
from models.sentiment.train.reader.reader_training import ReaderRecipe
from models.sentiment.train.splits import story_groups
from models.sentiment.train.trainer import bf16_supported

LEARNED_UNTIL: Final = datetime(2022, 10, 1, tzinfo=UTC)
TESTED_FROM: Final = datetime(2023, 1, 1, tzinfo=UTC)
SEED: Final = 42
HELD_OUT: Final = 0.2
"""Share of SEntFiN that is measured."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--base", default=EMBEDDED)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("var/by_time"))
    parser.add_argument("--output", type=Path, default=ROOT / "bench" / "results")
    given = parser.parse_args()
    silence_warnings()
    wire = load_assets(given.data / "sentiment/wire/labelled.parquet", "wire")
    sentfin = load_assets(given.data / "sentiment/sentfin.csv", "sentfin")
    seen, unseen = entities(sentfin.examples)
    split = AssetSplit(
        [row for row in wire.examples if is_before(row, LEARNED_UNTIL)] + seen,
        [row for row in wire.examples if not is_before(row, LEARNED_UNTIL) and is_before(row, TESTED_FROM)],
        [row for row in wire.examples if not is_before(row, TESTED_FROM)],
    )
    folder = given.work / "reader"
    if not (folder / MODEL_NAME).is_file():
        recipe = ReaderRecipe(epochs=given.epochs, bf16=bf16_supported(), seed=SEED)
        train_reader([wire, sentfin], split, recipe, folder, base=given.base)
    result = measure(folder, split.test, unseen)
    result |= {"learned": {"wire": len(split.train) - len(seen), "sentfin": len(seen)}}
    given.output.mkdir(parents=True, exist_ok=True)
    write_bytes(given.output / "reader_by_time.json", json.dumps(result, indent=1).encode() + b"\n")
    title = "# A reader that learned until 2022, on headlines of 2023"
    write_bytes(
        given.output / "reader_by_time.md", markdown(result, title, "bench/reader_by_time.py").encode()
    )
    print(json.dumps(result))


def is_before(row: AssetExample, moment: datetime) -> bool:
    """True if the headline was published before `moment`."""
    return (row.ts or 0) < moment.timestamp() * 1000


def entities(examples: tuple[AssetExample, ...]) -> tuple[list[AssetExample], list[AssetExample]]:
    """Return the headlines of SEntFiN to learn from and those to measure on; a story is on one side."""
    cut = GroupShuffleSplit(1, test_size=HELD_OUT, random_state=SEED)
    learned, measured = next(cut.split(examples, groups=story_groups([row.text for row in examples])))
    return [examples[row] for row in learned], [examples[row] for row in measured]


def measure(folder: Path, wire: list[AssetExample], sentfin: list[AssetExample]) -> dict[str, Any]:
    """Return the rows of the export in `folder`."""
    scorer = Scorer.load(folder)
    finder = cast(AssetFinder, EntityFinder(tuple(sentfin)))
    own = Scorer.load(folder, finder=finder)
    rows = wire_rows(scorer, wire, "held out", f"{TESTED_FROM:%Y-%m-%d}")
    rows.append(entity_row(own, sentfin, "held out"))
    card = scorer.card
    return {
        "model": card.fingerprint[:12],
        "method": card.method,
        "trained_until": f"{LEARNED_UNTIL:%Y-%m-%d}",
        "rows": [row | {"published": ""} for row in rows],
        "missing": [],
        "speed": speed(scorer, [row.text for row in wire[:TIMED]]),
        "model_mb": round((folder / MODEL_NAME).stat().st_size / 1e6, 1),
        "folder_mb": round(sum(file.stat().st_size for file in folder.iterdir() if file.is_file()) / 1e6, 1),
    }


if __name__ == "__main__":
    main()
