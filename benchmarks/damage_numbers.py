"""Damage to a checkpoint's numbers: rounding, pruning, noise, scales. Structure is elsewhere."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import gguf
import numpy as np
import torch
from between import pruned, rounded, two_of_four
from damage_checkpoint import Stored
from torch import Tensor

Change = Callable[[Stored, Any], Stored]


class Kind(NamedTuple):
    """One way in which a checkpoint can be broken.

    Attributes:
        name: what was done.
        strengths: the mildest first.
        change: makes another checkpoint of one and a strength.
        applies: whether it can be done to a checkpoint.
    """

    name: str
    strengths: tuple[Any, ...]
    change: Change
    applies: Callable[[Stored], bool]


PLACES = ("last", "middle", "first")
"""Layers, the one first whose loss is usually the mildest."""

KINDS: list[Kind] = []
"""All kinds of damage, those of the other modules among them."""


def damage(
    name: str, strengths: tuple[Any, ...], applies: Callable[[Stored], bool] = lambda _: True
) -> Callable[[Change], Change]:
    """Registers a function as a kind of damage."""

    def register(change: Change) -> Change:
        KINDS.append(Kind(name, strengths, change, applies))
        return change

    return register


def strengths_of(kind: Kind, stored: Stored) -> tuple[Any, ...]:
    """Of a kind, for a checkpoint: all layers are the same one where they share their weights."""
    return (
        kind.strengths[:1] if kind.strengths == PLACES and stored.shares_layers else kind.strengths
    )


def zoo(stored: Stored) -> Iterator[tuple[str, Kind, Any]]:
    """Name, kind and strength of everything that can be done to a checkpoint."""
    for kind in KINDS:
        if kind.applies(stored):
            for strength in strengths_of(kind, stored):
                yield f"{kind.name}/{strength}", kind, strength


def place(stored: Stored, strength: str) -> int:
    """The layer that is meant."""
    return {"last": stored.layers - 1, "middle": stored.layers // 2, "first": 0}[strength]


def random(stored: Stored) -> torch.Generator:
    """The same numbers each time."""
    return torch.Generator().manual_seed(stored.seed)


# ---------------------------------------------------------------- fewer bits


def rounded_as_a_whole(weight: Tensor, bits: int) -> Tensor:
    """To integers of so many bits, symmetric, one scale for the matrix (absmax)."""
    return rounded(weight.reshape(1, -1), bits).reshape(weight.shape)


@damage("rounded, one scale per tensor", (8, 6, 4, 3))
def rounded_per_tensor(stored: Stored, bits: int) -> Stored:
    """All dense weights to integers of so many bits."""
    return stored.changed(stored.matrices(), lambda weight: rounded_as_a_whole(weight, bits))


@damage("rounded, one scale per channel", (8, 6, 4, 3))
def rounded_per_channel(stored: Stored, bits: int) -> Stored:
    """All dense weights to integers of so many bits."""
    return stored.changed(stored.matrices(), lambda weight: rounded(weight, bits))


@damage("GGUF type", ("Q8_0", "Q5_0", "Q4_0", "TQ2_0"))
def gguf_type(stored: Stored, name: str) -> Stored:
    """Dense weights and embeddings as a GGUF type holds them, where rows fit its blocks."""
    kind = gguf.GGMLQuantizationType[name]
    block = gguf.GGML_QUANT_SIZES[kind][0]

    def change(weight: Tensor) -> Tensor:
        found = gguf.quants.quantize(weight.numpy().astype(np.float32), kind)
        return torch.from_numpy(gguf.quants.dequantize(found, kind).copy())

    names = [*stored.matrices(), *stored.names("words")]
    fitting = [name for name in names if stored.tensors[name].shape[1] % block == 0]
    return stored.changed(fitting, change)


@damage("float8", ("e4m3, scaled", "e4m3", "e5m2"))
def float8(stored: Stored, how: str) -> Stored:
    """All dense weights as 8-bit floats, with a scale for each tensor or without."""
    dtype = torch.float8_e4m3fn if how.startswith("e4m3") else torch.float8_e5m2

    def change(weight: Tensor) -> Tensor:
        scale = weight.abs().max() / torch.finfo(dtype).max if how.endswith("scaled") else 1.0
        return (weight / scale).to(dtype).float() * scale

    return stored.changed(stored.matrices(), change)


@damage("half precision", ("underflow", "clipped", "overflow"))
def half_precision(stored: Stored, how: str) -> Stored:
    """Weights in float16 with a scale that is too small, or too large: cut off, or infinite."""

    def change(weight: Tensor) -> Tensor:
        largest = weight.abs().max()
        scale = {"underflow": 1e-5, "clipped": 4 * 65504.0, "overflow": 2 * 65504.0}[how] / largest
        scaled = weight * scale
        scaled = scaled if how == "overflow" else scaled.clamp(-65504, 65504)
        return scaled.half().float() / scale

    names = stored.names("mlp writer", [stored.layers - 1]) if how == "overflow" else None
    return stored.changed(names or stored.matrices(), change)


# ---------------------------------------------------------------- fewer weights


@damage("magnitude pruned", (0.1, 0.3, 0.5))
def magnitude_pruned(stored: Stored, share: float) -> Stored:
    """The smallest weights of each matrix are 0."""
    return stored.changed(stored.matrices(), lambda weight: pruned(weight, share))


@damage("2:4 pruned", ("MLP writers", "MLP", "all"))
def pruned_two_of_four(stored: Stored, which: str) -> Stored:
    """Two of every four neighbours are 0."""
    writers, readers = stored.names("mlp writer"), stored.names("mlp reader")
    named = {"MLP writers": writers, "MLP": writers + readers, "all": stored.matrices()}[which]
    return stored.changed([n for n in named if stored.tensors[n].ndim == 2], two_of_four)


@damage("low rank", (0.75, 0.5, 0.25))
def low_rank(stored: Stored, share: float) -> Stored:
    """Each matrix keeps a share of its singular values, the largest."""

    def change(weight: Tensor) -> Tensor:
        u, s, v = torch.linalg.svd(weight, full_matrices=False)
        n = int(share * len(s))
        kept: Tensor = (u[:, :n] * s[:n]) @ v[:n]
        return kept

    return stored.changed(stored.matrices(), change)


@damage("clipped weights", (3.0, 2.0, 1.0))
def clipped(stored: Stored, deviations: float) -> Stored:
    """Weights beyond so many standard deviations are cut off."""

    def change(weight: Tensor) -> Tensor:
        edge = float(deviations * weight.std())
        return weight.clamp(-edge, edge)

    return stored.changed(stored.matrices(), change)


@damage("noise", (0.05, 0.1, 0.3))
def noise(stored: Stored, size: float) -> Stored:
    """Gaussian noise on each matrix, in standard deviations of its weights."""
    generator = random(stored)
    return stored.changed(
        stored.matrices(),
        lambda weight: (
            weight + size * weight.std() * torch.randn(weight.shape, generator=generator)
        ),
    )


# ---------------------------------------------------------------- norms


def in_layers(stored: Stored, role: str) -> list[str]:
    """The tensors of a role in all layers, none outside."""
    return stored.names(role, range(stored.layers))


@damage("scaled norms", (0.95, 0.9, 0.7))
def scaled_norms(stored: Stored, factor: float) -> Stored:
    """The gains of all norms in the layers, times a factor."""
    names = [name for name in in_layers(stored, "norm") if name.endswith("weight")]
    return stored.changed(names, lambda gain: gain * factor)


@damage("flattened norms", PLACES)
def flattened_norms(stored: Stored, where: str) -> Stored:
    """A layer's norms have one gain for all features, their mean, and no bias."""
    names = stored.names("norm", [place(stored, where)])
    gains = [name for name in names if name.endswith("weight")]
    flat = stored.changed(gains, lambda gain: gain.mean().expand(gain.shape))
    return flat.changed([name for name in names if name.endswith("bias")], torch.zeros_like)


@damage("zeroed norm", PLACES)
def zeroed_norm(stored: Stored, where: str) -> Stored:
    """The gain of the norm that belongs to a layer's attention is 0."""
    names = stored.names("attention norm", [place(stored, where)])
    return stored.changed([name for name in names if name.endswith("weight")], torch.zeros_like)


@damage("outlier scales", (0.5, 2.0, 0.0))
def outlier_scales(stored: Stored, factor: float) -> Stored:
    """The two features whose gains are furthest out, times a factor in all norms of the layers."""
    names = in_layers(stored, "norm")
    gains = torch.stack([stored.tensors[name] for name in names if name.endswith("weight")])
    far = (gains - gains.mean(1, keepdim=True)).abs() / gains.std(1, keepdim=True)
    dims = far.mean(0).topk(2).indices

    def change(values: Tensor) -> Tensor:
        return values.index_copy(0, dims, values[dims] * factor)

    return stored.changed(names, change)
