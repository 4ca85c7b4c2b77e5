"""Trained folders in torch, for evaluation and for the export to the serving format."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, cast

import msgspec
import numpy as np
import structlog
import torch
from peft import PeftModel
from peft.utils import PeftType, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, DynamicCache, PreTrainedTokenizerBase

from agent.core.errors import ModelError, UsageError
from agent.system.atomic import settled
from models.calibration import softmax
from models.cards import CARD_NAME, Card, check_files, fingerprint, read_card
from models.classification_metrics import Floats
from models.sentiment.serve.headline_text import clean
from models.sentiment.serve.prompt_tokens import PromptTokens
from models.sentiment.train.bases import Base, load_base, refuse_code
from models.sentiment.train.classifier import Pooling, SentimentClassifier
from models.sentiment.train.methods import UNTRAINED
from models.sentiment.train.text_tokens import TextTokens
from models.sentiment.train.word_rows import WORDS_SHA256, make_word_logits, rows_sha256, word_logits

ADAPTER_CONFIG: Final = "adapter_config.json"
ADAPTER_WEIGHTS: Final = "adapter_model.safetensors"
FULL_WEIGHTS: Final = "model.safetensors"
TOKENIZER: Final = "tokenizer.json"
_log: Final = structlog.get_logger(__name__)


class MergedModel(nn.Module):  # type: ignore[misc]
    """Classifier without peft: (input_ids, attention_mask) → (logits (batch, 3), embedding (batch, hidden)).

    Low-rank updates are merged into the weights beforehand. A soft `prompt` (tokens, hidden) and `prefixes`,
    a (key, value) of (heads, tokens, head size) for each layer, become constants of the graph.
    """

    def __init__(
        self,
        classifier: SentimentClassifier,
        prompt: Tensor | None = None,
        prefixes: Sequence[tuple[Tensor, Tensor]] = (),
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self.register_buffer("prompt", prompt)
        self.layers = len(prefixes)
        for layer, (key, value) in enumerate(prefixes):
            self.register_buffer(f"key_{layer}", key)
            self.register_buffer(f"value_{layer}", value)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Classify token ids with their mask (batch, tokens)."""
        output = self.classifier(**self._inputs(input_ids, attention_mask))
        return output.logits, output.embedding

    def hidden(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the last hidden states of the text's tokens (batch, tokens, hidden), without those of
        prompts.
        """
        states = self.classifier.encoder(**self._inputs(input_ids, attention_mask)).last_hidden_state
        return states[:, -input_ids.shape[1] :]

    def _inputs(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Any]:
        batch = input_ids.shape[0]
        if self.prompt is not None:
            words = self.classifier.get_input_embeddings()(input_ids)
            soft = self.prompt.to(words.dtype).unsqueeze(0).expand(batch, -1, -1)
            return {
                "inputs_embeds": torch.cat([soft, words], dim=1),
                "attention_mask": _longer(attention_mask, self.prompt.shape[0]),
            }
        if self.layers:
            names = [(f"key_{layer}", f"value_{layer}") for layer in range(self.layers)]
            pairs = [tuple(getattr(self, name).expand(batch, -1, -1, -1) for name in pair) for pair in names]
            return {
                "input_ids": input_ids,
                "attention_mask": _longer(attention_mask, pairs[0][0].shape[-2]),
                "past_key_values": DynamicCache(pairs),
            }
        return {"input_ids": input_ids, "attention_mask": attention_mask}


class TrainedClassifier(msgspec.Struct):
    """A loaded model in evaluation mode and full precision."""

    model: MergedModel
    tokenizer: PreTrainedTokenizerBase
    card: Card
    device: str = "cpu"
    tokens: TextTokens | None = None
    """Tokens of texts in the card's prompt, once they are needed."""

    def logits(self, texts: Sequence[str], batch_size: int = 32) -> tuple[Floats, Floats]:
        """Return (logits (n, 3), embeddings (n, hidden)) of raw texts."""
        if self.tokens is None:
            self.tokens = TextTokens.of(self.tokenizer, self.card)
        return embed(self.model, self.tokens, texts, batch_size=batch_size, device=self.device)

    def probabilities(self, texts: Sequence[str], batch_size: int = 32) -> Floats:
        """Return calibrated probabilities (n, 3) of raw texts."""
        return softmax(self.logits(texts, batch_size)[0], self.card.temperature)


def embed(
    model: MergedModel,
    tokens: TextTokens,
    texts: Sequence[str],
    *,
    batch_size: int = 32,
    device: str = "cpu",
) -> tuple[Floats, Floats]:
    """Return (logits (n, 3), embeddings (n, hidden)) of raw texts, cleaned and in batches of similar lengths.

    With a prompt, `model` holds its prefix (see `with_prompt`).
    """
    encoded = tokens.after_prefix([clean(text) for text in texts])
    order = sorted(range(len(texts)), key=lambda i: len(encoded[i]))
    found = []
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            ids = [encoded[i] for i in order[start : start + batch_size]]
            padded = tokens.tokenizer.pad({"input_ids": ids}, return_tensors="pt").to(device)
            found.append(
                [part.double().cpu().numpy() for part in model(padded["input_ids"], padded["attention_mask"])]
            )
    back = np.argsort(order)
    logits, embeddings = (np.concatenate(parts)[back] for parts in zip(*found, strict=True))
    return logits, embeddings


def with_prompt(classifier: SentimentClassifier, prompt: PromptTokens) -> MergedModel:
    """Return the model with the keys and values of the prompt's prefix, which are the same for each text.

    Raises ModelError if the architecture keeps none.
    """
    encoder = classifier.encoder
    ids = torch.tensor([prompt.prefix], device=encoder.get_input_embeddings().weight.device)
    with torch.inference_mode():
        cache = encoder(input_ids=ids, use_cache=True).past_key_values
    layers = getattr(cache, "layers", ())
    lengths = {0 if getattr(layer, "keys", None) is None else layer.keys.shape[-2] for layer in layers}
    if lengths != {ids.shape[1]}:  # such as a state-space model, or a window that is shorter than the prompt
        what = f"a {encoder.config.model_type} keeps no keys and values of a prompt of {ids.shape[1]} tokens"
        raise ModelError(what, hint="use --head linear, fewer --shots, or another base")
    # Clones, because tensors of inference mode can't be saved by an export
    return MergedModel(
        classifier, prefixes=[(layer.keys[0].clone(), layer.values[0].clone()) for layer in layers]
    )


def load_trained(
    folder: Path, device: str = "cpu", *, base: str | None = None, four_bit: bool = False
) -> TrainedClassifier:
    """Load a folder written by `tapewire train sentiment`, merged into `base` (default: the one in its card).

    With `four_bit` the base is in 4 bits, and the adapter stays beside it unmerged.

    Raises ModelError if the folder is damaged, holds an export and no adapter, was trained on another base,
    or has other files than its card records, and if the model's output is not finite.
    """
    folder = settled(folder)
    card = read_card(folder)
    _check_origin(card, folder)
    refuse_code(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        tokens = TextTokens.of(tokenizer, card)
        if (folder / ADAPTER_CONFIG).is_file():
            model = _with_adapter(folder, card, base, tokens, four_bit)
        elif (folder / FULL_WEIGHTS).is_file():
            if four_bit:
                what = f"{folder} holds whole weights, which aren't served in 4 bits"
                raise UsageError(what, hint="use another precision")
            model = _merged(_fully_tuned(folder, card, tokens), tokens)
        elif card.method == UNTRAINED:
            model = _merged(
                _classifier(_checked_base(folder, card, base, four_bit), folder, card, tokens), tokens
            )
        else:
            hint = "name a folder written by `tapewire train`"
            raise ModelError(f"{folder} holds neither an adapter nor full weights", hint=hint)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        hint = "the folder is damaged: train again"
        raise ModelError(f"{folder} cannot be loaded: {first}", hint=hint) from error
    model.eval().to(device)
    trained = TrainedClassifier(model, tokenizer, card, device, tokens)
    if not all(np.isfinite(part).all() for part in trained.logits(["Markets are open"])):
        what = f"{folder}: the model's output is not finite numbers"
        raise ModelError(what, hint="train again, at a lower learning rate")
    return trained


def _check_origin(card: Card, folder: Path) -> None:
    """Raise ModelError unless weights and tokenizer are those that the card was written for."""
    weights = next((name for name in (ADAPTER_WEIGHTS, FULL_WEIGHTS) if (folder / name).is_file()), "")
    if card.files:
        config = ADAPTER_CONFIG if weights == ADAPTER_WEIGHTS else ""
        check_files(card, folder, filter(None, (weights, config, TOKENIZER)))
        return
    if not (card.fingerprint and weights and (folder / TOKENIZER).is_file()):
        return
    if card.fingerprint != fingerprint(
        [folder / weights, folder / TOKENIZER], card.temperature, card.template
    ):
        changed = f"{weights}, {TOKENIZER} or the temperature"
        what = f"{folder}: {changed} are not those that {CARD_NAME} was written for"
        raise ModelError(what, hint="copy the whole folder again, or train again")


def _checked_base(folder: Path, card: Card, base_name: str | None, serve_four_bit: bool) -> Base:
    """Load the base, in full precision unless `serve_four_bit`. Raises ModelError if it isn't the one that
    the card names.
    """
    four_bit, pooling = serve_four_bit or card.method == "qlora", cast(Pooling, card.pooling)
    base = load_base(base_name or card.base, four_bit=four_bit, pooling=pooling)
    same_embeddings = card.base_sha256 == base.sha256
    same = card.base_weights_sha256 == base.weights_sha256 if card.base_weights_sha256 else same_embeddings
    if not same:
        layers = ": its layers have other weights" if same_embeddings else ""
        release = "in the release it was trained on, without an adapter merged into it"
        raise ModelError(
            f"{folder} was trained on another base than {base.name}{layers}",
            hint=f"its card names {card.base}: use that one, {release}",
        )
    if not card.base_weights_sha256:
        reason = "its card is of an earlier version"
        _log.warning("only the base's embeddings are checked", folder=str(folder), reason=reason)
    # Merging into 4-bit weights would change predictions, merging into dequantised ones does not
    if four_bit and not serve_four_bit:
        base.encoder.dequantize()
    return base


def _classifier(base: Base, folder: Path, card: Card, tokens: TextTokens) -> SentimentClassifier:
    if tokens.prompt is None:
        return SentimentClassifier(base.encoder, base.pooling)
    words = word_logits(base, tokens.prompt)
    if rows_sha256(words) != card.notes.get(WORDS_SHA256, ""):
        what = f"{folder} was trained on another base than {base.name}: its output matrix has other weights"
        raise ModelError(what, hint=f"its card names {card.base}: use that one")
    return SentimentClassifier(base.encoder, base.pooling, words=words)


def _merged(classifier: SentimentClassifier, tokens: TextTokens) -> MergedModel:
    return with_prompt(classifier.eval(), tokens.prompt) if tokens.prompt else MergedModel(classifier)


def _with_adapter(
    folder: Path, card: Card, base_name: str | None, tokens: TextTokens, four_bit: bool
) -> MergedModel:
    classifier = _classifier(_checked_base(folder, card, base_name, four_bit), folder, card, tokens)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Found missing adapter keys")  # see `_check_adapter`
        adapted = PeftModel.from_pretrained(classifier, folder, is_trainable=False)
    _check_adapter(folder, adapted)
    if four_bit and not adapted.active_peft_config.is_prompt_learning:
        return _merged(adapted.base_model.model, tokens)
    merged = merge_adapter(adapted)
    return _merged(merged.classifier, tokens) if tokens.prompt else merged


def _check_adapter(folder: Path, adapted: PeftModel) -> None:
    """Raise ModelError unless the adapter's file has exactly the weights that its configuration requires on
    this base.

    peft would leave missing weights as they were initialised, and ignore superfluous ones.
    """
    expected = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    path = folder / ADAPTER_WEIGHTS
    if path.is_file():
        with safe_open(path, framework="pt") as file:
            found = set(file.keys())
    else:  # written by an earlier version of peft
        path = folder / "adapter_model.bin"
        found = set(torch.load(path, map_location="meta", weights_only=True))
    superfluous = "has, and the base has no place for,"
    for what, names in (("lacks", expected - found), (superfluous, found - expected)):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            hint = "the adapter is not whole: copy it again, or train again"
            raise ModelError(f"{path} {what} {min(names)}{more}", hint=hint)


def merge_adapter(adapted: PeftModel) -> MergedModel:
    """Merge what peft added into the weights, or make it constants. The PeftModel must not be used
    afterwards.
    """
    config = adapted.active_peft_config
    if not config.is_prompt_learning:
        return MergedModel(adapted.merge_and_unload())
    with torch.no_grad():
        learned = adapted.get_prompt(batch_size=1)
    classifier = adapted.base_model
    _unwrap_head(classifier)
    if config.peft_type == PeftType.PREFIX_TUNING:
        layers = getattr(learned, "self_attention_cache", learned).layers
        prefixes = [(layer.keys[0].clone(), layer.values[0].clone()) for layer in layers]
        return MergedModel(classifier, prefixes=prefixes)
    return MergedModel(classifier, prompt=learned[0].clone())


def _unwrap_head(classifier: SentimentClassifier) -> None:
    wrapper: Any = classifier.classifier
    if hasattr(wrapper, "modules_to_save"):
        classifier.classifier = wrapper.modules_to_save[wrapper.active_adapter]


def _fully_tuned(folder: Path, card: Card, tokens: TextTokens) -> SentimentClassifier:
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    encoder = AutoModel.from_config(config, trust_remote_code=False)
    weights = load_file(folder / FULL_WEIGHTS)
    words = None
    if tokens.prompt:
        words = make_word_logits(config, tokens.prompt, weights.get("words.rows"))
    classifier = SentimentClassifier(encoder, cast(Pooling, card.pooling), words=words)
    classifier.load_state_dict(weights)
    return classifier


def _longer(mask: Tensor, tokens: int) -> Tensor:
    """Return the mask (batch, text tokens) with `tokens` ones before it."""
    return torch.cat([mask.new_ones(mask.shape[0], tokens), mask], dim=1)
