"""QLoRA (Dettmers et al. 2023): LoRA on a body frozen in 4-bit NormalFloat with double quantisation."""

from __future__ import annotations

from models.sentiment.train.methods import lora, register
from models.sentiment.train.methods.recipe import Defaults

register(
    "qlora", Defaults(learning_rate=2e-3, head_learning_rate=1e-3, epochs=4, ranked=True), four_bit=True
)(lora.configure)
