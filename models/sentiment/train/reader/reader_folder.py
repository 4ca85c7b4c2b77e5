"""Folder of a trained reader: weights, configuration of the body, tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedTokenizerBase

from agent.core.errors import ModelError
from agent.system.atomic import replaced_folder, settled
from models.sentiment.train.reader.reader_network import HeadlineReader

WEIGHTS: Final = "model.safetensors"


def save_reader(model: HeadlineReader, tokenizer: PreTrainedTokenizerBase, output: Path) -> None:
    """Write a reader to the folder `output`, which is replaced as a whole."""
    with replaced_folder(output) as folder:
        weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        save_file(weights, folder / WEIGHTS)
        model.config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def load_reader(folder: Path) -> tuple[HeadlineReader, PreTrainedTokenizerBase]:
    """Load a reader that `save_reader` wrote. Raises ModelError if the folder is incomplete or damaged."""
    folder = settled(folder)
    try:
        encoder = AutoModel.from_config(AutoConfig.from_pretrained(folder, trust_remote_code=False))
        model = HeadlineReader(encoder)
        model.load_state_dict(load_file(folder / WEIGHTS))
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{folder} holds no reader: {reason}", hint="train it again") from error
    return model.eval(), tokenizer
