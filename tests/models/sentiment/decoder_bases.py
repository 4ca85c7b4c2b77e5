"""Tiny random language models of several architectures, with the words of prompts and headlines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from models.sentiment.train.label_words import QUESTION
from tests.models.sentiment.conftest import ENDS, SUBJECTS, VERBS

PROMPT_WORDS = [*QUESTION.replace(".", " .").replace(",", " ,").split(), "Headline", "Sentiment", ":", "user"]
SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "max_position_embeddings": 256,
}
CONFIGS: dict[str, tuple[type[transformers.PretrainedConfig], dict[str, Any]]] = {
    "llama": (transformers.LlamaConfig, {}),
    "qwen2": (transformers.Qwen2Config, {"tie_word_embeddings": True}),
    "qwen3": (transformers.Qwen3Config, {"tie_word_embeddings": True, "head_dim": 16}),
    "mistral": (transformers.MistralConfig, {"sliding_window": 128}),
    "gemma": (transformers.GemmaConfig, {"head_dim": 16}),
    "gemma2": (transformers.Gemma2Config, {"head_dim": 16, "final_logit_softcapping": 0.5}),
}


def tokenizer(*, chat: bool = False) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer with a token for each word of the prompt and of the headlines."""
    phrases = [*SUBJECTS, *(verb for verbs in VERBS.values() for verb in verbs), *ENDS]
    words = [
        "negative",
        "neutral",
        "positive",
        *PROMPT_WORDS,
        *(w for phrase in phrases for w in phrase.split()),
    ]
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        special_tokens=["<unk>", "</s>"], initial_alphabet=alphabet, vocab_size=2000
    )
    inner.train_from_iterator([f" {word}" for word in words for _ in range(2)], trainer)
    found = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", eos_token="</s>")
    if chat:
        found.chat_template = (
            "{% for message in messages %}{{ message.role + ': ' + message.content + '</s>' }}{% endfor %}"
        )
    return found


def write_bases(root: Path) -> dict[str, Path]:
    """Write a model of each architecture; return their folders by name."""
    for name, (kind, more) in CONFIGS.items():
        torch.manual_seed(0)
        own = tokenizer(chat=name in ("qwen2", "gemma2"))
        config = kind(vocab_size=len(own), eos_token_id=1, pad_token_id=1, bos_token_id=None, **SIZES, **more)
        AutoModelForCausalLM.from_config(config).save_pretrained(root / name)
        own.save_pretrained(root / name)
    return {name: root / name for name in CONFIGS}
