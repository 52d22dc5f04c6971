"""The hidden states behind each layer, summed up."""

from typing import Any

import numpy as np
from torch import Tensor, nn

from robustness.ablation.hooks import LayerHooks, followed
from robustness.anatomy.stacks import Stack
from robustness.errors import MeasurementError
from robustness.outliers.activations.layer_hooks import (
    Array,
    Blocks,
    Progress,
    first_floating,
    float64,
    not_finite,
    run,
)
from robustness.outliers.rules.summaries import LayerOutputs


def layer_outputs(
    model: nn.Module,
    stack: Stack,
    blocks: Blocks,
    *,
    sentence_first: bool,
    progress: Progress = lambda _: None,
) -> LayerOutputs:
    """The hidden states behind each layer, and that of the position that stands for a text block.

    Raises:
        RuleError: A hidden state holds NaN or infinity.
    """
    parts: list[list[dict[str, Any]]] = [[] for _ in range(stack.n_layers)]
    sentences: list[Array] = []

    def layer_ends(layer: int, output: Any) -> None:
        hidden = float64(_hidden_state(output, stack.hidden_size))
        parts[layer].append(summed_up(hidden, layer))
        if layer == stack.n_layers - 1:
            sentences.append(hidden[0 if sentence_first else -1])

    with followed(model, stack, LayerHooks(stack, ends=layer_ends)):
        for block, ids in enumerate(blocks):
            run(model, ids)
            progress(f"{block + 1}/{len(blocks)} text blocks read")
    tokens = np.array([len(ids) for ids in blocks], dtype=np.int64)

    def table(name: str) -> Array:
        """Shape (L, B, ...)."""
        return np.array([[part[name] for part in of_layer] for of_layer in parts])

    return LayerOutputs(
        lowest=table("lowest"),
        highest=table("highest"),
        median_abs=table("median_abs"),
        mean=table("mean"),
        std=table("std"),
        kurtosis=table("kurtosis"),
        max_to_median=table("max_to_median"),
        mean_square=table("square_sum").sum(axis=1) / tokens.sum(),
        tokens=tokens,
        sentences=np.stack(sentences),
    )


def summed_up(hidden: Array, layer: int) -> dict[str, Any]:
    """One text block behind one layer, (T, D)."""
    if not np.isfinite(hidden).all():
        raise not_finite("hidden state", layer)
    size = np.abs(hidden)
    median = np.median(size, axis=1)  # (T,)
    mean, std = hidden.mean(), hidden.std(ddof=1)
    return {
        "lowest": hidden.min(axis=0),
        "highest": hidden.max(axis=0),
        "median_abs": np.median(size),
        "mean": mean,
        "std": std,
        "kurtosis": ((hidden - mean) ** 4).mean() / (std**4 + 1e-6),
        "max_to_median": _ratio(size.max(axis=1), median).mean(),
        "square_sum": (hidden**2).sum(axis=0),
    }


def _ratio(numerator: Array, denominator: Array) -> Array:
    """Infinite where only the denominator is 0, and 1 where both are."""
    nothing = np.where(numerator > 0, np.inf, 1.0)
    return np.asarray(np.divide(numerator, denominator, out=nothing, where=denominator > 0))


def _hidden_state(output: Any, hidden_size: int) -> Tensor:
    tensor = first_floating(output)
    if tensor is None or tensor.shape[-1] != hidden_size:
        raise MeasurementError(
            f"A layer returned {type(output).__name__}, in which there is no hidden state of "
            f"{hidden_size} features."
        )
    return tensor
