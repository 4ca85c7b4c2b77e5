"""The fine-tuning methods, each as peft implements it: one function and one `register` call a method."""

from __future__ import annotations

from peft import (
    AdaLoraConfig,
    LoraConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    PromptTuningInit,
    TaskType,
)

from models.sentiment.train.methods import UNTRAINED, MethodContext, register
from models.sentiment.train.methods.recipe import MethodDefaults, Recipe
from models.sentiment.train.methods.targets import target_modules

_LORA = MethodDefaults(learning_rate=2e-3, head_learning_rate=1e-3, epochs=4, ranked=True)


def _task(recipe: Recipe) -> TaskType | None:
    """Return the task, by which peft also trains and saves the head; None if label words replace it."""
    return TaskType.SEQ_CLS if recipe.head == "linear" else None


@register("lora", _LORA)
def lora(recipe: Recipe, context: MethodContext) -> LoraConfig:
    """LoRA (Hu et al. 2021): a low-rank update beside chosen linear layers, scaled by alpha / rank."""
    return LoraConfig(
        task_type=_task(recipe),
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules=target_modules(context.encoder, recipe.targets),
    )


# QLoRA (Dettmers et al. 2023): LoRA on a body frozen in 4-bit NormalFloat with double quantisation
register("qlora", _LORA, four_bit=True)(lora)


@register("adalora", MethodDefaults(learning_rate=5e-3, head_learning_rate=1e-3, epochs=5, ranked=True))
def adalora(recipe: Recipe, context: MethodContext) -> AdaLoraConfig:
    """AdaLoRA (Zhang et al. 2023): updates in SVD form, whose rank moves to the layers that need it most.

    Training starts at 1.5 × the rank, prunes after the first tenth of the steps and settles for the last
    third.
    """
    rank = recipe.rank or 8
    return AdaLoraConfig(
        task_type=_task(recipe),
        init_r=max(rank * 3 // 2, rank + 1),
        target_r=rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules=target_modules(context.encoder, recipe.targets),
        total_step=max(context.steps, 3),
        tinit=context.steps // 10,
        tfinal=context.steps // 3,
        deltaT=max(context.steps // 100, 1),
    )


@register("prefix", MethodDefaults(learning_rate=2e-2, head_learning_rate=3e-3, epochs=5, virtual_tokens=20))
def prefix(recipe: Recipe, _context: MethodContext) -> PrefixTuningConfig:
    """Prefix-tuning (Li and Liang 2021): learned keys and values before the text, in every layer.

    Without a projection, as in P-tuning v2: the prefixes themselves are learned.
    """
    return PrefixTuningConfig(task_type=TaskType.SEQ_CLS, num_virtual_tokens=recipe.virtual_tokens)


@register("prompt", MethodDefaults(learning_rate=3e-2, head_learning_rate=3e-3, epochs=5, virtual_tokens=10))
def prompt(recipe: Recipe, _context: MethodContext) -> PromptTuningConfig:
    """Prompt tuning (Lester et al. 2021): learned embeddings before the text, at the input alone.

    They start as random entries of the vocabulary, which learn faster than noise.
    """
    return PromptTuningConfig(
        task_type=TaskType.SEQ_CLS,
        num_virtual_tokens=recipe.virtual_tokens,
        prompt_tuning_init=PromptTuningInit.SAMPLE_VOCAB,
    )


@register("ptuning", MethodDefaults(learning_rate=1e-3, head_learning_rate=3e-3, epochs=5, virtual_tokens=10))
def ptuning(recipe: Recipe, context: MethodContext) -> PromptEncoderConfig:
    """P-tuning (Liu et al. 2021): an MLP as wide as the body generates the soft prompt, which steadies
    training.
    """
    return PromptEncoderConfig(
        task_type=TaskType.SEQ_CLS,
        num_virtual_tokens=recipe.virtual_tokens,
        encoder_hidden_size=context.encoder.config.hidden_size,
    )


@register("full", MethodDefaults(learning_rate=1e-4, head_learning_rate=1e-3, epochs=4))
def full(_recipe: Recipe, _context: MethodContext) -> None:
    """Full fine-tuning, without an adapter: every weight is trained."""


@register(UNTRAINED, MethodDefaults(learning_rate=1e-4, head_learning_rate=1e-4, epochs=1))
def untrained(_recipe: Recipe, _context: MethodContext) -> None:
    """No training: a language model answers from its prompt and its examples (Brown et al. 2020)."""
