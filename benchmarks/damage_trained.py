"""Damage that needs training: stale shards, half-merged adapters, training on another text."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from damage_checkpoint import Stored, loaded, write
from damage_numbers import damage
from torch import Tensor

BATCH = 8
"""Texts of a step; of a causal model, which are longer, half of it."""

RATE = 5e-4
"""Of AdamW; of a causal model a tenth of it."""

RANK = 8
"""Of an adapter."""


def batch_loss(model: Any, tokenizer: Any, texts: Sequence[str], *, causal: bool) -> Any:
    """The next tokens of some texts, or 15 % of their tokens, all of them masked."""
    if causal:
        rows = [torch.tensor([tokenizer(text)["input_ids"][:128]]) for text in texts]
        return sum(model(row, labels=row).loss for row in rows) / len(rows)
    inputs = tokenizer(list(texts), return_tensors="pt", padding=True, truncation=True)
    ids = inputs["input_ids"]
    special = torch.isin(ids, torch.tensor(tokenizer.all_special_ids))
    masked = (torch.rand(ids.shape) < 0.15) & ~special
    shown = ids.masked_fill(masked, tokenizer.mask_token_id)
    labels = ids.masked_fill(~masked, -100)
    return model(shown, attention_mask=inputs["attention_mask"], labels=labels).loss


def trained(stored: Stored, texts: Sequence[str], steps: int, rate: float = 1.0) -> Stored:
    """After some steps of AdamW at a multiple of the usual rate, without dropout."""
    torch.manual_seed(stored.seed)
    with tempfile.TemporaryDirectory() as folder:
        model, tokenizer = loaded(write(stored, Path(folder)))
    rate *= RATE / 10 if stored.causal else RATE
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    rows = cycle([texts[n] for n in torch.randperm(len(texts)).tolist()])
    for _ in range(steps):
        batch = list(islice(rows, BATCH // 2 if stored.causal else BATCH))
        optimizer.zero_grad()
        batch_loss(model, tokenizer, batch, causal=stored.causal).backward()
        optimizer.step()
    now: Mapping[str, Tensor] = model.state_dict()
    return replace(stored, tensors={name: now[name].detach().clone() for name in stored.tensors})


@damage("trained on another text", (5, 20, 80))
def trained_on_another_text(stored: Stored, steps: int) -> Stored:
    """For so many steps."""
    return trained(stored, stored.texts.other, steps, rate=0.2)


@damage("stale shard", (5, 20, 80))
def stale_shard(stored: Stored, steps: int) -> Stored:
    """Half of the tensors come from another step of a training on the same text."""
    other = trained(stored, stored.texts.here, steps).tensors
    names = sorted(stored.tensors)
    stale = {name: other[name] for name in names[len(names) // 2 :]}
    return replace(stored, tensors={**stored.tensors, **stale})


@damage("half-merged adapter", (1.0, 4.0, 8.0))
def half_merged_adapter(stored: Stored, scale: float) -> Stored:
    """Every second matrix has what an adapter for another text adds to it, times a scale."""
    other = trained(stored, stored.texts.other, 20).tensors

    def merged(name: str) -> Tensor:
        now = stored.tensors[name]
        u, s, v = torch.linalg.svd(other[name] - now, full_matrices=False)
        change: Tensor = (u[:, :RANK] * s[:RANK]) @ v[:RANK]
        return now + scale * change

    half = {name: merged(name) for name in stored.matrices()[::2]}
    return replace(stored, tensors={**stored.tensors, **half})
