"""Export of a model that classifies by label words as a language model, for servers such as vLLM.

The folder holds merged weights (safetensors), tokenizer with chat template, and the card with the prompt, so
that a client can put the same question.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from transformers import AutoModelForCausalLM

from agent.core.errors import ModelError, UsageError
from agent.system.atomic import replaced_folder
from models.cards import CARD_NAME, write_card_with_hashes
from models.sentiment.train.bases import fit_embeddings, locate
from models.sentiment.train.trained_model import FULL_WEIGHTS, load_trained

_INDEX: Final = f"{FULL_WEIGHTS}.index.json"


def export_language_model(
    adapter: Path, output: Path, *, base: str | None = None, overwrite: bool = False
) -> int:
    """Export the folder `adapter` to the folder `output`; return the bytes of the files written.

    Weights are stored in bfloat16. Raises ModelError as `load_trained` does, or if the base has no language
    model; UsageError if the model has a head of its own, which servers of language models don't know, or if
    `output` holds something and not `overwrite`.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())) and not overwrite:
        raise UsageError(f"{output} isn't empty", hint="name another folder, or pass --force")
    if output.is_dir() and any(output.iterdir()) and not (output / CARD_NAME).is_file():
        raise UsageError(f"{output} holds something else", hint="name a new or empty folder")
    trained = load_trained(adapter, base=base)
    card = trained.card
    if card.template is None:
        what = f"{adapter} has a head of its own, which servers of language models don't know"
        raise UsageError(what, hint="train with --head words, or export it as ONNX")
    body = trained.model.classifier.encoder
    place = locate(base or card.base)
    try:
        model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32, trust_remote_code=False)
    except ValueError as error:
        raise ModelError(f"{card.base} is no language model: {error}", hint="name its base") from error
    fit_embeddings(model, trained.tokenizer)
    getattr(model, model.base_model_prefix).load_state_dict(body.state_dict())
    model.tie_weights()
    with replaced_folder(output) as folder:
        model.to(torch.bfloat16).save_pretrained(folder)
        trained.tokenizer.save_pretrained(folder)
        names = [path.name for path in folder.iterdir() if path.is_file()]
        card.notes["precision"] = "bf16"
        write_card_with_hashes(card, folder, names)
        return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
