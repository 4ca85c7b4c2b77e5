"""Fine-tune a language model for financial sentiment with LoRA, export it and generate signals.

    # A demonstration on 240 texts, about a minute
    python examples/01_finetune_sentiment.py

    # All labelled headlines of the project, minutes on a CPU
    python examples/01_finetune_sentiment.py --full

    # Your own data and base model
    python examples/01_finetune_sentiment.py --full --data mine.csv --base ProsusAI/finbert

The data is a CSV file with the columns text and label (bearish, neutral, bullish).
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from models.sentiment.train import silence_warnings
from models.sentiment.train.datasets import Options, load
from models.sentiment.train.methods.recipe import Recipe
from models.sentiment.train.onnx_export import CORPUS, export_model
from models.sentiment.train.splits import Fractions, make_split
from models.sentiment.train.training import train
from tapewire import SentimentSignalGenerator


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="train on all texts with the default recipe")
    parser.add_argument("--texts", type=int, default=240, help="number of texts without --full")
    parser.add_argument("--data", type=Path, default=CORPUS)
    parser.add_argument("--base", default="embedded", help="embedded, a hub id, or a folder")
    parser.add_argument("--output", type=Path, default=Path("var/examples/sentiment"))
    args = parser.parse_args()

    silence_warnings()

    # 1. Load labelled text and split it into parts without common stories. The project's corpus describes no
    # real event, so it doesn't move the training cut-off.
    data = load(args.data, "csv", Options(eventless=args.data == CORPUS))
    examples = (
        data.examples
        if args.full
        else random.Random(1).sample(data.examples, min(args.texts, len(data.examples)))
    )
    split = make_split(examples, Fractions(validation=0.1, calibration=0.1, test=0.2), seed=42)
    print("texts:", split.sizes())

    # 2. Train with LoRA: small updates of the attention layers; the weights of the base don't change.
    recipe = (
        Recipe(method="lora")
        if args.full
        else Recipe(method="lora", rank=16, targets="all", learning_rate=2e-3, epochs=3, max_length=32)
    )
    trained = train(recipe, split, [data.record], args.output, base=args.base)
    print(f"trained {trained.trainable:,} of {trained.parameters:,} weights in {trained.seconds:.0f} s")
    for name in ("accuracy", "macro_f1"):
        found = trained.card.metrics["test"][name]
        print(f"  {name:8} {found.value:.3f}  (95 %: {found.low:.3f} to {found.high:.3f})")

    # 3. Export to ONNX, which runs without torch. The card records the data and the settings.
    served = args.output.with_name(args.output.name + "-onnx")
    export_model(args.output, served, overwrite=True)

    # 4. Generate signals.
    generator = SentimentSignalGenerator.from_pretrained(served)
    for text in (
        "Exchange halts withdrawals after a hack",
        "Regulator approves the fund",
        "Council meets in spring",
    ):
        signal = generator.generate_signal(text)
        print(
            f"{signal.prediction.value:4} {signal.confidence:4.0%}{'' if signal.actionable else ' (unsure)'} "
            f" {text}"
        )
    print(f"next: python examples/03_backtest_finetuned_model.py --model {served}")


if __name__ == "__main__":
    main()
