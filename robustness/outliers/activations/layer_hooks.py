"""Following a forward pass through its layers by hooks, one text block at a time."""

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from robustness.anatomy.stacks import Stack
from robustness.errors import MeasurementError, RuleError
from robustness.scoring.forward import forward_errors

Array = NDArray[np.float64]
Progress = Callable[[str], None]
Blocks = Sequence[NDArray[np.int64]]
"""Token ids of each text block, special tokens included, each of shape (T,)."""
LayerBegins = Callable[[int, tuple[Any, ...]], None]
LayerEnds = Callable[[int, Any], None]


def run(model: nn.Module, ids: NDArray[np.int64]) -> None:
    """One forward pass over one text block, as a batch of one.

    Where there is a decoder, it reads the same text that the encoder reads.
    """
    device = next(model.parameters()).device
    tokens = torch.from_numpy(ids)[None].to(device)  # (1, T)
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    if "decoder_input_ids" in inspect.signature(model.forward).parameters:
        shift_right: Any = model.prepare_decoder_input_ids_from_labels
        inputs["decoder_input_ids"] = shift_right(tokens)
    with torch.inference_mode(), forward_errors(model):
        model(**inputs, use_cache=False)


class LayerHooks:
    """Which layer of the stack is being executed."""

    def __init__(self, stack: Stack, begins: LayerBegins, ends: LayerEnds) -> None:
        self._layers = {(site.layer_module, site.execution): site.layer for site in stack.layers}
        self._name = stack.name
        self._begins = begins
        self._ends = ends
        self._calls: Counter[str] = Counter()
        self.layer: int | None = None

    def stack_begins(self, *_: object) -> None:
        """Forget what an earlier forward pass, perhaps one that failed, left behind."""
        self._calls.clear()
        self.layer = None

    def stack_ends(self, *_: object) -> None:
        """Make sure that all layers were seen."""
        if self._calls.total() != len(self._layers):
            raise self._other_layers(f"{self._calls.total()} instead of {len(self._layers)}")

    def layer_begins(
        self, name: str, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Note which layer this is: its module may be shared with others."""
        self.layer = self._layers.get((name, self._calls[name]))
        if self.layer is None:
            raise self._other_layers(f"{name!r} more than {self._calls[name]} times")
        self._calls[name] += 1
        self._begins(self.layer, (*args, *kwargs.values()))

    def layer_ends(self, _: nn.Module, __: object, output: Any) -> None:
        """Hand its output on."""
        if self.layer is not None:
            self._ends(self.layer, output)
        self.layer = None

    def _other_layers(self, what: str) -> MeasurementError:
        return MeasurementError(
            f"This forward pass executes other layers of {self._name!r} than the traced one "
            f"({what}); trace the model with inputs like those that it is run with."
        )


def _nothing(*_: object) -> None:
    """Called where nobody listens."""


@contextmanager
def layer_hooks(
    model: nn.Module,
    stack: Stack,
    *,
    begins: LayerBegins = _nothing,
    ends: LayerEnds = _nothing,
) -> Iterator[LayerHooks]:
    """A record of where the forward pass is; on leaving, the model has no hooks of ours."""
    running = LayerHooks(stack, begins, ends)
    with ExitStack() as hooks:
        caller = model.get_submodule(stack.name)
        keep(hooks, caller.register_forward_pre_hook(running.stack_begins))
        keep(hooks, caller.register_forward_hook(running.stack_ends))
        for name in dict.fromkeys(site.layer_module for site in stack.layers):
            layer = model.get_submodule(name)
            hook = partial(running.layer_begins, name)
            keep(hooks, layer.register_forward_pre_hook(hook, with_kwargs=True))
            keep(hooks, layer.register_forward_hook(running.layer_ends))
        yield running


def keep(hooks: ExitStack, handle: RemovableHandle) -> None:
    """Remove a hook when the context ends."""
    hooks.callback(handle.remove)


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


def not_finite(what: str, layer: int) -> RuleError:
    """The error for a hidden state, or the like, that holds NaN or infinity."""
    return RuleError(
        f"a {what} of layer {layer} is not a finite number, so rules on activations cannot compare "
        "dimensions: its weights or activations overflow or hold NaN; use rule busters, or vet "
        "an earlier checkpoint"
    )
