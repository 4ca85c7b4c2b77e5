"""Token ids of clean texts for a model that trains or is measured: of the texts alone, or inside a prompt."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from models.cards import Card
from models.sentiment.serve.prompt_tokens import PromptTokens


class TextTokens:
    """Tokeniser of texts of at most `max_length` tokens, inside a `prompt` if there is one."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, max_length: int, prompt: PromptTokens | None = None
    ) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.prompt = prompt
        if prompt:
            tokenizer.padding_side = "right"  # positions count from the kept prefix

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, card: Card) -> TextTokens:
        """Return those that a card describes. Raises ModelError as `PromptTokens` does."""
        if card.template is None:
            return cls(tokenizer, card.max_length)
        prompt = PromptTokens(tokenizer.backend_tokenizer, card.template, card.max_length)
        return cls(tokenizer, card.max_length, prompt)

    def whole(self, texts: Sequence[str]) -> list[list[int]]:
        """Return all that the model reads, for training: its keys of the prefix change with each step."""
        prefix = self.prompt.prefix if self.prompt else []
        return [[*prefix, *ids] for ids in self.after_prefix(texts)]

    def after_prefix(self, texts: Sequence[str]) -> list[list[int]]:
        """Return what follows the prompt's prefix: headline and suffix. Without a prompt: the text."""
        if self.prompt:
            suffix = self.prompt.suffix
            return [[*encoding.ids, *suffix] for encoding in self.prompt.headlines(texts)]
        if not texts:
            return []
        ids = self.tokenizer(list(texts), truncation=True, max_length=self.max_length)["input_ids"]
        return [list(row) for row in ids]
