"""The network of a reader: one transformer body, and heads for the headline, its assets and its kind."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from agent.core.news_kinds import NEWS_KINDS
from models.labels import LABELS
from models.sentiment.train.classifier import mean_pool


class ReaderOutput(NamedTuple):
    """Logits and states of a batch; `assets` are rows of `ReaderBatch.spans`."""

    logits: Tensor  # (texts, 3)
    pooled: Tensor  # (texts, hidden)
    kind_logits: Tensor  # (texts, 9)
    asset_logits: Tensor  # (texts, assets, 3)
    asset_pooled: Tensor  # (texts, assets, hidden)


class HeadlineReader(nn.Module):  # type: ignore[misc]
    """A transformer body with three linear heads: `classifier`, `kind_classifier` and `asset_classifier`."""

    def __init__(self, encoder: PreTrainedModel, dropout: float = 0.1) -> None:
        super().__init__()
        self.encoder = encoder
        self.config = encoder.config
        if getattr(encoder, "pooler", None) is not None:
            encoder.pooler = None  # never used, so neither trained, stored nor exported
        size = encoder.config.hidden_size
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(size, len(LABELS))
        self.kind_classifier = nn.Linear(size, len(NEWS_KINDS))
        self.asset_classifier = nn.Linear(2 * size, len(LABELS))
        for head in self.heads:
            nn.init.normal_(head.weight, std=0.02)
            nn.init.zeros_(head.bias)

    @property
    def heads(self) -> tuple[nn.Linear, ...]:
        """The linear heads."""
        return self.classifier, self.kind_classifier, self.asset_classifier

    def forward(self, input_ids: Tensor, attention_mask: Tensor, spans: Tensor) -> ReaderOutput:
        """Read token ids (texts, tokens) with their mask.

        `spans` (texts, assets, tokens) weighs the tokens that name each asset; the weights of an asset sum
        to 1, those of a row that pads to 0.
        """
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        pooled = mean_pool(hidden, attention_mask)
        named = torch.matmul(spans, hidden)
        both = torch.cat((pooled.unsqueeze(1).expand_as(named), named), dim=-1)
        summary = self.dropout(pooled)
        return ReaderOutput(
            self.classifier(summary),
            pooled,
            self.kind_classifier(summary),
            self.asset_classifier(self.dropout(both)),
            named,
        )
