"""Measures peak memory and tokens/s of LoRA and QLoRA, each with and without gradient checkpointing.

On a CPU it uses the embedded base (22 M parameters, for which 4 bits save little). With CUDA it uses a
randomly initialised Llama of 7 B shape, for comparison with the ~15 GB (16-bit LoRA) and ~4 GB (QLoRA) of the
guide that the methods follow; other shapes of 1 to 8 B and models by name can be chosen. Each mode runs in
its own process. Prints one JSON object, and with --output writes it to a file.

    python bench/qlora.py [--base FOLDER_OR_ID] [--shape tiny|1b|7b|8b|qwen-7b] [--steps 20] [--batch 8]
                          [--tokens 64] [--modes lora,qlora] [--output bench/results/qlora_gpu.json]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

SHAPES: dict[str, dict[str, Any]] = {
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
MODES: dict[str, tuple[str, bool]] = {
    "lora": ("lora", False),
    "lora_checkpointing": ("lora", True),
    "qlora": ("qlora", False),
    "qlora_checkpointing": ("qlora", True),
}
GUIDE_GB = {"lora": 15.0, "qlora": 4.0}


def random_decoder(shape: str, folder: Path) -> None:
    """Save a decoder of that shape with random 16-bit weights, and a tokenizer."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    place = "cuda" if torch.cuda.is_available() else "cpu"
    config = AutoConfig.for_model(**({"model_type": "llama"} | SHAPES[shape]))
    with torch.device(place):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        model.save_pretrained(folder, max_shard_size="2GB")
    words = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1}, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="</s>").save_pretrained(
        folder
    )


def measure(base: str, mode: str, steps: int, batch: int, tokens: int) -> dict[str, Any]:
    """Measure memory and speed of training steps on random tokens; runs in a child process."""
    from models.sentiment.train import silence_warnings

    silence_warnings()
    import torch

    from models.sentiment.train.bases import load_base
    from models.sentiment.train.methods import get_method
    from models.sentiment.train.methods.recipe import Recipe, resolve
    from models.sentiment.train.training import build_model, count_parameters, peak_memory

    name, checkpointing = MODES[mode]
    method = get_method(name)
    before = 0 if torch.cuda.is_available() else peak_memory()
    loaded = load_base(base, four_bit=method.four_bit)
    recipe = resolve(Recipe(method=name, checkpointing=checkpointing, rank=8), method.defaults, 1000)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = build_model(loaded, recipe, method, steps=steps).to(device).train()
    if checkpointing:
        model.activation_checkpointing_enable()
    trainable, parameters = count_parameters(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    ids = torch.randint(2, loaded.encoder.config.vocab_size, (batch, tokens), device=device)
    mask, labels = torch.ones_like(ids), torch.randint(0, 3, (batch,), device=device)

    def step() -> None:
        model(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def waited() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    step()  # warm-up
    began = waited()
    for _ in range(steps):
        step()
    seconds = waited() - began
    return {
        "peak_memory_mb": round((peak_memory() - before) / 1e6, 1),
        "weights_mb": round(loaded.encoder.get_memory_footprint() / 1e6, 1),
        "tokens_per_s": round(steps * batch * tokens / seconds, 1),
        "trainable": trainable,
        "parameters": parameters,
    }


def main() -> None:
    """Measure every mode and print the ratios to plain LoRA."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", help="base model [embedded; with CUDA a random Llama of 7 B]")
    parser.add_argument("--shape", choices=SHAPES, help="shape of a random decoder, instead of --base")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--output", type=Path, help="file to write the result to")
    given = parser.parse_args()

    import torch

    cuda = torch.cuda.is_available()
    shape = given.shape or ("7b" if cuda and not given.base else None)
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        base = given.base or "embedded"
        if shape:
            base = folder
            with ProcessPoolExecutor(1, mp_context=context) as pool:  # frees the model's memory at its end
                pool.submit(random_decoder, shape, Path(folder)).result()
        found = {}
        for mode in given.modes.split(","):
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                found[mode] = pool.submit(
                    measure, base, mode, given.steps, given.batch, given.tokens
                ).result()
    first = next(iter(found.values()))
    keys = ("peak_memory_mb", "weights_mb", "tokens_per_s")
    result = {
        "device": torch.cuda.get_device_name() if cuda else f"cpu, {torch.get_num_threads()} threads",
        "base": f"random decoder, {shape}" if shape else base,
        "batch": given.batch,
        "tokens": given.tokens,
        "modes": found,
        f"to_{next(iter(found))}": {
            mode: {key: round(row[key] / first[key], 3) for key in keys if first[key]}
            for mode, row in found.items()
        },
        "guide_gb_at_7b": GUIDE_GB,
    }
    text = json.dumps(result, indent=1)
    if given.output:
        given.output.write_text(f"{text}\n")
    print(text)


if __name__ == "__main__":
    main()
