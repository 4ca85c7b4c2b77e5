"""Measures LoRA and QLoRA of language models: memory and tokens/s, each with and without gradient
checkpointing; with --serve also a QLoRA training and its scoring, as `tapewire worker sentiment` does it.

On a CPU it uses the embedded base (22 M parameters, for which 4 bits save little). With CUDA it uses a
randomly initialised Llama of 7 B shape, for comparison with the ~15 GB (16-bit LoRA) and ~4 GB (QLoRA) of the
guide that the methods follow; other shapes of 1 to 8 B and models by name can be chosen. Each measurement
runs in its own process, for at most --limit seconds: one that fails has an error in place of figures. After
each, the result is written to --output, if given. Prints one JSON object.

    python -m bench.qlora [--base FOLDER_OR_ID] [--shapes tiny,1b,7b,8b,qwen-7b] [--steps 20] [--batch 8]
                          [--tokens 64,512] [--modes lora,qlora] [--serve 1b] [--limit 600]
                          [--output bench/results/qlora_gpu.json] [--compute]

--compute only prints what the weights of the shapes take by arithmetic, and needs no GPU.

With CUDA, peak_memory_mb is what tensors took at most during the steps, loading_mb the same of loading and
quantising, and reserved_mb what torch asked of the driver in all; the CUDA context is not in it. On a CPU,
peak_memory_mb is the growth of the process, loading included.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import numpy as np

from agent.system.atomic import write_bytes

SHAPES: Final[dict[str, dict[str, Any]]] = {
    "tiny": {
        "hidden_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "intermediate_size": 688,
        "vocab_size": 2000,
    },
    "1b": {  # Llama 3.2 1B
        "hidden_size": 2048,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 8192,
        "vocab_size": 128256,
        "tie_word_embeddings": True,
    },
    "7b": {  # Llama 2 7B
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "intermediate_size": 11008,
        "vocab_size": 32000,
    },
    "8b": {  # Llama 3.1 8B
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 14336,
        "vocab_size": 128256,
    },
    "qwen-7b": {  # Qwen2.5 7B
        "model_type": "qwen2",
        "hidden_size": 3584,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "intermediate_size": 18944,
        "vocab_size": 152064,
    },
}
MODES: Final[dict[str, tuple[str, bool]]] = {
    "lora": ("lora", False),
    "lora_checkpointing": ("lora", True),
    "qlora": ("qlora", False),
    "qlora_checkpointing": ("qlora", True),
}
GUIDE_GB: Final = {"lora": 15.0, "qlora": 4.0}
PACKAGES: Final = ("torch", "transformers", "peft", "bitsandbytes")
BATCHES: Final = (1, 32)
"""Headlines that are scored at once."""


def random_decoder(shape: str, folder: Path) -> None:
    """Save a decoder of that shape with random 16-bit weights, and a tokenizer of words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    from models.sentiment.train.label_words import QUESTION
    from models.sentiment.train.onnx_export import reference_texts

    place = "cuda" if torch.cuda.is_available() else "cpu"
    config = AutoConfig.for_model(**({"model_type": "llama"} | SHAPES[shape]))
    with torch.device(place):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        model.save_pretrained(folder, max_shard_size="2GB")
    words = Tokenizer(models.WordLevel(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    texts = [f"{QUESTION} Headline: Sentiment:", *reference_texts()]
    kind = trainers.WordLevelTrainer(
        vocab_size=SHAPES[shape]["vocab_size"], special_tokens=["<unk>", "</s>"], show_progress=False
    )
    words.train_from_iterator(texts, kind)
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="</s>").save_pretrained(
        folder
    )


def computed_weights(shape: str) -> dict[str, float]:
    """Return the millions of weights of the body, and how many GB they take in each method, by arithmetic
    alone: without the output matrix, which a classifier doesn't load, adapters, and activations.

    In 4 bits 64 weights share an 8-bit scale, and 256 scales a 32-bit one. What isn't a linear layer,
    embeddings above all, is kept in 16 bits, and is put into 32 for a QLoRA training by peft.
    """
    import torch
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.for_model(**({"model_type": "llama"} | SHAPES[shape]))
    with torch.device("meta"):
        body = AutoModel.from_config(config)
    linear = sum(layer.weight.numel() for layer in body.modules() if isinstance(layer, torch.nn.Linear))
    rest = sum(weight.numel() for weight in body.parameters()) - linear
    in_4_bit = linear * (0.5 + (1 + 4 / 256) / 64)
    return {
        "linear_millions": round(linear / 1e6, 1),
        "rest_millions": round(rest / 1e6, 1),
        "lora_gb": round((linear + rest) * 2 / 1e9, 2),
        "qlora_gb": round((in_4_bit + rest * 4) / 1e9, 2),
    }


# -- training steps --------------------------------------------------------------------------------------


def measure(base: str, mode: str, steps: int, batch: int, lengths: Sequence[int]) -> dict[str, Any]:
    """Measure memory and speed of training steps on texts of so many random tokens; runs in a child process.

    Memory on a CPU only grows, so `lengths` must ascend.
    """
    from models.sentiment.train import silence_warnings

    silence_warnings()
    import torch

    from models.sentiment.train.bases import load_base
    from models.sentiment.train.methods import get_method
    from models.sentiment.train.methods.recipe import Recipe, resolve
    from models.sentiment.train.training import build_model, count_parameters, peak_memory

    name, checkpointing = MODES[mode]
    method = get_method(name)
    cuda = torch.cuda.is_available()
    before = 0 if cuda else peak_memory()
    began = time.perf_counter()
    loaded = load_base(base, four_bit=method.four_bit)
    recipe = resolve(Recipe(method=name, checkpointing=checkpointing, rank=8), method.defaults, 1000)
    model = build_model(loaded, recipe, method, steps=steps).to("cuda" if cuda else "cpu").train()
    found = {"loading_s": round(time.perf_counter() - began, 1)}
    if cuda:
        found["loading_mb"] = round(peak_memory() / 1e6, 1)
    if checkpointing:
        model.activation_checkpointing_enable()
    trainable, parameters = count_parameters(model)
    found["weights_mb"] = round(loaded.encoder.get_memory_footprint() / 1e6, 1)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    by_length: dict[str, Any] = {}
    for tokens in lengths:
        vocabulary = loaded.encoder.config.vocab_size
        try:
            speed = train_steps(model, optimizer, vocabulary, steps, batch, tokens)
        except torch.OutOfMemoryError:
            by_length[str(tokens)] = {"error": "out of memory"}
        else:
            by_length[str(tokens)] = {"peak_memory_mb": round((peak_memory() - before) / 1e6, 1)} | speed
    return found | {"trainable": trainable, "parameters": parameters, "tokens": by_length}


def train_steps(
    model: Any, optimizer: Any, vocabulary: int, steps: int, batch: int, tokens: int
) -> dict[str, float]:
    """Train on random tokens; return tokens per second and what torch reserved of a GPU's memory."""
    import torch

    from models.sentiment.train.trainer import bf16_supported

    cuda = torch.cuda.is_available()
    device = "cuda" if cuda else "cpu"
    ids = torch.randint(2, vocabulary, (batch, tokens), device=device)
    mask, labels = torch.ones_like(ids), torch.randint(0, 3, (batch,), device=device)
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=cuda and bf16_supported()):  # as in a training
            loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def waited() -> float:
        if cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    for _ in range(3 if cuda else 1):  # warm-up
        step()
    taken = []
    for _ in range(steps):
        began = waited()
        step()
        taken.append(waited() - began)
    found = {"tokens_per_s": round(batch * tokens / statistics.median(taken), 1)}
    if cuda:
        found["reserved_mb"] = round(torch.cuda.max_memory_reserved() / 1e6, 1)
    return found


# -- a whole training, and its scoring -------------------------------------------------------------------


def train_words(base: str, folder: str, headlines: int = 256) -> dict[str, Any]:
    """Train `base` by QLoRA on packaged headlines, as `tapewire train sentiment --head words` does."""
    from models.sentiment.train import silence_warnings

    silence_warnings()
    from models.sentiment.train.datasets import load
    from models.sentiment.train.methods.recipe import Recipe
    from models.sentiment.train.onnx_export import CORPUS
    from models.sentiment.train.splits import Split
    from models.sentiment.train.training import train

    data = load(CORPUS, "csv")
    order = np.random.default_rng(0).permutation(len(data.examples))
    rows = tuple(data.examples[row] for row in order[: headlines + 64])
    split = Split(rows[:headlines], (), rows[headlines:-32], rows[-32:], by_time=False)
    recipe = Recipe(method="qlora", head="words", epochs=2, rank=8, learning_rate=2e-4, checkpointing=True)
    began = time.perf_counter()
    done = train(recipe, split, [data.record], Path(folder), base=base)
    return {
        "headlines": len(split.train) * 2,
        "seconds": round(done.seconds, 1),
        "seconds_in_all": round(time.perf_counter() - began, 1),
        "peak_memory_mb": round(done.peak_memory / 1e6, 1),
        "losses": [[step, round(loss, 3)] for step, loss in done.losses],
    }


def serve(folder: str, precision: str) -> dict[str, Any]:
    """Score the packaged headlines with a trained folder in torch, or with a model of the package for
    comparison (precision "onnx").
    """
    from models.sentiment.train import silence_warnings

    silence_warnings()
    import torch

    from models.sentiment import model_dir
    from models.sentiment.serve.scorer import Scorer
    from models.sentiment.train.onnx_export import reference_texts
    from models.sentiment.train.torch_scorer import TorchScorer

    scorer: Any
    if precision == "onnx":
        scorer = Scorer.load(model_dir(folder), threads=1)
    else:
        scorer = TorchScorer.load(Path(folder), precision=precision)  # type: ignore[arg-type]  # it checks
    texts = reference_texts()
    scorer.score(texts)  # warm
    found: dict[str, Any] = {}
    if torch.cuda.is_available() and precision != "onnx":
        found["loading_mb"] = round(torch.cuda.max_memory_allocated() / 1e6, 1)
        torch.cuda.reset_peak_memory_stats()
    for size in BATCHES:
        speed = scoring_speed(scorer, texts, size)
        found[str(size)] = {key: round(value, 2) for key, value in speed.items()}
    if "loading_mb" in found:
        found["peak_memory_mb"] = round(torch.cuda.max_memory_allocated() / 1e6, 1)
    return found


def scoring_speed(scorer: Any, texts: Sequence[str], size: int) -> dict[str, float]:
    """Score the texts in batches; return milliseconds of a batch and headlines per second."""
    taken = []
    for first in range(0, len(texts), size):
        began = time.perf_counter()
        scorer.score(texts[first : first + size])
        taken.append((time.perf_counter() - began) * 1e3)
    return {
        "p50_ms": float(np.percentile(taken, 50)),
        "p99_ms": float(np.percentile(taken, 99)),
        "per_s": len(texts) / sum(taken) * 1e3,
    }


# -- the whole -------------------------------------------------------------------------------------------


def alone(limit: float, job: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """Return what the job returns in a process of its own, which frees all memory at its end; {"error": …}
    if it fails or takes more than `limit` seconds.
    """
    errors: list[BaseException] = []
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        answer = pool.apply_async(job, arguments, error_callback=errors.append)
        answer.wait(limit)
        if not answer.ready():  # also if the process was killed, as for want of memory
            return {"error": f"no answer within {limit:g} s"}
        if not answer.successful():
            traceback.print_exception(errors[0])
            return {"error": f"{type(errors[0]).__name__}: {errors[0]}".splitlines()[0]}
        return answer.get() or {}


@contextmanager
def base_of(given: str | None, shape: str, limit: float) -> Iterator[str]:
    """Yield the base, or the folder of a random decoder of that shape while it is needed."""
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory() as folder:
        made = alone(limit, random_decoder, shape, Path(folder))
        if "error" in made:  # the measurements then fail too, each with an error of its own
            print(f"random decoder of shape {shape}: {made['error']}", file=sys.stderr)
        yield folder


def ratios(modes: dict[str, dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Return by mode and number of tokens memory and speed as multiples of the first mode's."""
    first = next(iter(modes.values()))
    found: dict[str, dict[str, dict[str, float]]] = {}
    for mode, row in modes.items():
        for tokens, own in row.get("tokens", {}).items():
            other = first.get("tokens", {}).get(tokens, {})
            found.setdefault(mode, {})[tokens] = {
                key: round(own[key] / other[key], 3)
                for key in ("peak_memory_mb", "tokens_per_s")
                if key in own and key in other
            }
    return found


def main() -> None:
    """Measure every mode of every shape, and the serving of those that are named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", help="base model [embedded; with CUDA a random Llama of 7 B]")
    parser.add_argument("--shapes", help="shapes of random decoders, instead of --base")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", default="64", help="numbers of tokens of a text, such as 64,512")
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--serve", default="", help="shapes that are also trained and served")
    parser.add_argument("--compute", action="store_true", help="only compute the weights' memory; no GPU")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds of a measurement")
    parser.add_argument("--output", type=Path, help="file to write the result to, beside what it holds")
    given = parser.parse_args()

    import torch

    cuda = torch.cuda.is_available()
    lengths = sorted(map(int, given.tokens.split(",")))
    shapes = given.shapes.split(",") if given.shapes else ["7b"] if cuda and not given.base else []
    served = set(filter(None, given.serve.split(",")))
    for shape in (*shapes, *served):
        if shape not in SHAPES:
            parser.error(f"unknown shape {shape!r}; known: {', '.join(SHAPES)}")
    if given.compute:
        print(json.dumps({shape: computed_weights(shape) for shape in shapes or SHAPES}, indent=1))
        return
    result: dict[str, Any] = {"bases": {}}
    if given.output:
        with suppress(FileNotFoundError):
            result = json.loads(given.output.read_bytes())
    result |= {
        "device": torch.cuda.get_device_name() if cuda else f"cpu, {torch.get_num_threads()} threads",
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "guide_gb_at_7b": GUIDE_GB,
    }

    def keep() -> None:
        if given.output:
            write_bytes(given.output, json.dumps(result, indent=1).encode() + b"\n")

    for shape in shapes or [""]:
        name = f"random decoder, {shape}" if shape else given.base or "embedded"
        with base_of(None if shape else given.base or "embedded", shape, given.limit) as base:
            modes: dict[str, dict[str, Any]] = {}
            for mode in given.modes.split(","):
                modes[mode] = alone(given.limit, measure, base, mode, given.steps, given.batch, lengths)
                result["bases"][name] = {"batch": given.batch, "modes": modes}
                result["bases"][name][f"to_{next(iter(modes))}"] = ratios(modes)
                keep()
            if shape in served:
                row = result.setdefault("serving", {}).setdefault(name, {})
                with tempfile.TemporaryDirectory() as folder:
                    output = f"{folder}/trained"
                    row["qlora_training"] = alone(given.limit, train_words, base, output)
                    for precision in ("bf16", "4bit"):
                        row[precision] = alone(given.limit, serve, output, precision)
                        keep()
                result["serving"]["starter, onnx on one core"] = alone(given.limit, serve, "starter", "onnx")
                keep()
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
