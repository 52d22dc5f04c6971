"""What the dense layers read of the hidden states, counted."""

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from robustness.ablation.hooks import LayerHooks, followed, keep
from robustness.anatomy.stacks import Stack
from robustness.errors import RuleError
from robustness.outliers.activations.layer_hooks import (
    Array,
    Blocks,
    Progress,
    first_floating,
    float64,
    has_matrix,
    not_finite,
    run,
    within_layers,
)
from robustness.outliers.rules.summaries import DenseInputs

if TYPE_CHECKING:
    from numpy.typing import NDArray


def dense_inputs(
    model: nn.Module,
    stack: Stack,
    blocks: Blocks,
    *,
    threshold: float,
    progress: Progress = lambda _: None,
) -> DenseInputs:
    """What the dense layers read: the hidden states that go into attention and FFN expansion.

    A tensor counts where it *is* the layer's input or what a normalisation made within the layer
    (not what attention or an activation made), and a module with a weight matrix reads it. Several
    modules that read one tensor (query, key, value) count it once.

    Raises:
        RuleError: No such tensor is found, or one holds NaN or infinity.
    """
    readers = _DenseReaders(stack.hidden_size, threshold)
    with ExitStack() as hooks:
        running = LayerHooks(stack, begins=readers.layer_begins)
        hooks.enter_context(followed(model, stack, running))
        for module in within_layers(model, stack):
            if has_matrix(module):
                hook = partial(readers.dense_begins, running)
                keep(hooks, module.register_forward_pre_hook(hook, with_kwargs=True))
            elif not any(map(has_matrix, module.modules())):
                keep(hooks, module.register_forward_hook(readers.norm_ends))
        for block, ids in enumerate(blocks):
            run(model, ids)
            readers.text_block_ends()
            progress(f"{block + 1}/{len(blocks)} text blocks read")
    if not readers.reduced:
        raise RuleError(
            "rule llm-int8 looks at what dense layers read of the hidden states, and no module "
            "with a weight matrix that reads them was seen in this model's layers; use another rule"
        )
    order = sorted(readers.reduced)
    return DenseInputs(
        layer=np.array([layer for layer, _ in order], dtype=np.int64),
        n_layers=stack.n_layers,
        largest=np.stack([readers.reduced[key][0] for key in order]),
        hits=np.stack([readers.reduced[key][1] for key in order]),
        threshold=threshold,
        positions=sum(map(len, blocks)),
    )


class _DenseReaders:
    """Recognises hidden states by their memory, while they are alive, and counts them once."""

    def __init__(self, hidden_size: int, threshold: float) -> None:
        self._hidden_size = hidden_size
        self._threshold = threshold
        self._alive: dict[tuple[int, int], Tensor] = {}
        self._read: dict[tuple[int, int], None] = {}
        self.reduced: dict[tuple[int, int], tuple[Array, NDArray[np.int64]]] = {}
        """(layer, number of the hidden state in it) -> largest |value| and hits, (D,)."""

    def layer_begins(self, _: int, inputs: tuple[Any, ...]) -> None:
        """Only the layer's input is known now."""
        self._alive.clear()
        self._read.clear()
        self._know(first_floating(inputs))

    def norm_ends(self, module: nn.Module, _: object, output: Any) -> None:
        """What a module without any matrix made is a hidden state if that module normalises."""
        tensor = first_floating(output)
        if tensor is not None and (_has_parameters(module) or _has_unit_rows(tensor)):
            self._know(tensor)

    def dense_begins(
        self, running: LayerHooks, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Reduce what it reads, if that is a hidden state that nobody has read yet."""
        tensor = first_floating((*args, *kwargs.values()))
        if tensor is None or running.layer is None:
            return
        key = _memory(tensor)
        if key not in self._alive or key in self._read:
            return
        number = len(self._read)
        self._read[key] = None
        size = np.abs(float64(self._alive[key]))  # (T, D)
        if not np.isfinite(size).all():
            raise not_finite("hidden state", running.layer)
        largest, hits = size.max(axis=0), (size >= self._threshold).sum(axis=0)
        if (running.layer, number) in self.reduced:
            before = self.reduced[running.layer, number]
            largest, hits = np.maximum(largest, before[0]), hits + before[1]
        self.reduced[running.layer, number] = (largest, hits)

    def text_block_ends(self) -> None:
        """Let the last layer's tensors go."""
        self._alive.clear()

    def _know(self, tensor: Tensor | None) -> None:
        if tensor is not None and tensor.shape[-1] == self._hidden_size:
            self._alive[_memory(tensor)] = tensor


def _has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _memory(tensor: Tensor) -> tuple[int, int]:
    """The same for a tensor and its reshaped views."""
    return tensor.data_ptr(), tensor.numel()


def _has_unit_rows(tensor: Tensor) -> bool:
    """Whether every position has root mean square 1, as after a norm without parameters."""
    size = tensor.float().pow(2).mean(-1).sqrt()
    return bool(torch.allclose(size, torch.ones_like(size), atol=1e-2))
