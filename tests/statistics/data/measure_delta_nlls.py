"""Measures the real ΔNLLs in ``delta_nlls.json``, which the error rates of verdicts are tested on.

    python measure_delta_nlls.py SHARED > delta_nlls.json

``SHARED`` holds ``models/`` and ``data/``. Nothing of the package is used. 15 % of the tokens of
each text block are masked, an ablation sets the scale and bias of dimensions to 0 in the output
LayerNorm of every layer, and ΔNLL is ablated minus intact over the masked tokens, in nats. Of the
kind ``changed`` it is the number of masked tokens for which the most probable one is another.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

SEED = 20240601
RANDOM_DRAW_PASSES = 2


def texts(path: Path) -> list[str]:
    """Reactions of a CSV file, or sequences of a FASTA file."""
    if path.suffix == ".csv":
        return [line.split(",", 1)[1] for line in path.read_text().splitlines()[1:]]
    return ["".join(record.split("\n")[1:]) for record in path.read_text().split(">")[1:]]


def masked(
    tokenizer: Any, text: str, size: int, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Input ids with 15 % masked, and labels that are -100 elsewhere."""
    ids = torch.tensor(tokenizer(text, truncation=True, max_length=size)["input_ids"])
    places = rng.permutation(np.arange(1, len(ids) - 1))[: max(1, round(0.15 * (len(ids) - 2)))]
    labels = torch.full_like(ids, -100)
    labels[places] = ids[places]
    ids[places] = tokenizer.mask_token_id
    return ids, labels


def output_norms(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The LayerNorm that each layer ends with (one shared module in ALBERT)."""
    ends = r"(output\.LayerNorm|full_layer_layer_norm)$"
    named = model.named_modules()
    return [m for name, m in named if re.search(ends, name) and "attention" not in name]


def nll(
    model: Any,
    blocks: Sequence[tuple[torch.Tensor, torch.Tensor]],
    dims_per_block: Sequence[tuple[int, ...]],
) -> NDArray[np.float64]:
    """Summed NLL of each text block's masked tokens, without the dimensions given for it."""
    found = []
    for logits, labels in batches(model, blocks, dims_per_block):
        loss = torch.nn.functional.cross_entropy(
            logits.double().transpose(1, 2), labels, ignore_index=-100, reduction="none"
        )
        found.append(loss.sum(1).numpy())
    return np.concatenate(found)


def changed(
    model: Any, blocks: Sequence[tuple[torch.Tensor, torch.Tensor]], dims: tuple[int, ...]
) -> NDArray[np.float64]:
    """Masked tokens of each text block whose most probable one changes without dimensions."""
    found = []
    pairs = (batches(model, blocks, [each] * len(blocks)) for each in ((), dims))
    for (intact, labels), (ablated, _) in zip(*pairs, strict=True):
        other = (intact.argmax(-1) != ablated.argmax(-1)) & (labels >= 0)
        found.append(other.sum(1).double().numpy())
    return np.concatenate(found)


@torch.no_grad()
def batches(
    model: Any,
    blocks: Sequence[tuple[torch.Tensor, torch.Tensor]],
    dims_per_block: Sequence[tuple[int, ...]],
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Logits and labels of some text blocks, without the dimensions given for each."""
    size = model.config.hidden_size
    for start in range(0, len(blocks), 32):
        batch = blocks[start : start + 32]
        keep = torch.ones(len(batch), 1, size)
        for row, dims in enumerate(dims_per_block[start : start + 32]):
            keep[row, 0, list(dims)] = 0.0  # scale and bias 0: the feature is 0 everywhere
        hooks = [
            norm.register_forward_hook(lambda _module, _inputs, out, keep=keep: out * keep)
            for norm in output_norms(model)
        ]
        pad = torch.nn.utils.rnn.pad_sequence
        ids = pad([ids for ids, _ in batch], batch_first=True, padding_value=0)
        labels = pad([labels for _, labels in batch], batch_first=True, padding_value=-100)
        lengths = torch.tensor([len(ids) for ids, _ in batch])
        attention = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        if model.config.model_type == "roberta":  # positions are counted from tokens that are pads
            ids = ids.masked_fill(attention == 0, model.config.pad_token_id)
        logits = model(input_ids=ids, attention_mask=attention).logits
        for hook in hooks:
            hook.remove()
        yield logits, labels


def outlyingness(model: torch.nn.Module) -> NDArray[np.float64]:
    """How far scale and bias of a dimension both lie out, averaged over the layers, shape (D,)."""
    z = []
    for values in ("weight", "bias"):
        rows = np.stack([getattr(norm, values).detach().numpy() for norm in output_norms(model)])
        z.append(np.abs(rows - rows.mean(1, keepdims=True)) / rows.std(1, keepdims=True))
    both: NDArray[np.float64] = np.minimum(*z).mean(0)
    return both


def populations(
    shared: Path, checkpoint: str, data: str, *, block: int
) -> Iterator[dict[str, Any]]:
    """ΔNLLs without the most outlying dimension, a typical one, the first four, and random ones."""
    rng = np.random.default_rng(SEED)
    folder = shared / "models" / checkpoint
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32).eval()
    rows = texts(shared / "data" / data)
    blocks = [masked(tokenizer, rows[i], block, rng) for i in rng.permutation(len(rows))]
    tokens = [int((labels >= 0).sum()) for _, labels in blocks]
    intact = nll(model, blocks, [()] * len(blocks))
    by_z = [int(dim) for dim in np.argsort(-outlyingness(model))]
    for dims in ((by_z[0],), (by_z[len(by_z) // 2],), tuple(by_z[:4])):
        delta = nll(model, blocks, [dims] * len(blocks)) - intact
        yield population(f"{checkpoint} without {dims}", checkpoint, "fixed", delta, tokens)
    counts = changed(model, blocks, tuple(by_z[:2]))
    name = f"{checkpoint} predictions without {tuple(by_z[:2])}"
    yield population(name, checkpoint, "changed", counts, tokens)
    deltas, scored = [], 64
    for _ in range(RANDOM_DRAW_PASSES):
        dims_per_block = []
        for count in tokens:  # a draw stays until 64 tokens have been scored with it
            if scored >= 64:
                drawn, scored = tuple(rng.choice(by_z[4:], size=4, replace=False)), 0
            dims_per_block.append(drawn)
            scored += count
        deltas.append(nll(model, blocks, dims_per_block) - intact)
    drawn_delta, times = np.concatenate(deltas), RANDOM_DRAW_PASSES
    name = f"{checkpoint} without 4 random dimensions"
    yield population(name, checkpoint, "draws", drawn_delta, tokens * times)


def population(
    name: str, checkpoint: str, kind: str, delta: NDArray[np.float64], tokens: list[int]
) -> dict[str, Any]:
    """One entry of the file; text blocks are in the same order for one checkpoint."""
    sys.stderr.write(f"{name}: {len(delta)} blocks, x{np.exp(delta.sum() / sum(tokens)):.6g}\n")
    if kind == "changed":
        return {"name": name, "checkpoint": checkpoint, "kind": kind} | {
            "delta_nll": delta.tolist(),
            "tokens": tokens,
        }
    rounded = [float(f"{value:.6g}") for value in delta]
    entry = {"name": name, "checkpoint": checkpoint, "kind": kind}
    return entry | {"delta_nll": rounded, "tokens": tokens}


def main(shared: Path) -> None:
    """Measure everything and print the file."""
    torch.manual_seed(SEED)
    found = [
        *populations(shared, "rxnfp-bert-mlm", "rxnmapper_example_rxns.csv", block=128),
        *populations(shared, "rxnmapper-albert-mlm", "rxnmapper_example_rxns.csv", block=128),
        *populations(shared, "sapiens-roberta-vl", "antibody-light.fa", block=128),
    ]
    how = "measure_delta_nlls.py: masked LM, 15 %, output LayerNorm of all layers, zero"
    provenance = f"{how}; torch {torch.__version__}, float32, CPU, seed {SEED}"
    sys.stdout.write(json.dumps({"schema": 1, "provenance": provenance, "populations": found}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
