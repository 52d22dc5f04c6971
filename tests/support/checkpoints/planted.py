"""A model in which one dimension carries the whole prediction: every number is known beforehand.

The residual stream starts as e_0. Each layer's MLP writes a constant into dimension PLANTED, and
the head reads that dimension alone, so that the logits are c·h with a known h. Without the
dimension all logits are 0: a uniform guess, perplexity V. All other writers add exactly nothing,
although their weights are not 0.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.support.checkpoints.checkpoint_folders import save_checkpoint, tiny_tokenizer

VOCABULARY, WIDTH, LAYERS, PLANTED = 32, 40, 3, 17
GATE, UP, DOWN, EPS = 0.3, 0.5, 1.5, 1e-6
WORDS = [f"w{n}" for n in range(VOCABULARY - 5)]


def planted_model() -> Any:
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=24,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        rms_norm_eps=EPS,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    model: Any = LlamaForCausalLM(config)
    model.eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        model.model.embed_tokens.weight.zero_()
        model.model.embed_tokens.weight[:, 0] = 1
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            for name, value in (("gate_proj", GATE), ("up_proj", UP)):
                weight = getattr(layer.mlp, name).weight
                weight.zero_()
                weight[0, 0] = value  # only inner unit 0 is ever active
            down = layer.mlp.down_proj.weight
            down.copy_(torch.randn(down.shape, generator=generator) * 0.01)
            down[:, 0] = 0
            down[PLANTED, 0] = DOWN
        model.lm_head.weight.zero_()
        model.lm_head.weight[:, PLANTED] = torch.tensor(head())
    return model


def head() -> list[float]:
    """Such that the logits are about the words' log-probabilities; ids below 5 are special."""
    logits = [-5.0] * 5 + [n * math.log(0.8) for n in range(len(WORDS))]
    return [logit / final_feature() for logit in logits]


def final_feature() -> float:
    """What the head sees in the planted dimension, by hand."""
    planted = 0.0
    for _ in range(LAYERS):
        first = 1 / math.sqrt((1 + planted**2) / WIDTH + EPS)  # RMSNorm of (1, …, planted, …)
        gate = GATE * first
        planted += DOWN * gate / (1 + math.exp(-gate)) * UP * first
    return planted / math.sqrt((1 + planted**2) / WIDTH + EPS)


def planted_text() -> str:
    rng = np.random.default_rng(0)
    weights = 0.8 ** np.arange(len(WORDS))
    return " ".join(rng.choice(WORDS, size=6000, p=weights / weights.sum()))


def save_planted(root: Path) -> tuple[Path, Path]:
    """The checkpoint's folder and a text file that suits it."""
    folder = save_checkpoint(root / "model", planted_model(), tiny_tokenizer(VOCABULARY))
    text = root / "text.txt"
    text.write_text(planted_text())
    return folder, text
