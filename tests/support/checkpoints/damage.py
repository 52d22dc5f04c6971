"""Copies of a shared checkpoint that were converted or damaged in a known way."""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Weights = dict[str, Tensor]
Change = Callable[[Weights], None]

LAYER = "roberta.encoder.layer."
WORDS = "roberta.embeddings.word_embeddings.weight"


def changed_copy(source: Path, folder: Path, change: Change) -> Path:
    """A copy of a checkpoint of one file, its weights changed in place."""
    folder.mkdir(parents=True)
    for file in source.iterdir():
        if file.suffix != ".safetensors":
            shutil.copyfile(file, folder / file.name)  # the source may be read-only
    weights = {n: v.clone() for n, v in load_file(source / "model.safetensors").items()}
    change(weights)
    whole = {name: value.contiguous().clone() for name, value in weights.items()}
    save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def dense(weights: Weights) -> list[str]:
    """Names of the layers' matrices."""
    return [name for name, value in weights.items() if value.ndim == 2 and ".layer." in name]


def each(names: Callable[[Weights], list[str]], function: Callable[[Tensor], Tensor]) -> Change:
    """Replace some tensors by a function of themselves."""

    def change(weights: Weights) -> None:
        for name in names(weights):
            weights[name] = function(weights[name])

    return change


def as_dtype(dtype: torch.dtype, *, back: bool = False) -> Change:
    """All values in another dtype, or rounded to it."""
    return each(list, lambda value: value.to(dtype).to(torch.float32 if back else dtype))


def to_bits(bits: int, *, per_channel: bool = True) -> Change:
    """Dense layers rounded to symmetric integers."""

    def quantized(value: Tensor) -> Tensor:
        top = value.abs().amax(1, keepdim=True) if per_channel else value.abs().max()
        scale = top / (2 ** (bits - 1) - 1)
        return torch.mul((value / scale).round(), scale)

    return each(dense, quantized)


def noise(share: float) -> Change:
    """Gaussian noise on everything, as a share of each tensor's own spread."""

    def change(weights: Weights) -> None:
        generator = torch.Generator().manual_seed(0)
        for name, value in weights.items():
            draw = torch.randn(value.shape, generator=generator)
            if value.numel() > 1:
                weights[name] = value + share * value.std() * draw

    return change


def pruned(share: float) -> Change:
    """The smallest entries of every dense layer are zero."""

    def smallest_gone(value: Tensor) -> Tensor:
        return value * (value.abs() >= torch.quantile(value.abs().flatten(), share))

    return each(dense, smallest_gone)


def two_of_four(weights: Weights) -> None:
    """The two smallest of every four neighbours are zero."""
    for name in dense(weights):
        fours = weights[name].view(-1, 4)
        fours.scatter_(1, fours.abs().topk(2, dim=1, largest=False).indices, 0)


def layers_from(moves: dict[int, int]) -> Change:
    """Layers get the weights of others, as they were."""

    def change(weights: Weights) -> None:
        before = dict(weights)
        for layer, other in moves.items():
            for name in [name for name in weights if name.startswith(f"{LAYER}{layer}.")]:
                source = name.replace(f"{LAYER}{layer}.", f"{LAYER}{other}.")
                weights[name] = before[source].clone()

    return change


def rows(ours: slice | list[int], theirs: slice | list[int], name: str = WORDS) -> Change:
    """Rows of the embedding get the values of others."""

    def change(weights: Weights) -> None:
        weights[name][ours] = weights[name][theirs].clone()

    return change


def scaled(name: str, where: slice | list[int], factor: float) -> Change:
    """Some entries or rows of a tensor are multiplied."""

    def change(weights: Weights) -> None:
        weights[name][where] *= factor

    return change


def transposed(name: str) -> Change:
    """A matrix on its side."""
    return each(lambda _: [name], lambda value: value.T)


def exchanged(one: str, other: str) -> Change:
    """Two tensors change places."""

    def change(weights: Weights) -> None:
        weights[one], weights[other] = weights[other], weights[one]

    return change


def both(*changes: Change) -> Change:
    """One after the other."""

    def change(weights: Weights) -> None:
        for one in changes:
            one(weights)

    return change
