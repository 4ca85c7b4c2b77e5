"""Tiny random base models and labelled headlines, on which any method trains in about a second."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from models.sentiment.train.datasets import Example

SUBJECTS = (
    "bitcoin",
    "ether",
    "the exchange",
    "the miner",
    "the lender",
    "the fund",
    "the token",
    "the wallet maker",
)
VERBS = {
    "bullish": ("surges", "rallies", "wins approval", "beats forecasts"),
    "bearish": ("plunges", "is hacked", "halts withdrawals", "misses forecasts"),
    "neutral": ("holds a meeting", "publishes notes", "names a spokesman", "moves office"),
}
ENDS = (
    "on heavy volume",
    "after the report",
    "as traders watch",
    "before the weekend",
    "in early trade",
    "says a filing",
)


@pytest.fixture(scope="session")
def headlines() -> tuple[Example, ...]:
    """Return 144 distinct headlines, 48 of each class; the verb alone determines the class."""
    rows = [
        Example(f"{subject} {verb} {end}", label, where=f"own:{label}")
        for label, verbs in VERBS.items()
        for verb in verbs
        for subject in SUBJECTS
        for end in ENDS
    ]
    picked = []
    for label in VERBS:
        of_class = [row for row in rows if row.label == label]
        picked += random.Random(1).sample(of_class, 48)
    random.Random(2).shuffle(picked)
    return tuple(picked)


@pytest.fixture(scope="session")
def tiny_bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write random base models and return their folders by name.

    They are a sentence encoder with mean pooling, BERT with a pooler, BERT with a sentiment head, and Llama
    and Qwen2 without a pad token.
    """
    torch = pytest.importorskip("torch")
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    root = tmp_path_factory.mktemp("bases")
    words = sorted(
        {word for group in (SUBJECTS, *VERBS.values(), ENDS) for phrase in group for word in phrase.split()}
    )

    def tokenizer(decoder: bool) -> transformers.PreTrainedTokenizerFast:
        special = ["<unk>", "</s>"] if decoder else ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        inner = Tokenizer(
            models.WordLevel(
                {word: i for i, word in enumerate(special + words)}, unk_token=special[0 if decoder else 1]
            )
        )
        inner.pre_tokenizer = pre_tokenizers.Whitespace()
        if decoder:
            return transformers.PreTrainedTokenizerFast(
                tokenizer_object=inner, unk_token="<unk>", eos_token="</s>"
            )
        inner.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        return transformers.PreTrainedTokenizerFast(
            tokenizer_object=inner,
            pad_token="[PAD]",
            unk_token="[UNK]",
            cls_token="[CLS]",
            sep_token="[SEP]",
            mask_token="[MASK]",
        )

    shape = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "vocab_size": len(words) + 5,
    }
    causal = shape | {"num_key_value_heads": 2, "max_position_embeddings": 128}
    configs = {
        "mean": (transformers.BertConfig(**shape), transformers.BertModel, False),
        "bert": (transformers.BertConfig(**shape), transformers.BertForPreTraining, False),
        "finbert": (
            transformers.BertConfig(**shape, id2label={0: "positive", 1: "negative", 2: "neutral"}),
            transformers.BertForSequenceClassification,
            False,
        ),
        "llama": (transformers.LlamaConfig(**causal), transformers.LlamaForCausalLM, True),
        "qwen": (transformers.Qwen2Config(**causal), transformers.Qwen2ForCausalLM, True),
    }
    for name, (config, kind, decoder) in configs.items():
        torch.manual_seed(0)
        kind(config).save_pretrained(root / name)
        tokenizer(decoder).save_pretrained(root / name)
    (root / "mean" / "1_Pooling").mkdir()
    (root / "mean" / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    return {name: root / name for name in configs}


@pytest.fixture(scope="session")
def word_bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write tiny random language models and return their folders by architecture."""
    pytest.importorskip("torch")
    from tests.models.sentiment.decoder_bases import write_bases

    return write_bases(tmp_path_factory.mktemp("decoders"))
