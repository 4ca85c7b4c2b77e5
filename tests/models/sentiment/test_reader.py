"""A reader: one pass over a headline answers for the whole, its assets, and the kind of news."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import msgspec
import torch

from agent.core.errors import ModelError
from agent.core.news_kinds import NEWS_KINDS
from agent.core.symbols import AssetFinder
from models.cards import Card
from models.sentiment.serve.scorer import BATCH_TOLERANCE, Scorer
from models.sentiment.train.bases import load_base
from models.sentiment.train.datasets.asset_labels import AssetExample, AssetTarget
from models.sentiment.train.reader.reader_batches import tokenise
from models.sentiment.train.reader.reader_export import export_reader
from models.sentiment.train.reader.reader_folder import load_reader, save_reader
from models.sentiment.train.reader.reader_network import HeadlineReader
from models.sentiment.train.reader.reader_training import (
    ReaderAnswers,
    ReaderRecipe,
    ReaderSet,
    answers_of,
    fit_reader,
    mean_answers,
)

pytestmark = pytest.mark.train

RECIPE = ReaderRecipe(epochs=12, batch_size=16, learning_rate=2e-3, head_learning_rate=5e-3, smoothing=0.0)
FINDER = AssetFinder()
UPS, DOWNS = ("surges", "rallies", "wins approval"), ("plunges", "is hacked", "halts withdrawals")
ENDS = ("on heavy volume", "after the report", "as traders watch", "before the weekend", "in early trade")


def rotation(winner: str, loser: str, up: str, down: str, end: str) -> AssetExample:
    """Return a headline that is good for one asset and bad for another; the latter's verb gives its kind."""
    text = f"{winner} {up} as {loser} {down} {end}"
    labels = {"bitcoin": "BTC", "ether": "ETH"}
    spans = FINDER.find(text)
    targets = tuple(
        AssetTarget(labels[name], spans[labels[name]], label)
        for name, label in ((winner, "bullish"), (loser, "bearish"))
    )
    return AssetExample(text, "neutral", "failure" if down == "is hacked" else "price", targets)


EXAMPLES = [
    rotation(winner, loser, up, down, end)
    for winner, loser in (("bitcoin", "ether"), ("ether", "bitcoin"))
    for up in UPS
    for down in DOWNS
    for end in ENDS
]


def fresh(base: Path) -> tuple[HeadlineReader, object]:
    torch.manual_seed(0)
    loaded = load_base(str(base))
    return HeadlineReader(loaded.encoder, dropout=0.0), loaded.tokenizer


@pytest.fixture(scope="module")
def trained(tiny_bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    model, tokenizer = fresh(tiny_bases["mean"])
    folder = tmp_path_factory.mktemp("reader")
    fit_reader(model, [ReaderSet(tokenise(EXAMPLES, tokenizer, 96))], RECIPE, folder / "checkpoint")
    save_reader(model, tokenizer, folder / "model")
    return folder / "model"


@pytest.mark.slow
def test_each_asset_gets_its_own_answer_and_the_headline_its_kind(trained: Path, tmp_path: Path) -> None:
    model, tokenizer = load_reader(trained)
    export_reader(model, tokenizer, Card(base="tiny", method="full", kinds=NEWS_KINDS), tmp_path / "out")
    scorer = Scorer.load(tmp_path / "out")
    up, hacked = scorer.score(
        [
            "bitcoin surges as ether plunges in early trade",
            "ether rallies as bitcoin is hacked before the weekend",
        ]
    )
    answers = [
        {own.asset: max(("bearish", "neutral", "bullish"), key=own.__getattribute__) for own in score.assets}
        for score in (up, hacked)
    ]
    assert answers == [{"BTC": "bullish", "ETH": "bearish"}, {"ETH": "bullish", "BTC": "bearish"}]
    assert (up.label, hacked.label) == ("neutral", "neutral")
    assert (up.kind, hacked.kind) == ("price", "failure")
    for own in up.assets:
        assert own.bearish + own.neutral + own.bullish == pytest.approx(1)


@pytest.mark.slow
def test_a_headline_without_names_has_no_answers_for_assets(trained: Path, tmp_path: Path) -> None:
    model, tokenizer = load_reader(trained)
    export_reader(model, tokenizer, Card(base="tiny", method="full", kinds=NEWS_KINDS), tmp_path / "out")
    (score,) = Scorer.load(tmp_path / "out").score(["the exchange halts withdrawals"])
    assert score.assets == ()
    assert score.kind in NEWS_KINDS


@pytest.mark.slow
@pytest.mark.parametrize("quantise", [False, True])
def test_the_export_answers_as_the_trained_model(trained: Path, tmp_path: Path, quantise: bool) -> None:
    model, tokenizer = load_reader(trained)
    card = Card(base="tiny", method="full", kinds=NEWS_KINDS, asset_temperature=1.5, temperature=2.0)
    texts = [example.text for example in EXAMPLES] + ["the miner names a spokesman"]
    card = export_reader(model, tokenizer, card, tmp_path / "out", quantise=quantise, reference=texts)
    assert card.notes["export_reference_assets"] == 2 * len(EXAMPLES)
    assert card.notes["export_same_asset_prediction"] == 1.0
    assert card.notes["export_mean_probability_difference"] < (0.05 if quantise else 1e-5)


@pytest.mark.slow
def test_a_state_of_an_asset_is_the_mean_of_the_tokens_that_name_it(trained: Path, tmp_path: Path) -> None:
    model, tokenizer = load_reader(trained)
    card = Card(base="tiny", method="full", kinds=NEWS_KINDS)
    export_reader(model, tokenizer, card, tmp_path / "out", quantise=False)
    text = "bitcoin surges as ether plunges as traders watch"
    _, (states,) = Scorer.load(tmp_path / "out").score_and_embed([text])
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        hidden = model.encoder(input_ids=ids).last_hidden_state[0]
    expected = torch.stack((hidden.mean(0), hidden[1], hidden[4])).numpy()  # after [CLS]: bitcoin, …, ether
    assert states == pytest.approx(expected, abs=1e-4)


def test_an_interrupted_training_continues_and_ends_with_the_same_weights(
    tiny_bases: dict[str, Path], tmp_path: Path
) -> None:
    def train(place: Path, *, stop_after: int | None = None) -> HeadlineReader:
        model, tokenizer = fresh(tiny_bases["mean"])
        rows = tokenise(EXAMPLES[:40], tokenizer, 96)

        def progress(step: int, _steps: int, _loss: float) -> None:
            if step == stop_after:
                raise KeyboardInterrupt

        recipe = msgspec.structs.replace(RECIPE, epochs=3)
        fit_reader(model, [ReaderSet(rows, 0.8)], recipe, place, progress=progress)
        return model

    whole = train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts", stop_after=5)  # two batches an epoch: in the third
    resumed = train(tmp_path / "parts")
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name


@pytest.mark.parametrize("other", ["recipe", "data", "labels", "base"])
def test_a_checkpoint_of_another_training_is_refused(
    tiny_bases: dict[str, Path], tmp_path: Path, other: str
) -> None:
    recipe = msgspec.structs.replace(RECIPE, epochs=1)
    model, tokenizer = fresh(tiny_bases["mean"])
    rows = tokenise(EXAMPLES[:16], tokenizer, 96)
    fit_reader(model, [ReaderSet(rows)], recipe, tmp_path / "c")
    if other == "recipe":
        recipe = msgspec.structs.replace(RECIPE, epochs=2)
    if other == "data":
        rows = tokenise(EXAMPLES[16:32], tokenizer, 96)
    if other == "labels":
        rows = [row._replace(label=0) for row in rows]
    model, _ = fresh(tiny_bases["mean"])
    if other == "base":
        model.encoder.embeddings.word_embeddings.weight.data[0, 0] += 1.0
    with pytest.raises(ModelError, match="checkpoint of another training"):
        fit_reader(model, [ReaderSet(rows)], recipe, tmp_path / "c")


def test_a_damaged_checkpoint_is_refused(tiny_bases: dict[str, Path], tmp_path: Path) -> None:
    model, tokenizer = fresh(tiny_bases["mean"])
    (tmp_path / "c").write_bytes(b"no checkpoint")
    with pytest.raises(ModelError, match="/c: "):
        fit_reader(model, [ReaderSet(tokenise(EXAMPLES[:16], tokenizer, 96))], RECIPE, tmp_path / "c")


@pytest.mark.slow
@pytest.mark.parametrize("quantise", [False, True])
def test_an_answer_does_not_depend_on_the_other_headlines_of_a_call(
    trained: Path, tmp_path: Path, quantise: bool
) -> None:
    model, tokenizer = load_reader(trained)
    card = Card(base="tiny", method="full", kinds=NEWS_KINDS)
    export_reader(model, tokenizer, card, tmp_path / "out", quantise=quantise)
    scorer = Scorer.load(tmp_path / "out", threads=2)
    texts = [example.text for example in EXAMPLES[:40]]
    texts += [" ".join(text.split()[1:]) for text in texts] + ["the exchange is hacked"]
    together = scorer.score(texts)
    for text, score in zip(texts, together, strict=True):
        (alone,) = scorer.score([text])
        pairs = [
            (getattr(one, name), getattr(other, name))
            for one, other in zip((score, *score.assets), (alone, *alone.assets), strict=True)
            for name in ("bearish", "neutral", "bullish")
        ]
        if quantise:
            assert score == alone
        assert [one for one, _ in pairs] == pytest.approx([other for _, other in pairs], abs=BATCH_TOLERANCE)


@pytest.mark.slow
def test_a_student_learns_the_answers_of_teachers_to_texts_without_labels(
    trained: Path, tiny_bases: dict[str, Path], tmp_path: Path
) -> None:
    teacher, _ = load_reader(trained)
    student, tokenizer = fresh(tiny_bases["mean"])
    unlabelled = [
        AssetExample(row.text, None, targets=tuple(target._replace(label="") for target in row.targets))
        for row in EXAMPLES
    ]
    rows = tokenise(unlabelled, tokenizer, 96)
    taught = mean_answers([answers_of(teacher, rows)] * 2)
    recipe = msgspec.structs.replace(RECIPE, epochs=20)
    fit_reader(student, [ReaderSet(rows, taught=taught)], recipe, tmp_path / "checkpoint")
    learned = answers_of(student, rows)
    for name, agreement in agreements(taught, learned).items():
        assert agreement > 0.95, name


def agreements(one: ReaderAnswers, other: ReaderAnswers) -> dict[str, float]:
    pairs = {
        "headline": (one.logits, other.logits),
        "kind": (one.kind_logits, other.kind_logits),
        "assets": (np.concatenate(one.asset_logits), np.concatenate(other.asset_logits)),
    }
    return {name: float((a.argmax(1) == b.argmax(1)).mean()) for name, (a, b) in pairs.items()}


def test_a_target_without_tokens_is_left_out() -> None:
    long = AssetExample("ether " * 5, "neutral", targets=(AssetTarget("BTC", (), "bullish"),))
    tokenizer = load_base("embedded").tokenizer
    (row,) = tokenise([long], tokenizer, 96)
    assert (row.assets, row.asset_labels, row.kind) == ([], [], -1)
