"""Measures the real pairs in ``pairs.json``, on which verdicts beside a reference are tested.

    python measure_pairs.py SHARED > pairs.json

Each candidate is a checkpoint with some damage. Of every text block there is, as in
``measure_delta_nlls``: the number of masked tokens, by how much the candidate's NLL is larger
(``paired``), how many of its most probable tokens are others (``changed``), its summed KL
divergence from the checkpoint's distributions (``kl``), and what ablating the four most outlying
dimensions adds to each of both models' NLLs (``effect``, ``effect_then``), in nats. Nothing of the
package is used.
"""

from __future__ import annotations

import json
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import measure_delta_nlls as base  # type: ignore[import-not-found]
import numpy as np
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer


@torch.no_grad()
def noisy(model: Any) -> None:
    """Every weight is off by 5 % of itself."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.mul_(1 + 0.05 * torch.randn(parameter.shape, generator=generator))


@torch.no_grad()
def rounded(model: Any) -> None:
    """Matrices have 4 bits, one scale per row."""
    for parameter in model.parameters():
        if parameter.ndim == 2:
            scale = parameter.abs().amax(1, keepdim=True).clamp(min=1e-9) / 7
            parameter.copy_((parameter / scale).round() * scale)


@torch.no_grad()
def dead(model: Any) -> None:
    """The last layer's attention reads nothing."""
    values = [module for name, module in model.named_modules() if name.endswith("self.value")]
    values[-1].weight.zero_()
    values[-1].bias.zero_()


MOST = 400
"""Text blocks of a population."""

PAIRS = (
    ("sapiens-roberta-vl", "antibody-light.fa", 160, (noisy, rounded, dead)),
    ("rxnmapper-albert-mlm", "rxnmapper_example_rxns.csv", 256, (noisy,)),
)


def compared(candidate: Any, model: Any, blocks: Any) -> dict[str, list[float]]:
    """Per text block: changed predictions and divergences."""
    changed, divergence = [], []
    pairs = (base.batches(each, blocks, [()] * len(blocks)) for each in (candidate, model))
    for (ours, labels), (theirs, _) in zip(*pairs, strict=True):
        scored = labels >= 0
        q, p = (logits.double().log_softmax(-1) for logits in (ours, theirs))
        far = (p.exp() * (p - q)).sum(-1)
        changed += ((q.argmax(-1) != p.argmax(-1)) & scored).sum(1).tolist()
        divergence += (far * scored).sum(1).tolist()
    return {"changed": changed, "kl": divergence}


def main() -> None:
    shared, found = Path(sys.argv[1]), []
    for checkpoint, data, size, damages in PAIRS:
        rng, folder = np.random.default_rng(base.SEED), shared / "models" / checkpoint
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32).eval()
        rows = base.texts(shared / "data" / data)
        order = rng.permutation(len(rows))[:MOST]
        blocks = [base.masked(tokenizer, rows[i], size, rng) for i in order]
        dims = tuple(int(dim) for dim in np.argsort(-base.outlyingness(model))[:4])
        alone, without = [()] * len(blocks), [dims] * len(blocks)
        then, ablated = base.nll(model, blocks, alone), base.nll(model, blocks, without)
        for damage in damages:
            candidate = deepcopy(model)
            damage(candidate)
            now = base.nll(candidate, blocks, alone)
            effect = base.nll(candidate, blocks, without) - now
            columns = {
                "paired": (now - then).tolist(),
                **compared(candidate, model, blocks),
                "effect": effect.tolist(),
                "effect_then": (ablated - then).tolist(),
            }
            tokens = [int((labels >= 0).sum()) for _, labels in blocks]
            rounded_off = {key: [round(x, 5) for x in column] for key, column in columns.items()}
            name = f"{checkpoint} {damage.__name__}"
            found.append({"name": name, "tokens": tokens, **rounded_off})
    json.dump({"schema": 1, "seed": base.SEED, "pairs": found}, sys.stdout)


if __name__ == "__main__":
    main()
