"""Classification by label words for a training: the examples, the prompt, and the prompt's own bias."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from agent.core.errors import UsageError
from models.cards import PromptTemplate
from models.classification_metrics import Floats
from models.sentiment.serve.prompt_tokens import PromptTokens
from models.sentiment.train.bases import Base
from models.sentiment.train.classifier import SentimentClassifier, WordLogits
from models.sentiment.train.datasets import Example
from models.sentiment.train.label_words import choose_examples, contextual_bias, make_template
from models.sentiment.train.methods.recipe import Recipe
from models.sentiment.train.text_tokens import TextTokens
from models.sentiment.train.trained_model import embed, with_prompt
from models.sentiment.train.word_rows import word_logits


class WordHead(msgspec.Struct, frozen=True):
    """A base's classification by label words."""

    prompt: PromptTokens
    tokens: TextTokens
    logits: WordLogits

    @property
    def template(self) -> PromptTemplate:
        """The prompt as the card has it."""
        return self.prompt.template


def make_word_head(base: Base, recipe: Recipe, examples: Sequence[Example]) -> WordHead:
    """Draw the examples that the prompt shows, choose label words, and measure the prompt's bias.

    Raises UsageError if the base isn't a decoder, ModelError if its tokenizer has no single tokens for label
    words, and DataError if there are too few examples of a class.
    """
    if base.pooling != "last":
        what = f"base model {base.name} reads in both directions and writes no words"
        raise UsageError(what, hint="use --head linear, or a decoder such as smollm2")
    template = make_template(base.tokenizer, choose_examples(examples, recipe.shots, recipe.seed))
    prompt = PromptTokens(base.tokenizer.backend_tokenizer, template, recipe.max_length)
    tokens = TextTokens(base.tokenizer, recipe.max_length, prompt)
    logits = word_logits(base, prompt)
    device = base.encoder.device
    classifier = SentimentClassifier(base.encoder, base.pooling, words=logits).eval().to(device)
    model = with_prompt(classifier, prompt).to(device)

    def answers(texts: Sequence[str]) -> Floats:
        return embed(model, tokens, texts, device=str(device))[0]

    prompt.template = msgspec.structs.replace(template, bias=contextual_bias(answers))
    return WordHead(prompt, tokens, word_logits(base, prompt))
