"""A transformer body, a pooling, a three-class head: the network that every method fine-tunes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from models.labels import LABELS
from models.objective import Objective

Pooling = Literal["mean", "pooler", "last"]
"""mean: over the tokens. pooler: the encoder's own. last: the last token, of a decoder."""


@dataclass
class ClassifierOutput(ModelOutput):  # type: ignore[misc]
    """`logits` (batch, 3) in the order of `LABELS`, `embedding` (batch, hidden) the mean over tokens, `loss` given labels."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    embedding: Tensor | None = None


class SentimentClassifier(nn.Module):  # type: ignore[misc]
    """`encoder` (any transformers body), pooled, dropped out, and read by a linear head named `classifier`.

    The configuration is the encoder's own, so that peft and Trainer treat this as any other classifier. A soft prompt's
    outputs take part in the mean: they are learned readers of the text.
    """

    accepts_loss_kwargs = False  # Trainer must divide the loss over accumulated batches itself

    def __init__(self, encoder: PreTrainedModel, pooling: Pooling, dropout: float = 0.1) -> None:
        super().__init__()
        self.encoder = encoder
        self.config = encoder.config
        self.pooling = pooling
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(encoder.config.hidden_size, len(LABELS))
        nn.init.normal_(self.classifier.weight, std=0.02)
        nn.init.zeros_(self.classifier.bias)
        self.objective = Objective()
        if pooling != "pooler" and getattr(encoder, "pooler", None) is not None:
            encoder.pooler = None  # never used, so neither trained, stored nor exported

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        past_key_values: Any = None,
        **_unused: Any,
    ) -> ClassifierOutput:
        """Token ids or embeddings (batch, tokens) with their mask. What else peft passes is not used."""
        prefix = {} if past_key_values is None else {"past_key_values": past_key_values}
        output = self.encoder(
            input_ids=input_ids, inputs_embeds=inputs_embeds, attention_mask=attention_mask, **prefix
        )
        hidden = output.last_hidden_state
        mask = (
            torch.ones(hidden.shape[:2], device=hidden.device)
            if attention_mask is None
            else attention_mask[:, -hidden.shape[1] :]
        )
        embedding = mean_pool(hidden, mask)
        pooled = (
            output.pooler_output
            if self.pooling == "pooler"
            else last_token(hidden, mask)
            if self.pooling == "last"
            else embedding
        )
        logits = self.classifier(self.dropout(pooled.to(self.classifier_weight.dtype)))
        loss = None if labels is None else self.objective(logits, labels)
        return ClassifierOutput(loss=loss, logits=logits, embedding=embedding)

    @property
    def classifier_weight(self) -> Tensor:
        """Of the head, also once peft has wrapped it: it keeps its own precision whatever the body's is."""
        return next(self.classifier.parameters())

    @property
    def device(self) -> torch.device:
        """Asked by peft, to place a soft prompt."""
        return self.classifier_weight.device

    @property
    def is_loaded_in_4bit(self) -> bool:
        """Asked by peft, to put 4-bit layers into place."""
        return bool(getattr(self.encoder, "is_loaded_in_4bit", False))

    @property
    def is_quantized(self) -> bool:
        """Asked by Trainer, which refuses to train a quantised model without adapters."""
        return bool(getattr(self.encoder, "is_quantized", False))

    @property
    def hf_quantizer(self) -> Any:
        """Asked by Trainer."""
        return self.encoder.hf_quantizer

    def get_input_embeddings(self) -> nn.Module:
        """Asked by peft, for prompts and gradient checkpointing."""
        return cast(nn.Module, self.encoder.get_input_embeddings())

    def activation_checkpointing_enable(self, **choices: Any) -> None:
        """Asked by Trainer: activations are recomputed in the backward pass. The frozen embeddings must let gradients through."""
        self.encoder.activation_checkpointing_enable(**choices)
        self.encoder.enable_input_require_grads()


def mean_pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """Mean of (batch, tokens, hidden) over the tokens that the mask (batch, tokens) keeps."""
    weight = mask.to(hidden.dtype).unsqueeze(-1)
    return (hidden * weight).sum(1) / weight.sum(1).clamp(min=1e-9)


def last_token(hidden: Tensor, mask: Tensor) -> Tensor:
    """The hidden state (batch, hidden) of each row's last token that the mask keeps, padded left or right."""
    position = torch.arange(hidden.shape[1], device=hidden.device)
    last = (mask.to(torch.long) * position).argmax(1)
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), last]
