"""Reading text blocks one at a time, and what hooks see of the layers meanwhile."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robustness.anatomy.stacks import Stack
from robustness.errors import NotFinite
from robustness.scoring.forward import forward_errors, shift_right

Array = NDArray[np.float64]
Progress = Callable[[str], None]
Blocks = Sequence[NDArray[np.int64]]
"""Token ids of each text block, special tokens included, each of shape (T,)."""


def run(model: nn.Module, ids: NDArray[np.int64]) -> None:
    """One forward pass over one text block, as a batch of one.

    Where there is a decoder, it reads the same text that the encoder reads.
    """
    device = next(model.parameters()).device
    tokens = torch.from_numpy(ids)[None].to(device)  # (1, T)
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    if "decoder_input_ids" in inspect.signature(model.forward).parameters:
        inputs["decoder_input_ids"] = shift_right(model, tokens)
    with torch.inference_mode(), forward_errors(model):
        model(**inputs, use_cache=False)


def within_layers(model: nn.Module, stack: Stack) -> list[nn.Module]:
    """The modules inside the layers, each once."""
    layers = dict.fromkeys(site.layer_module for site in stack.layers)
    modules = (m for name in layers for m in [*model.get_submodule(name).modules()][1:])
    return list(dict.fromkeys(modules))


def has_matrix(module: nn.Module) -> bool:
    """Whether a module itself, not one inside it, owns a weight matrix."""
    return any(p is not None and p.ndim >= 2 for p in module._parameters.values())


def first_floating(values: Any) -> Tensor | None:
    """The first floating tensor of what a module takes or returns."""
    items = values if isinstance(values, tuple | list) else [values]
    return next((v for v in items if isinstance(v, Tensor) and v.is_floating_point()), None)


def float64(tensor: Tensor) -> Array:
    """Positions by features, in order of the positions, on the processor."""
    flat = tensor.detach().reshape(-1, tensor.shape[-1])
    return np.asarray(flat.float().cpu().numpy(), dtype=np.float64)  # MPS knows no float64


def not_finite(what: str, layer: int) -> NotFinite:
    """The error for a hidden state, or the like, that holds NaN or infinity."""
    return NotFinite(
        f"a {what} of layer {layer} is not a finite number, so rules on activations cannot compare "
        "dimensions: its weights or activations overflow or hold NaN; use rule busters, or vet "
        "an earlier checkpoint"
    )
