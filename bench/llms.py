"""Compares language models as sentiment models with the starter and a fine-tuned encoder.

    python -m bench.llms [--rows starter,smollm2-lora] [--minutes 60] [--data ../shared/data]

Each row is trained on the same sample of the labelled wire (before the starter's `LEARNED_UNTIL`), calibrated
on the month after, exported as int8 ONNX, and measured as it is served: on the wire of the month after that,
on samples of TFNS (of the part that the starter held out) and of PhraseBank. A row is written when it is
done; started again, the program goes on with those that are missing. `--minutes` begins no row after so long.
Rows run one after the other, each in its own process. `--time` takes the times of all rows again, in one go.
Writes bench/results/llms.json and .md.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from agent.system.atomic import write_bytes
from models.cards import DatasetRecord
from models.classification_metrics import estimates
from models.sentiment import model_dir
from models.sentiment.train.datasets import Example, load
from models.sentiment.train.evaluation import as_array, class_indices
from models.sentiment.train.splits import Split, make_split
from tools.starter_periods import CALIBRATED_UNTIL, FRACTIONS, KNOWN_UNTIL, LEARNED_UNTIL, SPLIT_SEED

ROOT: Final = Path(__file__).parents[1]
TIMED: Final = 100
KEPT: Final = ("accuracy", "macro_f1", "ece")
SEED: Final = 42


class Row(NamedTuple):
    """What is trained. Without a method the starter is measured as it ships."""

    name: str
    base: str = ""
    method: str = ""
    head: str = "linear"
    shots: int = 0
    epochs: float | None = None
    learning_rate: float | None = None


ROWS: Final = (
    Row("starter"),
    Row("minilm-lora", "embedded", "lora", epochs=4),
    Row("smollm2-zero-shot", "smollm2", "none", "words"),
    Row("smollm2-few-shot", "smollm2", "none", "words", shots=8),
    Row("smollm2-lora", "smollm2", "lora", "words", epochs=1, learning_rate=1e-3),
    Row("smollm2-qlora", "smollm2", "qlora", "words", epochs=1, learning_rate=1e-3),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", default=",".join(row.name for row in ROWS))
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--time", action="store_true", help="take the times of all rows again")
    parser.add_argument("--train-rows", type=int, default=1_500)
    parser.add_argument("--sample", type=int, default=500, help="most texts of a set that are measured")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, default=ROOT / "var" / "llms")
    parser.add_argument("--output", type=Path, default=ROOT / "bench" / "results")
    args = parser.parse_args()
    path = args.output / "llms.json"
    found = json.loads(path.read_bytes()) if path.is_file() else {"rows": {}}
    began = time.monotonic()
    for row in ROWS:
        late = time.monotonic() - began > args.minutes * 60
        if row.name not in args.rows.split(",") or row.name in found["rows"] or late:
            continue
        print(row.name, flush=True)
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            job = pool.submit(
                measure_row, row, args.data / "sentiment", args.work, args.train_rows, args.sample
            )
            found["rows"][row.name] = job.result()
        save(found, args.output)
    if args.time:
        time_rows(found["rows"], args.data / "sentiment", args.work)
        save(found, args.output)
    print(json.dumps(found))


def save(found: dict[str, Any], output: Path) -> None:
    """Write the rows and their tables."""
    found["machine"] = machine()
    output.mkdir(parents=True, exist_ok=True)
    write_bytes(output / "llms.json", json.dumps(found, indent=1).encode() + b"\n")
    write_bytes(output / "llms.md", markdown(found).encode())


def time_rows(rows: dict[str, Any], data: Path, work: Path) -> None:
    """Take each row's time again if its model is at hand."""
    from models.sentiment.serve.scorer import Scorer

    texts = [example.text for example in read_sets(data, 1, TIMED)[0].test]
    for name, row in rows.items():
        folder = work / f"{name}-onnx" if row["method"] else model_dir(name)
        if folder.is_dir():
            row["ms"] = latency(Scorer.load(folder, threads=1), texts)


def machine() -> str:
    """Return the processor's name and the number of cores in use."""
    from models.sentiment.serve.scorer import cores

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "CPU")
    return f"{name}, {cores()} cores"


# -- the sets ------------------------------------------------------------------------------------------


def sample(examples: Sequence[Example], count: int) -> tuple[Example, ...]:
    """Draw `count` examples in random order; all of them if there are fewer."""
    order = np.random.default_rng(SEED).permutation(len(examples))[:count]
    return tuple(examples[row] for row in order)


def read_sets(
    data: Path, train_rows: int, most: int
) -> tuple[Split, DatasetRecord, dict[str, tuple[Example, ...]]]:
    """Return the wire's split, its record, and the measured sets by name."""
    wire = load(data / "wire/labelled.parquet", "wire")
    marks = [int(mark.timestamp() * 1000) for mark in (LEARNED_UNTIL, CALIBRATED_UNTIL, KNOWN_UNTIL)]
    learned, calibrating, measured = (
        [example for example in wire.examples if low <= (example.ts or 0) < high]
        for low, high in zip([0, *marks], marks, strict=False)
    )
    split = Split(
        train=sample(learned, train_rows),
        validation=(),
        calibration=sample(calibrating, most),
        test=sample(measured, most),
        by_time=True,
    )
    tfns = load(data / "tfns/sent_train.csv", "tfns").examples
    held_out = make_split(tfns, FRACTIONS, seed=SPLIT_SEED, stratified=True).test
    phrasebank = load(data / "phrasebank/Sentences_50Agree.txt", "phrasebank").examples
    sets = {
        f"wire, {CALIBRATED_UNTIL:%B %Y}": split.test,
        "TFNS": sample(held_out, most),
        "PhraseBank 50Agree": sample(phrasebank, most),
    }
    return split, wire.record, sets


# -- a row ---------------------------------------------------------------------------------------------


def measure_row(row: Row, data: Path, work: Path, train_rows: int, most: int) -> dict[str, Any]:
    """Train, export and measure a row; runs in a child process."""
    from models.sentiment.serve.scorer import Scorer

    split, record, sets = read_sets(data, train_rows, most)
    found: dict[str, Any] = row._asdict()
    if row.method:
        folder = work / f"{row.name}-onnx"
        found |= train_row(row, split, record, work / row.name, folder)
    else:
        folder = model_dir(row.name)
    scorer = Scorer.load(folder, threads=1)
    found["sets"] = {name: measure_set(scorer, examples) for name, examples in sets.items()}
    found["ms"] = latency(scorer, [example.text for example in split.test[:TIMED]])
    found["mb"] = round((folder / "model.onnx").stat().st_size / 1e6, 1)
    return found


def latency(scorer: Any, texts: Sequence[str]) -> float:
    """Return the median time of one headline alone, ms."""
    taken = []
    for text in texts:
        began = time.perf_counter()
        scorer.score([text])
        taken.append((time.perf_counter() - began) * 1e3)
    return round(float(np.median(taken)), 1)


def train_row(row: Row, split: Split, record: DatasetRecord, trained: Path, folder: Path) -> dict[str, Any]:
    """Train and export; return what the training cost and what the export changed."""
    from models.sentiment.train import silence_warnings

    silence_warnings()
    from models.sentiment.train.methods.recipe import parse
    from models.sentiment.train.onnx_export import export_model, reference_texts
    from models.sentiment.train.trainer import bf16_supported
    from models.sentiment.train.training import train

    bf16 = bf16_supported() and row.base != "embedded"
    recipe = parse(
        method=row.method,
        head=row.head,
        shots=row.shots,
        epochs=row.epochs,
        learning_rate=row.learning_rate,
        bf16=bf16,
        seed=SEED,
    )
    fewer = Split(split.train, (), split.calibration, split.test[:32], split.by_time)
    began, cpu = time.monotonic(), time.process_time()
    done = train(recipe, fewer, [record], trained, base=row.base, progress=_progress(row.name))
    minutes, cpu_minutes = (time.monotonic() - began) / 60, (time.process_time() - cpu) / 60
    card = export_model(trained, folder, reference=reference_texts()[:60], overwrite=True)
    return {
        "trainable": done.trainable,
        "train_rows": len(split.train) if done.trainable else row.shots,
        "minutes": round(minutes, 1),
        "cpu_minutes": round(cpu_minutes, 1),
        "peak_mb": round(done.peak_memory / 1e6),
        "losses": done.losses,
        "bf16": bf16,
        "temperature": round(card.temperature, 3),
        "same_label_as_torch": card.notes["export_same_prediction"],
        "base_released": card.base_released,
        "label_words": list(card.template.words) if card.template else [],
    }


def _progress(name: str) -> Any:
    def show(step: int, steps: int, loss: float) -> None:
        if step % 10 == 0:
            print(f"{name}: step {step} of {steps}, loss {loss:.3f}", flush=True)

    return show


def measure_set(scorer: Any, examples: Sequence[Example]) -> dict[str, Any]:
    """Return figures with 95 % intervals."""
    probabilities = as_array(scorer.score([example.text for example in examples]))
    metrics = estimates(probabilities, class_indices(examples))
    return {"n": len(examples)} | {
        name: [round(part, 4) for part in (metrics[name].value, metrics[name].low, metrics[name].high)]
        for name in KEPT
    }


def markdown(found: dict[str, Any]) -> str:
    """Format the tables."""
    rows = [found["rows"][row.name] for row in ROWS if row.name in found["rows"]]
    names = list(rows[0]["sets"])
    cost = ("row", "trainable", "trained on", "minutes", "CPU min", "peak MB", "MB", "ms", "as in torch")
    lines = [
        f"Measured as served (int8 ONNX, one thread) on {found['machine']}; one seed, no sweep. Accuracy, "
        "macro-F1, ECE; ± is half the 95 % bootstrap interval of the accuracy.",
        "",
        "| row | " + " | ".join(f"{name} ({rows[0]['sets'][name]['n']})" for name in names) + " |",
        "|---" * (len(names) + 1) + "|",
    ]
    for row in rows:
        cells = []
        for name in names:
            accuracy, low, high = row["sets"][name]["accuracy"]
            rest = ", ".join(f"{row['sets'][name][key][0]:.3f}" for key in KEPT[1:])
            cells.append(f"{accuracy:.3f} ±{(high - low) / 2:.3f}, {rest}")
        lines.append(f"| {row['name']} | " + " | ".join(cells) + " |")
    lines += ["", "| " + " | ".join(cost) + " |", "|---" * len(cost) + "|"]
    for row in rows:
        keys = (
            "trainable",
            "train_rows",
            "minutes",
            "cpu_minutes",
            "peak_mb",
            "mb",
            "ms",
            "same_label_as_torch",
        )
        lines.append(f"| {row['name']} | " + " | ".join(_cell(row.get(key)) for key in keys) + " |")
    lines += [
        "",
        "`ms`: one headline alone, median, other work on the machine included. The wire's test month lies "
        "before the release of SmolLM2, which may have read of its events; the starter and MiniLM have not.",
        "",
    ]
    for row in rows:
        if row.get("losses"):
            curve = ", ".join(f"{step}: {loss:.2f}" for step, loss in row["losses"])
            lines.append(f"Training loss of {row['name']} by step: {curve}.")
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


if __name__ == "__main__":
    main()
