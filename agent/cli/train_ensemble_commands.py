"""`tapewire train ensemble`: weights of several sentiment models, and what each of them is worth."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from agent.cli.command_options import ConfigFile, Json, parse_time
from agent.cli.console import err, print_columns, print_json, print_text, progress_bar
from agent.cli.model_options import TrainingDataOptions
from agent.cli.typer_setup import option
from agent.core.errors import UsageError
from agent.system.fitted_table import Column, figures

if TYPE_CHECKING:
    from models.sentiment.ensemble.ensemble_file import Ensemble, MemberFigures, WorthInterval
    from models.sentiment.train.datasets import Dataset
    from models.sentiment.train.splits import Split


@dataclass(frozen=True, kw_only=True, slots=True)
class EnsembleSplitOptions:
    """Which labelled texts fit the weights, and which are held out."""

    PANEL: ClassVar = "Split"

    since: Annotated[
        str | None,
        option("--since", "Leave out earlier texts, such as those that a member has learned.", "TIME", "all"),
    ] = None
    test: Annotated[float, option("--test", "Share held out to measure on.")] = 0.4
    embargo_days: Annotated[
        float, option("--embargo-days", "Days left out before the cut of a split by time.")
    ] = 1.0
    stratified: Annotated[
        bool, option("--stratified", "Split at random by class even if the texts are dated.")
    ] = False
    seed: Annotated[int, option("--seed", "Seed of a split by class.")] = 42

    def split(self, datasets: list[Dataset]) -> tuple[Split, int]:
        """Return the split, and the number of texts that `--since` leaves out.

        Raises UsageError if `--since` is given and a text has no date.
        """
        from agent.core.events import DAY_MS
        from models.sentiment.train.splits import Fractions, make_split

        every = [example for dataset in datasets for example in dataset.examples]
        since = None if self.since is None else parse_time(self.since, "--since")
        if since is not None and any(example.ts is None for example in every):
            hint = "leave out --since, or name the column of dates: --date-column"
            raise UsageError("--since needs texts with dates", hint=hint)
        kept = [one for one in every if since is None or (one.ts is not None and one.ts >= since)]
        split = make_split(
            kept,
            Fractions(0.0, 0.0, self.test),
            seed=self.seed,
            embargo_ms=int(self.embargo_days * DAY_MS),
            stratified=self.stratified,
        )
        return split, len(every) - len(kept)


@dataclass(frozen=True, kw_only=True, slots=True)
class DisagreementOptions:
    """What to do if the members' likeliest classes differ."""

    PANEL: ClassVar = "Disagreement"

    abstain_on_disagreement: Annotated[
        bool,
        option(
            "--abstain-on-disagreement",
            "Abstain if the members' likeliest classes differ and the pool is not sure.",
        ),
    ] = False
    precision: Annotated[
        float, option("--precision", "Share of right answers that makes the pool sure where they differ.")
    ] = 0.7

    @property
    def wanted(self) -> float | None:
        """The wanted share of right predictions; None without the option. Raises UsageError."""
        if not 0 < self.precision <= 1:
            raise UsageError(f"--precision {self.precision:g} is no share", hint="such as 0.8")
        return self.precision if self.abstain_on_disagreement else None


def ensemble(
    datasets: TrainingDataOptions,
    cut: EnsembleSplitOptions,
    disagreement: DisagreementOptions,
    member: Annotated[
        list[str],
        option("--member", "starter, a model folder or openai:URL#MODEL; may be repeated.", "MODEL"),
    ],
    output: Annotated[Path, option("--output -o", "Folder to write ensemble.json to.", "FOLDER")] = Path(
        "var/models/ensemble"
    ),
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Fit the weights of several sentiment models on labelled text, and measure what each is worth.

    Scores are taken from the store's cache if they are known. The agent uses the result as
    `model.path = "ensemble:FOLDER"`.
    """
    from agent.config import load
    from agent.store.database import open_database
    from models.sentiment.open_scorer import open_cached_scorer
    from models.sentiment.train.ensembles.ensemble_training import open_members, train_ensemble

    settings, precision = load(config), disagreement.wanted
    loaded = datasets.load()
    split, left_out = cut.split(loaded)
    err.print(
        f"split {'by time' if split.by_time else 'stratified by class'}: {len(split.train):,} texts to fit, "
        f"{len(split.test):,} to measure"
    )
    if left_out:
        err.print(f"left out: {left_out:,} texts before {cut.since}")
    with closing(open_database(settings.store.url)) as database:
        members = open_members(member, lambda path: open_cached_scorer(path, settings, database))
        try:
            with progress_bar("scoring") as update:
                done = train_ensemble(
                    members,
                    split,
                    [dataset.record for dataset in loaded],
                    output,
                    precision=precision,
                    progress=lambda name, count, total: update(
                        description=f"scoring: {name}", completed=count, total=total
                    ),
                )
        finally:
            for one in members:
                one.close()
    if json:
        print_json({"folder": str(output), "fingerprint": done.fingerprint, **_fields(done)})
    else:
        _show(done, output)


def _fields(done: Ensemble) -> dict[str, object]:
    import msgspec

    return {name: getattr(done, name) for name in msgspec.structs.asdict(done) if name != "reference"}


def _show(done: Ensemble, output: Path) -> None:
    found = done.measured
    if found is not None:
        quality: list[list[str]] = []
        shares = tuple(f"{float(share):.0%}" for share in found.ensemble.precision_at)
        answers: list[list[str]] = []
        for member in done.members:
            measured, worth = found.members[member.name], found.worth.get(member.name)
            value = "" if worth is None else _interval(worth.accuracy)
            quality.append([member.name, f"{member.weight:.2f}", *_quality(measured), value])
            answers.append([member.name, *_answers(measured)])
        quality.append(["ensemble", "", *_quality(found.ensemble), ""])
        answers.append(["ensemble", *_answers(found.ensemble)])
        titles = figures("weight", "accuracy", "macro-F1", "ECE", "worth (accuracy)")
        print_columns((Column(""), *titles), quality, title=f"{found.rows_test:,} held-out texts")
        surest = f"Precision of the surest {', '.join(shares)}"
        print_columns((Column(""), *figures("covered", *shares, "ms", "cost")), answers, title=surest)
        print_text(
            f"members differ on {found.disagreement:.0%} of the texts; "
            "worth: the ensemble minus one fitted without the member, with its 95 % interval",
            wrap=True,
        )
    bound = f"; where members differ, it answers from confidence {done.agree_above:.2f}"
    print_text(f"temperature {done.temperature:.3f}{bound if done.agree_above else ''}")
    for note in done.notes:
        print_text(f"! {note}", wrap=True)
    print_text(f'saved: {output}; use it as model.path = "ensemble:{output}"')


def _quality(figures: MemberFigures) -> list[str]:
    return [f"{value:.3f}" for value in (figures.accuracy, figures.macro_f1, figures.ece)]


def _answers(figures: MemberFigures) -> list[str]:
    """Return coverage, precision by share of the surest texts, and ms and cost of an answer."""
    return [
        f"{figures.coverage:.1%}",
        *("–" if share is None else f"{share:.3f}" for share in figures.precision_at.values()),
        "–" if figures.ms is None else f"{figures.ms:.1f}",
        f"{figures.cost:.2g}" if figures.cost else "0",
    ]


def _interval(found: WorthInterval) -> str:
    return f"{found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f})"
