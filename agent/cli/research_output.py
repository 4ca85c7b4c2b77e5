"""What the research commands print, and what they do before they replay."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import MofNCompleteColumn

from agent.analysis.report import formats
from agent.cli.console import err, out, print_columns, print_text, progress_bar
from agent.core.errors import UsageError
from agent.system.fitted_table import Column, figures

if TYPE_CHECKING:
    from agent.analysis.deflation import StudyStanding
    from agent.analysis.report.verdict import Verdict
    from agent.config import Config
    from agent.core.events import News
    from agent.data.cascade import CascadeScorer
    from agent.live.services.mqtt.history_workers import WorkerScoring
    from agent.research.assessment import OutOfSampleEvidence
    from agent.research.replay_inputs import ReplayInputs
    from models.sentiment.serve.score_cache import CachedScorer

percent, number = formats.plain_percent, formats.plain_number


def score_all(
    material: ReplayInputs,
    text: Callable[[News], str] | None = None,
    *,
    embeddings: bool = False,
    workers: bool = False,
) -> None:
    """Score all headlines of the window (or `text` of each) once, before worker processes share the memory.

    Embeddings are kept if `embeddings` is set or the configured fusion model reads them.
    """
    if material.plan.news is None:
        return
    from agent.replay.fusion_model import open_predictor

    if material.config.fusion.path and not embeddings:
        predictor = open_predictor(material.config)
        embeddings = predictor is not None and predictor.reads_embeddings
    with material.database() as database:
        scorer = material.scoring(database, material.plan.end or 0).scorer
        if scorer is not None:
            score_headlines(
                material.config, scorer, material.headlines(), text, embeddings=embeddings, workers=workers
            )


def score_headlines(
    config: Config,
    scorer: CachedScorer | CascadeScorer,
    headlines: Sequence[News],
    text: Callable[[News], str] | None = None,
    *,
    embeddings: bool = False,
    local_only: bool = False,
    workers: bool = False,
) -> None:
    """Score headlines (or `text` of each) ahead of a replay, and show the progress.

    Of a cascade, the model that revises scores those that may vote. With `local_only` the models at servers
    are left to the replay. With `workers` those at the broker score for the first model.
    """
    from agent.data.cascade import may_vote, models_of
    from models.sentiment.serve.history_scoring import score_history
    from models.sentiment.serve.score_cache import CachedScorer
    from models.sentiment.serve.scorer import Scorer

    votes = may_vote(config)
    for number, model in enumerate(models_of(scorer)):
        if not isinstance(model, CachedScorer):
            continue
        by_workers = worker_scoring(config, model, embeddings=embeddings) if workers and number == 0 else None
        if by_workers is None and local_only and not isinstance(model.scorer, Scorer):
            continue
        titles = [text(news) if text else news.title for news in headlines if number == 0 or votes(news)]
        what = "revising scores" if number else "scoring headlines"
        with progress_bar(what, None, MofNCompleteColumn()) as update:
            score_history(
                model,
                titles,
                embedded=embeddings and number == 0,
                score_blocks=by_workers,
                progress=partial(_show_scored, update, what, []),
            )
        if by_workers is not None and (by_workers.resent or by_workers.refused):
            again, invalid = f"{by_workers.resent:,} headlines were sent again", f"{by_workers.refused:,}"
            err.print(f"note: {again} to the workers, and {invalid} of their messages were invalid")


def worker_scoring(config: Config, model: CachedScorer, *, embeddings: bool) -> WorkerScoring:
    """Return what lets the workers at the broker score for a model. Raises UsageError."""
    from agent.live.log import configure
    from agent.live.services.mqtt.history_workers import WorkerScoring

    configure(config.log)
    if not config.mqtt.broker:
        raise UsageError("--mqtt-workers needs a broker", hint="set mqtt.broker, as the workers have it")
    if embeddings:
        what = "workers send only scores, and the fusion model reads embeddings"
        raise UsageError(what, hint="leave --mqtt-workers out")
    card = getattr(model.scorer, "card", None)
    if card is not None and card.notes.get("precision") != "int8":
        err.print("note: the last digits of a model in floating point depend on the workers' batches")
    return WorkerScoring(config.mqtt, model.fingerprint, model.names, inflight=config.workers.inflight)


def _show_scored(update: Callable[..., None], what: str, cached: list[int], done: int, total: int) -> None:
    """Show how many texts are scored, without those that the cache had: they would spoil the estimate."""
    if not cached:
        cached.append(done)
        what += f" ({done:,} are cached)" if done else ""
        update(description=what, total=total - done)
    update(completed=done - cached[0])


@contextmanager
def counting(title: str, total: int) -> Iterator[Callable[[], None]]:
    """Draw a bar over `total` pieces of work; yields a callback to call after each piece."""
    with progress_bar(title, total, MofNCompleteColumn()) as update:
        yield partial(update, advance=1)


def write_result_page(html: str, path: Path) -> None:
    """Write the page of a result, and print its path on standard error. Raises TapewireError, UsageError."""
    from agent.analysis.report.page_parts import write_page

    err.print(f"report: {write_page(html, path)}", soft_wrap=True)


def show_stamps(stamps: tuple[str, ...]) -> None:
    """Print the warnings that a result carries, such as that of a leak."""
    for stamp in stamps:
        out.print(f"[bold white on red] {stamp} [/]")


def standing_in_words(found: StudyStanding) -> str:
    """Return a sentence on an evaluation after all tries on the same data."""
    tries = f"{found.tries:,} tries" if found.tries > 1 else "one try"
    where = f"{tries} on these data (tapewire tries --study {found.study})"
    if found.deflated_sharpe is None:
        return f"deflated Sharpe ratio: undefined, {found.undefined}; {where}"
    above = "what luck gives the best of" if found.tries > 1 else "0, after"
    return (
        f"deflated Sharpe ratio: {found.deflated_sharpe:.1%} probability that the true ratio is above "
        f"{above} {where}"
    )


def show_verdict(verdict: Verdict) -> None:
    """Print headline, warnings and sentences of a verdict."""
    print_text(f"\n{verdict.headline}", style="bold")
    for sentence in (*(f"! {warning}" for warning in verdict.warnings), *verdict.sentences):
        print_text(f"  {sentence}")


def print_evidence(evidence: OutOfSampleEvidence, title: str) -> None:
    """Print the out-of-sample figures of a strategy beside those of buy-and-hold."""

    from agent.research.evidence_rows import evidence_rows

    columns = (Column("", wraps=True), *figures("strategy", "buy and hold"))
    print_columns(columns, evidence_rows(evidence), title=title)


def describe_overrides(overrides: dict[str, Any]) -> str:
    """Return what a fold changed: the strategy's parameters, and the names of other sections."""
    params = overrides.get("strategy", {}).get("params", {})
    shown = [
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in params.items()
    ]
    return " ".join([*shown, *(f"{name} model" for name in overrides if name != "strategy")]) or "–"
