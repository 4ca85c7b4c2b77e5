"""Method comparison: one split, the best learning rate per method, results saved in every format."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import msgspec
import pytest

pytest.importorskip("torch")

from models.cards import DatasetRecord
from models.sentiment.train.comparison import COLUMNS, MethodComparison, compare, save
from models.sentiment.train.datasets import Example
from models.sentiment.train.methods.recipe import Recipe
from models.sentiment.train.splits import Fractions, make_split

pytestmark = pytest.mark.train

RECORD = DatasetRecord(name="own.csv", format="csv", sha256="0" * 64, rows=144)


@pytest.mark.slow
def test_methods_and_baselines_are_compared_in_one_table(
    headlines: tuple[Example, ...], tiny_bases: dict[str, Path], tmp_path: Path
) -> None:
    split = make_split(headlines, Fractions(0.1, 0.1, 0.2))
    told: list[str] = []

    def run(baselines: bool) -> MethodComparison:
        recipe = Recipe(epochs=1, rank=2)
        return compare(
            ["lora"],
            split,
            [RECORD],
            tmp_path,
            base=str(tiny_bases["mean"]),
            recipe=recipe,
            sweep_rows=40,
            baselines=baselines,
            on_status=told.append,
        )

    found = run(baselines=True)
    assert [row.method for row in found.rows] == ["majority", "tf-idf + logistic", "frozen + linear", "lora"]
    lora = found.rows[-1]
    assert len(lora.swept) == 3, "the sweep tried three learning rates"
    assert lora.learning_rate == float(min(lora.swept, key=lambda rate: lora.swept[rate]))
    assert lora.peak_memory
    assert lora.ms > 0
    majority, words = (row.metrics for row in found.rows[:2])
    assert majority["mcc"].value == 0
    assert words["macro_f1"].value > majority["macro_f1"].value, "the verb decides, and words see it"

    saved = {path.suffix: path for path in save(found, tmp_path)}
    assert msgspec.convert(json.loads(saved[".json"].read_text()), MethodComparison) == found
    assert [row["method"] for row in csv.DictReader(saved[".csv"].open())] == [
        row.method for row in found.rows
    ]
    assert saved[".md"].read_text().count("\n|") == len(found.rows) + 2
    assert saved[".png"].read_bytes().startswith(b"\x89PNG")
    assert all(name in saved[".md"].read_text() for name in COLUMNS)

    trainings = sum("rows" in what for what in told)
    again = run(baselines=False).rows[0]
    assert msgspec.structs.replace(again, ms=lora.ms) == lora
    assert sum("rows" in what for what in told) == trainings, "what is finished is not trained again"
