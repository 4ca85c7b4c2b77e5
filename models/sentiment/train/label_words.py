"""Classification by a language model's own words: its logits of three label words at the end of a prompt.

The prompt shows the headline, and before it examples if there are any (few-shot). An instruction model gets
it as a conversation in its own chat template.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from jinja2 import TemplateError
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from agent.core.errors import DataError, ModelError
from models.calibration import softmax
from models.cards import PromptTemplate
from models.classification_metrics import Floats
from models.labels import LABELS
from models.sentiment.serve.prompt_tokens import word_token
from models.sentiment.train.datasets import Example

QUESTION: Final = "Classify the sentiment of this financial headline as negative, neutral or positive."
LETTERED: Final = (
    "Classify the sentiment of this financial headline as A (negative), B (neutral) or C (positive)."
)
WORDS: Final = ("negative", "neutral", "positive")
LETTERS: Final = ("A", "B", "C")
CONTENT_FREE: Final = ("N/A", "…", "Headline")
"""Texts that say nothing; the mean answer to them is the prompt's own bias."""
_HEADLINE: Final = "Headline:"
_ANSWER: Final = "Sentiment:"
_SLOT: Final = "\ue000"  # stands for the headline while the prompt is composed

Answers = Callable[[Sequence[str]], Floats]
"""Texts → logits (n, 3)."""


def choose_examples(examples: Sequence[Example], count: int, seed: int) -> tuple[Example, ...]:
    """Draw `count` examples, of the classes in turn, in random order.

    Raises DataError if a class has too few.
    """
    rng = np.random.default_rng(seed)
    chosen: list[Example] = []
    for number, label in enumerate(LABELS):
        wanted = (count - number + len(LABELS) - 1) // len(LABELS)
        of_class = [example for example in examples if example.label == label]
        if len(of_class) < wanted:
            what = f"{count} examples need {wanted} of {label}, and there are {len(of_class)}"
            raise DataError(what, hint="show fewer examples (--shots)")
        chosen += [of_class[row] for row in rng.choice(len(of_class), wanted, replace=False)]
    return tuple(chosen[row] for row in rng.permutation(len(chosen)))


def make_template(tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example] = ()) -> PromptTemplate:
    """Compose the prompt, and choose label words that are one token each after it.

    The words are negative, neutral and positive, with a capital or a blank if need be; if one of them is more
    than one token, they are the letters A, B and C. Raises ModelError if those aren't single tokens either.
    """
    inner = tokenizer.backend_tokenizer
    inner = Tokenizer.from_str(inner.to_str())
    inner.no_truncation()
    inner.no_padding()
    for question, names in ((QUESTION, WORDS), (LETTERED, LETTERS)):
        for shown in (names, tuple(name.title() for name in names)):
            prefix, suffix = _compose(tokenizer, question, shown, examples)
            for blank in ("", " ") if suffix[-1:].isspace() else (" ", ""):
                words = [f"{blank}{name}" for name in shown]
                found = [word_token(inner, f"{prefix} x{suffix}", word) for word in words]
                if None not in found and len(set(found)) == len(words):
                    bearish, neutral, bullish = words
                    return PromptTemplate(prefix=prefix, suffix=suffix, words=(bearish, neutral, bullish))
    raise ModelError(
        "the base's tokenizer has no single tokens for label words", hint="use --head linear, or another base"
    )


def _compose(
    tokenizer: PreTrainedTokenizerBase, question: str, names: Sequence[str], examples: Sequence[Example]
) -> tuple[str, str]:
    """Return the text before and after the headline. The answer has begun, and only the word is missing."""
    shots = [
        (f"{_HEADLINE} {example.text}", f"{_ANSWER} {names[LABELS.index(example.label)]}")
        for example in examples
    ]
    turns = [*shots, (f"{_HEADLINE}{_SLOT}", _ANSWER)]
    if tokenizer.chat_template:
        text = _conversation(tokenizer, question, turns)
    else:
        begin = tokenizer.bos_token if _adds_begin(tokenizer) else ""
        text = f"{begin}{question}\n\n" + "\n\n".join(f"{asked}\n{answered}" for asked, answered in turns)
    prefix, slot, suffix = text.partition(_SLOT)
    if not slot or _SLOT in suffix:
        raise ModelError("the base's chat template doesn't show the question once", hint="use --head linear")
    return prefix, suffix


def _conversation(tokenizer: PreTrainedTokenizerBase, question: str, turns: Sequence[tuple[str, str]]) -> str:
    """Return the conversation up to the word. The question is the system's message if there is such."""
    messages = []
    for asked, answered in turns:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    *messages, last = messages
    first = messages[0] | {"content": f"{question}\n{messages[0]['content']}"}
    for opening in ([{"role": "system", "content": question}, messages[0]], [first]):
        try:
            text = tokenizer.apply_chat_template(
                [*opening, *messages[1:]], tokenize=False, add_generation_prompt=True, enable_thinking=False
            )
        except TemplateError:  # as in Gemma, whose template has no system's message
            continue
        if question in text:
            return f"{text}{last['content']}"
    raise ModelError("the base's chat template doesn't show the question", hint="use --head linear")


def _adds_begin(tokenizer: PreTrainedTokenizerBase) -> bool:
    return bool(tokenizer.bos_token) and tokenizer("x")["input_ids"][:1] == [tokenizer.bos_token_id]


def contextual_bias(answers: Answers) -> tuple[float, float, float]:
    """Return what to add to the logits so that the mean answer to `CONTENT_FREE` is the same for each class.

    Zhao et al. (2021), "Calibrate before use": the probabilities are divided by those of an empty input.
    """
    shares = softmax(answers(CONTENT_FREE), 1.0).mean(axis=0)
    bearish, neutral, bullish = (-np.log(np.maximum(shares, 1e-9))).tolist()
    return bearish, neutral, bullish
