"""The network that every method fine-tunes: a transformer body, a pooling, and three logits of a new head or
of a language model's own words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from models.labels import LABELS
from models.objective import Objective

Pooling = Literal["mean", "pooler", "last"]
"""mean: over the tokens. pooler: the encoder's own. last: a decoder's last token."""


@dataclass
class ClassifierOutput(ModelOutput):  # type: ignore[misc]
    """`logits` (batch, 3) in the order of `LABELS`; `embedding` (batch, hidden), the mean over tokens;
    `loss` with labels.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    embedding: Tensor | None = None


class WordLogits(nn.Module):  # type: ignore[misc]
    """A language model's logits of three label words, plus a constant `bias`.

    Only the body is trained, so that the whole stays a language model. `rows` (3, hidden) are those of its
    output matrix; None if that matrix is the input embedding, whose rows `ids` are then used as they are.
    """

    def __init__(
        self,
        ids: Sequence[int],
        rows: Tensor | None,
        bias: Sequence[float],
        cap: float | None = None,
    ) -> None:
        super().__init__()
        self.cap = cap
        self.register_buffer("ids", torch.tensor(list(ids)), persistent=False)
        self.register_buffer("bias", torch.tensor(list(bias), dtype=torch.float32), persistent=False)
        self.register_buffer("rows", None if rows is None else rows.detach().clone())

    def forward(self, pooled: Tensor, embeddings: Tensor) -> Tensor:
        """Return logits (batch, 3) of the last token's states (batch, hidden). `cap` is the model's own bound
        of logits (Gemma 2).
        """
        rows = embeddings[self.ids] if self.rows is None else self.rows
        logits = functional.linear(pooled.to(rows.dtype), rows).float()
        if self.cap:
            logits = torch.tanh(logits / self.cap) * self.cap
        return logits + self.bias


class SentimentClassifier(nn.Module):  # type: ignore[misc]
    """Any transformers body, pooling, dropout, and a linear head named `classifier`; or `words` instead of a
    head.

    The configuration is the encoder's, so peft and Trainer treat this as any other classifier. The outputs of
    a soft prompt are part of the mean, because they are trained to summarise the text.
    """

    accepts_loss_kwargs = False  # Trainer must average the loss over accumulated batches itself

    def __init__(
        self,
        encoder: PreTrainedModel,
        pooling: Pooling,
        dropout: float = 0.1,
        words: WordLogits | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.config = encoder.config
        self.pooling = pooling
        self.dropout = nn.Dropout(dropout)
        self.words = words
        if words is None:
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
        """Classify token ids or embeddings (batch, tokens) with their mask. Other arguments of peft are
        ignored.
        """
        prefix = {} if past_key_values is None else {"past_key_values": past_key_values}
        output = self.encoder(
            input_ids=input_ids, inputs_embeds=inputs_embeds, attention_mask=attention_mask, **prefix
        )
        hidden = output.last_hidden_state
        everything = torch.ones(hidden.shape[:2], device=hidden.device)
        mask = everything if attention_mask is None else attention_mask[:, -hidden.shape[1] :]
        pooled = embedding = mean_pool(hidden, mask)
        if self.pooling != "mean":
            pooled = output.pooler_output if self.pooling == "pooler" else last_token(hidden, mask)
        if self.words is None:
            logits = self.classifier(self.dropout(pooled.to(self.classifier_weight.dtype)))
        else:
            logits = self.words(pooled, self.get_input_embeddings().weight)
        loss = None if labels is None else self.objective(logits, labels)
        return ClassifierOutput(loss=loss, logits=logits, embedding=embedding)

    @property
    def classifier_weight(self) -> Tensor:
        """Weight of the head, also after peft has wrapped it. Its precision doesn't follow the body's.
        Without a head: the input embeddings.
        """
        if self.words is not None:
            return cast(Tensor, self.encoder.get_input_embeddings().weight)
        return next(self.classifier.parameters())

    @property
    def device(self) -> torch.device:
        """Device on which peft places a soft prompt."""
        return self.classifier_weight.device

    @property
    def is_loaded_in_4bit(self) -> bool:
        """True if peft must insert 4-bit layers."""
        return bool(getattr(self.encoder, "is_loaded_in_4bit", False))

    @property
    def is_quantized(self) -> bool:
        """True if Trainer must refuse to train the model without adapters."""
        return bool(getattr(self.encoder, "is_quantized", False))

    @property
    def hf_quantizer(self) -> Any:
        """Quantiser of the encoder, for Trainer."""
        return self.encoder.hf_quantizer

    def get_input_embeddings(self) -> nn.Module:
        """Return the encoder's input embeddings, which peft needs for prompts and gradient checkpointing."""
        return cast(nn.Module, self.encoder.get_input_embeddings())

    def activation_checkpointing_enable(self, **choices: Any) -> None:
        """Recompute activations in the backward pass, for Trainer."""
        self.encoder.activation_checkpointing_enable(**choices)
        # Gradients must pass through the frozen embeddings
        self.encoder.enable_input_require_grads()


def mean_pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of (batch, tokens, hidden) over the tokens that the mask (batch, tokens) keeps."""
    weight = mask.to(hidden.dtype).unsqueeze(-1)
    return (hidden * weight).sum(1) / weight.sum(1).clamp(min=1e-9)


def last_token(hidden: Tensor, mask: Tensor) -> Tensor:
    """Return the hidden state (batch, hidden) of each row's last unmasked token, with padding on either
    side.
    """
    position = torch.arange(hidden.shape[1], device=hidden.device)
    last = (mask.to(torch.long) * position).argmax(1)
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), last]
