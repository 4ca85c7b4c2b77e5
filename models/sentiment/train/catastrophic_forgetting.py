"""Catastrophic forgetting: how much general language a base loses while it is fine-tuned on sentiment.

If the base has a language-model head, it is measured by the loss on general text before and after (masked
tokens for an encoder, next tokens for a decoder). Else it is Spearman's rank correlation between the
similarities of sentence pairs before and after; 1 means no change.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from models.classification_metrics import Floats
from models.sentiment.train.bases import fit_embeddings, is_decoder, load_base, locate
from models.sentiment.train.classifier import SentimentClassifier
from models.sentiment.train.trained_model import MergedModel, TrainedClassifier

MASKED: Final = 0.15
"""Share of masked tokens. The same tokens are masked before and after."""


def general_pairs() -> list[tuple[str, str]]:
    """Return forty pairs of everyday sentences, some alike in meaning, some not, none about markets."""
    text = files("models.sentiment.train").joinpath("general_pairs.csv").read_text(encoding="utf-8")
    return [(row["first"], row["second"]) for row in csv.DictReader(text.splitlines())]


def measure_forgetting(trained: TrainedClassifier, base: str | None = None) -> dict[str, float]:
    """Compare a fine-tuned model with its base (default: the one in its card).

    Return `mlm_loss_before` and `mlm_loss_after`, `perplexity_before` and `perplexity_after`, or
    `similarity_rank_correlation`.
    """
    name = base or trained.card.base
    place = locate(name)
    config = AutoConfig.from_pretrained(place, trust_remote_code=False)
    architectures = " ".join(config.architectures or ())
    if "ForMaskedLM" in architectures or "ForPreTraining" in architectures:
        model = AutoModelForMaskedLM.from_pretrained(place, trust_remote_code=False)
        measure, kind = _masked_loss, "mlm_loss"
    elif is_decoder(config) and ("ForCausalLM" in architectures or "LMHeadModel" in architectures):
        model = AutoModelForCausalLM.from_pretrained(place, trust_remote_code=False)
        measure, kind = _perplexity, "perplexity"
    else:
        return {"similarity_rank_correlation": _drift(trained, name)}
    fit_embeddings(model, trained.tokenizer)
    model.eval().to(trained.device)
    before = measure(model, trained.tokenizer)
    # Sentences are read without the prompt in which headlines are
    body = MergedModel(trained.model.classifier) if trained.card.template else trained.model
    setattr(model, model.base_model_prefix, _TunedBody(body))
    return {f"{kind}_before": before, f"{kind}_after": measure(model, trained.tokenizer)}


class _TunedBody(nn.Module):  # type: ignore[misc]
    """Fine-tuned body in the place of a language model's own."""

    def __init__(self, model: MergedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, **_: Any
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=self.model.hidden(input_ids, attention_mask)
        )


def _sentences() -> list[str]:
    return [sentence for pair in general_pairs() for sentence in pair]


def _masked_loss(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> float:
    """Return the mean cross-entropy in nats of the masked tokens."""
    batch = tokenizer(_sentences(), padding=True, return_tensors="pt", return_special_tokens_mask=True).to(
        model.device
    )
    chance = torch.rand(batch["input_ids"].shape, generator=torch.Generator().manual_seed(0)).to(model.device)
    hidden = (chance < MASKED) & ~batch.pop("special_tokens_mask").bool()
    labels = batch["input_ids"].masked_fill(~hidden, -100)
    with torch.inference_mode():
        found = model(
            input_ids=batch["input_ids"].masked_fill(hidden, tokenizer.mask_token_id),
            attention_mask=batch["attention_mask"],
        )
        return float(
            nn.functional.cross_entropy(found.logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
        )


def _perplexity(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> float:
    """Return exp of the mean cross-entropy in nats of each next token."""
    batch = tokenizer(_sentences(), padding=True, return_tensors="pt").to(model.device)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)[:, 1:]
    with torch.inference_mode():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
        return float(
            nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100).exp()
        )


def _drift(trained: TrainedClassifier, name: str) -> float:
    base = load_base(name)
    untouched = TrainedClassifier(
        MergedModel(SentimentClassifier(base.encoder, base.pooling)).eval().to(trained.device),
        base.tokenizer,
        trained.card,
    )
    return spearman(
        _similarities(lambda texts: untouched.logits(texts)[1]),
        _similarities(lambda texts: trained.logits(texts)[1]),
    )


def _similarities(embed: Callable[[Sequence[str]], Floats]) -> Floats:
    """Return the cosine similarity of each general pair."""
    first, second = (embed(side) for side in zip(*general_pairs(), strict=True))
    return np.asarray(
        (first * second).sum(axis=1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)
    )


def spearman(a: Floats, b: Floats) -> float:
    """Return the rank correlation of two series without ties."""
    return float(np.corrcoef(a.argsort().argsort(), b.argsort().argsort())[0, 1])
