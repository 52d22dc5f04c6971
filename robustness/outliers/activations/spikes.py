"""Extremes at the dense output writers, read again without the weights that make them."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor, nn

from robustness.ablation.hooks import LayerHooks, followed, keep
from robustness.anatomy.stacks import Stack
from robustness.errors import UnsupportedSite
from robustness.outliers.activations.layer_hooks import (
    Array,
    Blocks,
    Progress,
    float64,
    has_matrix,
    not_finite,
    run,
)
from robustness.outliers.rules.spikes import Weight, spiking
from robustness.outliers.rules.summaries import Spikes


def spike_rounds(
    model: nn.Module,
    stack: Stack,
    blocks: Blocks,
    *,
    threshold: float,
    max_rounds: int,
    progress: Progress = lambda _: None,
) -> list[Spikes]:
    """Extremes at the output writers: of the intact model, then without the weights that spike.

    A weight is taken as 0 by computing what its row writes without it: no parameter changes.

    Raises:
        UnsupportedSite: The output sites are no dense layers.
        RuleError: An input or output holds NaN or infinity.
    """
    require_dense_writers(stack)
    if not all(has_matrix(model.get_submodule(site.module)) for site in stack.sites):
        raise _no_dense_writer()
    without: dict[Weight, None] = {}
    rounds: list[Spikes] = []
    while len(rounds) < max_rounds:
        writers = _Writers(model, stack, tuple(without))
        with followed(model, stack, LayerHooks(stack)) as running, writers.watched(running):
            for block, ids in enumerate(blocks):
                run(model, ids)
                progress(f"{block + 1}/{len(blocks)} text blocks read, round {len(rounds) + 1}")
        rounds.append(writers.spikes())
        new = [weight for weight in spiking(rounds[-1], threshold) if weight not in without]
        if not new:
            break
        without.update(dict.fromkeys(new))
    return rounds


def require_dense_writers(stack: Stack) -> None:
    """Refuse what needs a dense output writer where the layers end in a norm."""
    if any(site.kind != "writer" for site in stack.sites):
        raise _no_dense_writer()


class _Writers:
    """Extremes at the dense output writers, with some of their weights taken as 0."""

    def __init__(self, model: nn.Module, stack: Stack, without: Sequence[Weight]) -> None:
        self._model = model
        self._stack = stack
        self._without = without
        self._inputs: dict[int, tuple[float, int]] = {}
        self._outputs: dict[int, Array] = {}  # the value largest in size of each row, (D,)

    @contextmanager
    def watched(self, running: LayerHooks) -> Iterator[None]:
        """Look at every writer's input and output."""
        with ExitStack() as hooks:
            for name in dict.fromkeys(site.module for site in self._stack.sites):
                module = self._model.get_submodule(name)
                keep(hooks, module.register_forward_hook(partial(self._writes, running)))
            yield

    def spikes(self) -> Spikes:
        """What was seen."""
        layers = range(self._stack.n_layers)
        outputs = np.stack([self._outputs[layer] for layer in layers])
        rows = np.abs(outputs).argmax(axis=1)
        return Spikes(
            input=np.array([self._inputs[layer][0] for layer in layers]),
            column=np.array([self._inputs[layer][1] for layer in layers], dtype=np.int64),
            output=outputs[np.arange(len(outputs)), rows],
            row=rows,
            largest=np.abs(outputs),
        )

    def _writes(
        self, running: LayerHooks, module: nn.Module, args: Any, output: Tensor
    ) -> Tensor | None:
        layer = running.layer
        if layer is None:
            return None
        edited = self._edited(layer, module, args[0], output)
        inputs, outputs = _extremes(float64(args[0])), _extremes(float64(edited))
        if not (np.isfinite(inputs).all() and np.isfinite(outputs).all()):
            raise not_finite("value at the output writer", layer)
        column = int(np.abs(inputs).argmax())
        largest = (float(inputs[column]), column)
        if layer in self._outputs:
            largest = max(self._inputs[layer], largest, key=lambda pair: abs(pair[0]))
            outputs = _larger(self._outputs[layer], outputs)
        self._inputs[layer], self._outputs[layer] = largest, outputs
        return edited

    def _edited(self, layer: int, module: nn.Module, inputs: Tensor, output: Tensor) -> Tensor:
        site = self._stack.sites[layer]
        weights = [weight for weight in self._without if weight.layer == layer]
        if not weights:
            return output
        matrix = module.get_parameter(site.scale.rpartition(".")[2])
        edited = output.clone()
        for row in {weight.row for weight in weights}:
            # Computed anew: taking a large product away again would leave its rounding error.
            remaining = matrix.select(site.feature_axis, row).clone()
            remaining[[weight.column for weight in weights if weight.row == row]] = 0
            edited[..., row] = inputs @ remaining
            if site.bias is not None:
                edited[..., row] += module.get_parameter(site.bias.rpartition(".")[2])[row]
        return edited


def _extremes(values: Array) -> Array:
    """The value that is largest in size of each feature, with its sign, (T, D) -> (D,)."""
    return _larger(values.min(axis=0), values.max(axis=0))


def _larger(first: Array, second: Array) -> Array:
    return np.where(np.abs(second) > np.abs(first), second, first)


def _no_dense_writer() -> UnsupportedSite:
    return UnsupportedSite(
        "rule super-weight looks for single weights of the dense layer that writes a layer's "
        "output, but in this model a normalisation writes it; use another rule"
    )
