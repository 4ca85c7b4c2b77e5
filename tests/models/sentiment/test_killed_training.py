"""If training is killed, its folder holds either the complete old model or the complete new one."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")


from agent.core.errors import ModelError
from agent.system.atomic import settled
from models.cards import Card, read_card, write_card
from models.sentiment.serve.scorer import Scorer
from models.sentiment.train.datasets import Example
from models.sentiment.train.trained_model import load_trained
from tests.support.command_line import run_command

pytestmark = pytest.mark.train

TEXTS = ["bitcoin surges on heavy volume", "the miner is hacked in early trade", "the fund moves office"]
OLD, NEW = 1_704_240_000_000, 1_780_358_400_000  # the ends of 2024-01-02 and 2026-06-01


def write(path: Path, examples: tuple[Example, ...]) -> Path:
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([("text", "label"), *((one.text, one.label) for one in examples)])
    return path


@pytest.fixture(scope="module")
def data(headlines: tuple[Example, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data") / "own.csv", headlines)


@pytest.fixture(scope="module")
def command(data: Path, tiny_bases: dict[str, Path]) -> Callable[[Path | str, str, int], list[str]]:
    def arguments(output: Path | str, latest: str, seed: int) -> list[str]:
        inputs = ["--data", data, "--format", "csv", "--latest", latest, "--base", tiny_bases["mean"]]
        recipe = f"--epochs 2 --patience 0 --rank 2 --seed {seed} --lr 2e-2 --head-learning-rate 2e-2"
        rest = [*recipe.split(), "--no-forgetting", "--output", str(output)]
        return ["train", "sentiment", *map(str, inputs), *rest]

    return arguments


def tapewire(*arguments: str) -> str:
    result = run_command(arguments)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


@pytest.fixture(scope="module")
def old(command: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("old") / "model"
    tapewire(*command(output, "2024-01-02", 1))
    return output


@pytest.fixture(scope="module")
def new(command: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("new") / "model"
    tapewire(*command(output, "2026-06-01", 2))
    return output


@pytest.mark.slow
def test_if_training_is_killed_at_any_file_operation_the_folder_holds_one_complete_model(
    old: Path, command: Callable[..., list[str]], tmp_path: Path
) -> None:
    work, snapshots = tmp_path / "work", tmp_path / "snapshots"
    shutil.copytree(old, work / "model")
    snapshots.mkdir()
    script = [
        sys.executable,
        "-m",
        "tests.models.sentiment.kill_training",
        str(work / "model"),
        str(snapshots),
        "--",
    ]
    done = subprocess.run(
        [*script, *command(work / "model", "2026-06-01", 2)],
        stdout=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        text=True,
        check=True,
        timeout=600,
    )
    *killed, last = done.stdout.splitlines()
    assert last == "finished", done.stdout
    assert len(killed) >= 10, killed
    complete = {contents(old): OLD, contents(snapshots / str(len(killed)) / "model"): NEW}
    found = []
    for number, operation in enumerate([*killed, last]):
        files = contents(settled(snapshots / str(number) / "model"))
        assert files in complete, operation
        found.append(complete[files])
    assert found[0] == OLD
    assert found[-1] == NEW
    assert found == sorted(found)
    before, after = (snapshots / str(found.index(NEW) - step) / "model" for step in (1, 0))
    assert load_trained(before).probabilities(TEXTS) == pytest.approx(load_trained(old).probabilities(TEXTS))
    tapewire("export", str(after), f"{after}.served", "--no-quantise")
    scorer = Scorer.load(Path(f"{after}.served"))
    assert scorer.card.trained_until == NEW
    served = [score.probabilities for score in scorer.score(TEXTS)]
    assert np.allclose(served, load_trained(after).probabilities(TEXTS), atol=1e-3)


def contents(folder: Path) -> frozenset[tuple[str, bytes]]:
    """Return the relative paths and the bytes of all files."""
    return frozenset(
        (str(path.relative_to(folder)), path.read_bytes()) for path in folder.rglob("*") if path.is_file()
    )


@pytest.mark.slow
def test_killed_training_resumes_from_its_last_complete_checkpoint(
    old: Path, new: Path, command: Callable[..., list[str]], tmp_path: Path
) -> None:
    target = tmp_path / "model"
    shutil.copytree(old, target)
    arguments = command(target, "2026-06-01", 2)
    assert run(_KILLED_AFTER_A_CHECKPOINT, arguments, "1") == -9
    assert load_trained(target).card.trained_until == OLD, (
        "the old model serves until the new one is complete"
    )
    checkpoints = sorted((tmp_path / "model.checkpoints").glob("checkpoint-*"))
    assert checkpoints
    torn = tmp_path / "model.checkpoints" / "checkpoint-999999"
    shutil.copytree(checkpoints[-1], torn)
    (torn / "trainer_state.json").write_bytes(b"{")
    # another hash seed: sets iterate in another order than in the first process
    assert run(_GOES_ON, [*arguments, "--resume"], "3") == 0
    assert not (tmp_path / "model.checkpoints").exists()
    assert np.allclose(load_trained(target).logits(TEXTS)[0], load_trained(new).logits(TEXTS)[0], atol=1e-4)


def run(code: str, arguments: list[str], hash_seed: str) -> int:
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, timeout=300, check=False
    ).returncode


_GOES_ON = """
import sys
from agent.cli.main import build
build(sys.argv[1])(sys.argv[1:])
"""

_KILLED_AFTER_A_CHECKPOINT = """
import os, signal, sys
from models.sentiment.train import trainer

def die(self, *args, **kwargs):
    on_save(self, *args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)

on_save, trainer._CheckpointMarker.on_save = trainer._CheckpointMarker.on_save, die
from agent.cli.main import build
build(sys.argv[1])(sys.argv[1:])
"""


@pytest.mark.slow
def test_weights_that_do_not_match_the_card_are_refused(old: Path, new: Path, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(old, mixed)
    shutil.copy(new / "adapter_model.safetensors", mixed)
    for verb in (
        ["export", str(mixed), str(tmp_path / "out")],
        ["evaluate", "--adapter", str(mixed), "--data", "x.csv"],
    ):
        if verb[0] == "export":
            with pytest.raises(
                ModelError,
                match=r"adapter_model\.safetensors differs from the file .* card\.json.*whole folder",
            ):
                tapewire(*verb)
    assert not (tmp_path / "out").exists()
    card = read_card(mixed)
    card.files = {}  # cards of earlier versions list no files
    write_card(card, mixed)
    with pytest.raises(ModelError, match=r"not those that card\.json was written for"):
        load_trained(mixed)
    shutil.copy(old / "adapter_model.safetensors", mixed)
    assert load_trained(mixed).card.trained_until == OLD, (
        "a card of an earlier version is believed if its fingerprint agrees"
    )


@pytest.mark.slow
def test_training_replaces_the_files_of_the_old_model_and_keeps_other_files(
    old: Path, command: Callable[..., list[str]], tmp_path: Path
) -> None:
    target = tmp_path / "model"
    shutil.copytree(old, target)
    (target / "notes").mkdir()
    (target / "notes" / "why.txt").write_text("years of work")
    tapewire(*command(target, "2026-06-01", 2), "--method", "full")
    assert (target / "notes" / "why.txt").read_text() == "years of work"
    assert not (target / "adapter_config.json").exists(), (
        "an adapter of the old model would be loaded with the new card"
    )
    assert load_trained(target).card.method == "full"


@pytest.mark.slow
def test_a_card_lists_the_files_of_its_model(old: Path) -> None:
    card: Card = read_card(old)
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json"} <= card.files.keys()
    assert "card.json" not in card.files
    assert json.loads((old / "card.json").read_bytes())["files"] == card.files
