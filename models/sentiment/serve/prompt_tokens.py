"""Tokens of the prompt in which a language model reads a headline: those of prefix and suffix are fixed.

Headlines are tokenised on their own, so that the model's keys and values of the prefix can be kept, and
special tokens that a headline contains are plain text, so that it can't change the prompt's format.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tokenizers import Encoding, Tokenizer

from agent.core.errors import ModelError
from models.cards import PromptTemplate

_PROBE: Final = "x"
_HINT: Final = "use --head linear, or another base"


class PromptTokens:
    """Token ids of a template's parts, and of headlines between them."""

    def __init__(self, tokenizer: Tokenizer, template: PromptTemplate, max_length: int) -> None:
        """Tokenise the template. `max_length` is the largest number of tokens of a headline.

        Raises ModelError if the tokenizer joins a headline's tokens with those around it, or if a label word
        isn't one token.
        """
        self.template = template
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.prefix, self.suffix = self._parts()
        """Ids before and after a headline."""
        self.words = tuple(map(self._word, template.words))
        """Ids of the label words."""
        if len(set(self.words)) != len(self.words):
            raise ModelError(f"label words {template.words} share a token", hint=_HINT)
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.enable_truncation(max_length)

    def headlines(self, texts: Sequence[str]) -> list[Encoding]:
        """Return the encodings of clean texts, without prefix and suffix."""
        spaced = [f" {text}" for text in texts]
        return list(self._tokenizer.encode_batch_fast(spaced, add_special_tokens=False))

    def _parts(self) -> tuple[list[int], list[int]]:
        """Split the ids of a prompt at its headline, which is one short word."""
        first = len(self.template.prefix)
        last = first + 1 + len(_PROBE)
        encoding = self._tokenizer.encode(self._probe, add_special_tokens=False)
        inside = [row for row, (start, end) in enumerate(encoding.offsets) if end > first and start < last]
        if not inside or encoding.offsets[inside[0]][0] < first or encoding.offsets[inside[-1]][1] > last:
            raise ModelError("the tokenizer joins a headline with the prompt around it", hint=_HINT)
        return list(encoding.ids[: inside[0]]), list(encoding.ids[inside[-1] + 1 :])

    @property
    def _probe(self) -> str:
        return f"{self.template.prefix} {_PROBE}{self.template.suffix}"

    def _word(self, word: str) -> int:
        found = word_token(self._tokenizer, self._probe, word)
        if found is None:
            raise ModelError(f"label word {word!r} isn't one token after the prompt", hint=_HINT)
        return found


def word_token(tokenizer: Tokenizer, prompt: str, word: str) -> int | None:
    """Return the id of `word` after `prompt`, None if it isn't one known token there."""
    before = tokenizer.encode(prompt, add_special_tokens=False).ids
    after = tokenizer.encode(prompt + word, add_special_tokens=False).ids
    unknown = getattr(tokenizer.model, "unk_token", None)
    if len(after) != len(before) + 1 or after[:-1] != before:
        return None
    return None if unknown and after[-1] == tokenizer.token_to_id(unknown) else int(after[-1])
