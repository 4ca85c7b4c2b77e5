"""`tapewire evaluate`, `compare`, `export` and `score`: measure, choose, ship and try sentiment models."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import msgspec
import typer
from rich.table import Table
from rich.text import Text

from agent.cli.command_options import ConfigFile, Json
from agent.cli.console import err, out, print_columns, print_json, print_text
from agent.cli.model_options import (
    FORMATS,
    BaseModel,
    ColumnOptions,
    DatasetOptions,
    load_datasets,
    needs_training_libraries,
)
from agent.cli.news_commands import export_news, export_sentiment
from agent.cli.typer_setup import PlainGroup, option
from agent.core.errors import UsageError
from agent.data.provenance import MAX_REASON, shown_reason, to_object
from agent.data.text import MAX_TITLE, one_line
from agent.system.fitted_table import Column, figures

if TYPE_CHECKING:
    from models.sentiment.serve.generator import AssetSignal, SentimentSignal, SentimentSignalGenerator

_BATCH: Final = 256  # texts per call of the model
_WIDE: Final = 80  # columns of a terminal that has room for the full names of the columns
_STYLES: Final = {"BUY": "green", "SELL": "red", "HOLD": "dim"}

BaseOfAdapter = Annotated[
    str | None, option("--base", "Base model of the adapter.", "NAME", "the one its card names")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (evaluate, compare, score):
        app.command(command.__name__)(command)
    exporter = typer.Typer(
        cls=_ExportGroup, help="Export a model, recorded headlines, or their scores.", no_args_is_help=True
    )
    exporter.command("model")(export)
    exporter.command("news")(export_news)
    exporter.command("sentiment")(export_sentiment)
    app.add_typer(exporter, name="export")


class _ExportGroup(PlainGroup):
    """Group in which `tapewire export ADAPTER FOLDER` means `tapewire export model ADAPTER FOLDER`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["model", *args]
        return super().parse_args(ctx, args)


def evaluate(
    data: Annotated[Path, option("--data", "File of labelled text.", "FILE")],
    format: Annotated[str, option("--format", f"{FORMATS}.", "NAME")],
    columns: ColumnOptions,
    adapter: Annotated[
        str, option("--adapter", "Model from `train sentiment` or `export`, or starter.", "FOLDER")
    ] = "starter",
    base: BaseOfAdapter = None,
    shots: Annotated[
        int | None,
        option(
            "--shots",
            "Measure --base untrained, by its own words, with so many examples of --data in its prompt.",
            default="measure --adapter",
            min=0,
            max=64,
        ),
    ] = None,
    resamples: Annotated[
        int, option("--resamples", "Bootstrap resamples of the confidence intervals.", min=100)
    ] = 1000,
    json: Json = False,
) -> None:
    """Measure a sentiment model on labelled text: accuracy, F1 and calibration, with 95 % intervals."""
    from models.sentiment import model_dir
    from models.sentiment.train.evaluation import evaluate as measure

    if shots is not None and base is None:
        raise UsageError("--shots measures a language model", hint="name it: --base smollm2")
    (dataset,) = load_datasets([data], [format], columns.loader_options())
    with err.status(f"scoring {len(dataset.examples):,} texts"):
        if base is not None and shots is not None:
            with needs_training_libraries():
                from models.sentiment.train import silence_warnings
                from models.sentiment.train.untrained import evaluate_untrained

                silence_warnings()
                found = evaluate_untrained(base, dataset, shots, resamples=resamples)
        else:
            found = measure(model_dir(adapter), dataset, base=base, resamples=resamples)
    if found["seen"]:
        err.print(f"[yellow]warning[/]: the model was trained on {data.name}, so these figures are too good")
    if json:
        print_json(found)
    else:
        _print_evaluation(found)


def compare(
    datasets: DatasetOptions,
    output: Annotated[
        Path, option("--output -o", "Where to write the tables, the plot and the adapters.", "FOLDER")
    ] = Path("var/compare"),
    methods: Annotated[
        str, option("--methods", "Methods to compare, separated by commas.", "NAMES", "all seven")
    ] = "lora,qlora,adalora,prefix,prompt,ptuning,full",
    base: BaseModel = "embedded",
    head: Annotated[
        str, option("--head", "linear: a new layer; words: a decoder's own logits of label words.", "NAME")
    ] = "linear",
    shots: Annotated[
        int, option("--shots", "Examples that the prompt of --head words shows.", min=0, max=64)
    ] = 0,
    sweep: Annotated[
        int, option("--sweep", "Training rows for the learning rate's search; 0: no search.", min=0)
    ] = 1000,
    epochs: Annotated[
        float | None, option("--epochs", "Epochs of every method.", default="each method's own")
    ] = None,
    targets: Annotated[
        str, option("--targets", "Layers with an adapter: auto (query, value), all, or names.", "NAMES")
    ] = "auto",
    test: Annotated[float, option("--test", "Share of the texts held out to measure on.")] = 0.2,
    jobs: Annotated[int, option("--jobs", "Methods trained at the same time.", min=1)] = 1,
    baselines: Annotated[
        bool, option("--baselines/--no-baselines", "Also measure majority class, TF-IDF and frozen base.")
    ] = True,
    seed: Annotated[int, option("--seed", "Seed of the split and of the training.")] = 42,
    json: Json = False,
) -> None:
    """Train several fine-tuning methods on the same split, and print their scores in one table."""
    from models.sentiment.train.splits import Fractions, make_split

    loaded = datasets.load()
    examples = [example for dataset in loaded for example in dataset.examples]
    split = make_split(examples, Fractions(test=test), seed=seed)
    with needs_training_libraries(), err.status("") as status:
        from models.sentiment.train import silence_warnings
        from models.sentiment.train.comparison import COLUMNS, cells, save
        from models.sentiment.train.comparison import compare as compare_methods
        from models.sentiment.train.methods import get_method
        from models.sentiment.train.methods.recipe import parse

        silence_warnings()
        found = compare_methods(
            [get_method(name.strip()).name for name in methods.split(",")],
            split,
            [dataset.record for dataset in loaded],
            output,
            base=base,
            recipe=parse(epochs=epochs, targets=targets, seed=seed, head=head, shots=shots),
            sweep_rows=sweep,
            baselines=baselines,
            jobs=jobs,
            on_status=lambda what: status.update(f"training {what}"),
        )
    paths = save(found, output)
    if json:
        print_json(found)
        return
    first, *others = COLUMNS
    print_columns(
        (Column(first), *figures(*others)),
        [cells(row) for row in found.rows],
        title=f"{found.sizes['test']:,} held-out texts of {', '.join(found.data)}",
    )
    print_text(f"saved: {', '.join(map(str, paths))}")


def export(
    adapter: Annotated[
        Path,
        typer.Argument(
            metavar="ADAPTER", help="Folder written by `tapewire train sentiment`.", show_default=False
        ),
    ],
    output: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="Folder to write: model.onnx, tokenizer.json, card.json.",
            show_default=False,
        ),
    ],
    base: BaseOfAdapter = None,
    quantise: Annotated[
        bool,
        option("--quantise/--no-quantise", "Use int8 weights and activations: for a CPU, not for a GPU."),
    ] = True,
    reference: Annotated[
        Path | None,
        option("--reference", "Texts, one per line, to compare both models on.", "FILE", "packaged texts"),
    ] = None,
    language_model: Annotated[
        bool,
        option(
            "--language-model",
            "Write the merged language model as safetensors instead, for vLLM and other servers.",
        ),
    ] = False,
    force: Annotated[bool, option("--force", "Overwrite an earlier export.")] = False,
    json: Json = False,
) -> None:
    """Convert a trained adapter to the ONNX model that the agent loads.

    The adapter is merged into its base, written as ONNX and quantised; then the difference to the trained
    model is measured.
    """
    if language_model:
        with needs_training_libraries(), err.status("exporting"):
            from models.sentiment.train.language_model_export import export_language_model

            written = export_language_model(adapter, output, base=base, overwrite=force)
        if json:
            print_json({"folder": str(output), "bytes": written})
        else:
            print_text(f"{output}: {written / 1e6:.1f} MB")
        return
    from models.sentiment.train.onnx_export import export_model, reference_texts

    with err.status("exporting"):
        texts = reference_texts(reference)
        card = export_model(adapter, output, base=base, quantise=quantise, reference=texts, overwrite=force)
    size = (output / "model.onnx").stat().st_size
    if json:
        print_json({"folder": str(output), "bytes": size, "fingerprint": card.fingerprint, **card.notes})
        return
    print_text(f"{output}: {size / 1e6:.1f} MB, fingerprint {card.fingerprint[:12]}")
    for name, value in card.notes.items():
        if name.startswith("export_"):
            print_text(f"  {name.removeprefix('export_').replace('_', ' ')}: {value}")


def score(
    texts: Annotated[
        list[str] | None,
        typer.Argument(metavar="TEXT", help="Headlines.", show_default="lines of standard input"),
    ] = None,
    model: Annotated[
        str,
        option("--model -m", "Exported model, starter, openai:URL#MODEL or ensemble:FOLDER.", "MODEL"),
    ] = "starter",
    threshold: Annotated[
        float | None,
        option(
            "--threshold",
            "Calibrated confidence from which a score is actionable.",
            default="the model's own",
        ),
    ] = None,
    threads: Annotated[
        int | None, option("--threads", "Texts scored at the same time.", default="all cores", min=1)
    ] = None,
    device: Annotated[str, option("--device", "cpu or cuda, for an exported model.", "NAME")] = "cpu",
    config: ConfigFile = None,
    json: Annotated[bool, option("--json", "Print one JSON object per text.")] = False,
    together: Annotated[bool, option("--together", "With --json, print one object with all texts.")] = False,
) -> None:
    """Score headlines: calibrated probabilities of bearish, neutral and bullish.

    A model that reads single assets also scores each coin that a headline names, and names the kind of news.
    A language model is queried as the configuration's [llm] states; its answers are printed with --json.
    """
    from models.sentiment.scorer_facts import close_scorer, notes_on_answers

    generator = _generator(model, threshold, threads, device, config)
    if not texts and sys.stdin.isatty():
        err.print("one text per line; Ctrl-D ends")
    rows: list[dict[str, Any]] = []
    try:
        for chunk in _chunks(texts or _lines()):
            signals = generator.batch_signals(chunk)
            if not json:
                _print_scores(chunk, signals)
                continue
            for text, signal in zip(chunk, signals, strict=True):
                row = {"text": text, **_fields(signal)}
                if together:
                    rows.append(row)
                else:
                    print_json(row)
        if json and together:
            print_json({"scores": rows})
        for note in notes_on_answers(generator.scorer):
            err.print(f"note: {note}", markup=False, soft_wrap=True)
    finally:
        close_scorer(generator.scorer)


def _generator(
    model: str, threshold: float | None, threads: int | None, device: str, config: Path | None
) -> SentimentSignalGenerator:
    from models.sentiment import is_local
    from models.sentiment.serve.generator import SentimentSignalGenerator, SignalScorer

    if is_local(model):
        from models.sentiment.serve.scorer import providers_of

        return SentimentSignalGenerator.from_pretrained(
            model, threshold=threshold, threads=threads, providers=providers_of(device)
        )
    from agent.config import load
    from models.sentiment.open_scorer import open_scorer

    scorer = cast(SignalScorer, open_scorer(model, load(config), threads=threads))
    return SentimentSignalGenerator(scorer, threshold, model)


def _lines() -> Iterator[str]:
    for line in sys.stdin.buffer:
        yield line.decode("utf-8", "replace").rstrip("\r\n")


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(texts)
    while chunk := list(islice(rest, _BATCH)):
        yield chunk


def _fields(signal: SentimentSignal) -> dict[str, Any]:
    """Return the signal as JSON shows it: of an asset, only the probabilities."""
    assets = {
        asset: {label: getattr(own, label) for label in ("bearish", "neutral", "bullish")}
        for asset, own in signal.assets.items()
    }
    return msgspec.structs.asdict(signal) | {"assets": assets, "provenance": to_object(signal.provenance)}


def _print_scores(texts: Sequence[str], signals: Sequence[SentimentSignal]) -> None:
    names = ("confidence", "bearish", "neutral", "bullish")
    shown = (name[:4] for name in names) if out.width < _WIDE else names
    table = Table("", *shown, "text", box=None, header_style="dim")
    table.columns[0].no_wrap = True
    for column in table.columns[1:5]:
        column.justify = "right"
    for raw, signal in zip(texts, signals, strict=True):
        text = one_line(raw, MAX_TITLE)
        if signal.abstained:
            reason = one_line(signal.reason, MAX_REASON)
            table.add_row(Text("—", "dim"), "", "", "", "", Text(f"{text}  (abstained: {reason})", "dim"))
            continue
        # Beside the text, not in a column of its own, which would leave too little of 80 columns for the text
        kind = f"  ({signal.kind} {signal.kind_confidence:.2f})" if signal.kind else ""
        table.add_row(*_score_cells(signal), Text.assemble(text, (kind, "dim")))
        for asset, own in signal.assets.items():
            table.add_row(*_score_cells(own, indent="  "), Text(f"  {asset}"))
        if signal.provenance is not None:
            fallback = one_line(signal.provenance.fallback, MAX_REASON)
            for line in (f"by the fallback: {fallback}" if fallback else "", shown_reason(signal.provenance)):
                if line:
                    table.add_row("", "", "", "", "", Text(f"  {line}", "dim"))
    out.print(table)


def _score_cells(signal: SentimentSignal | AssetSignal, *, indent: str = "") -> list[Text]:
    style = _STYLES[signal.prediction]
    verdict = Text(f"{indent}{signal.prediction.value}", f"bold {style}" if signal.actionable else style)
    shares = signal.confidence, signal.bearish, signal.neutral, signal.bullish
    return [verdict, *(Text(f"{share:.2f}") for share in shares)]


def _print_evaluation(found: dict[str, Any]) -> None:
    from models.labels import LABELS

    title = f"{found['data']}: {found['n']:,} texts, {found['abstained']} abstained"
    print_columns(
        (Column("metric"), *figures("value", "95 % interval")),
        [
            (name, f"{found[name]:.3f}", f"{low:.3f} – {high:.3f}")
            for name, (low, high) in found["confidence_intervals"].items()
        ],
        title=title,
    )
    chance = found["chance_ece"]
    print_text(
        f"ece: a perfectly calibrated model of the same confidences would have {chance.value:.3f} by chance, "
        f"up to {chance.high:.3f}.",
        wrap=True,
    )
    classes = []
    for label, counts in zip(LABELS, found["confusion"], strict=True):
        row = found["classes"][label]
        measured = (f"{row[key]:.3f}" for key in ("precision", "recall", "f1"))
        classes.append((label, *measured, str(row["support"]), *map(str, counts)))
    out.print()
    titles = ("precision", "recall", "F1", "texts", *(f"→ {label}" for label in LABELS))
    print_columns((Column("class"), *figures(*titles)), classes)
    print_coverage(found["coverage"])


def print_coverage(coverage: Iterable[Any]) -> None:
    """Print share and precision of the texts that are actionable, by confidence threshold."""
    out.print()
    rows = [
        (
            f"{at.threshold:.2f}",
            f"{at.coverage:.1%}",
            "–" if at.precision is None else f"{at.precision:.1%}",
        )
        for at in coverage
    ]
    print_columns(figures("acting from confidence", "coverage", "precision"), rows)
