"""Switching dimensions off at the output sites of an unmodified model, for a while.

Forward hooks replace what a site's module returns by a copy in which the features are 0. No
parameter changes, so several processes can share one memory-mapped copy of the weights.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from robustness.ablation import Ablation, plain_indices
from robustness.anatomy import Site, Stack
from robustness.errors import MeasurementError, UnsupportedSite

_Edit = Callable[[Tensor], Tensor]


@contextmanager
def ablated(model: nn.Module, stack: Stack, ablation: Ablation) -> Iterator[None]:
    """Switch dimensions off in all rows of every forward pass within the context.

    Contexts can be nested: each switches off its own. On leaving, also by an exception, the model
    is as it was.

    Args:
        model: The model that the stack belongs to.
        stack: Where its output sites are.
        ablation: What to switch off.

    Raises:
        UnsupportedSite: The model has no such dimension or layer.
        MeasurementError: In the forward pass, when it executes other layers than were traced.
    """
    _require_below(ablation.dims, stack.hidden_size, "dimension")
    dims = torch.tensor(ablation.dims)
    edits = {site.layer: _Zero(dims) for site in _sites(stack, ablation.layers)}
    with _edited(model, stack, edits):
        yield


@contextmanager
def ablated_rows(
    model: nn.Module,
    stack: Stack,
    rows: Sequence[Sequence[int]],
    *,
    layers: Sequence[int] | None = None,
) -> Iterator[None]:
    """Switch other dimensions off in each row of the batch.

    Args:
        model: The model that the stack belongs to.
        stack: Where its output sites are.
        rows: For each row of the batch, its dimensions; none leaves the row intact.
        layers: Layer indices; None for all layers.

    Raises:
        UnsupportedSite: The model has no such dimension or layer, or it was not found where an
            output site carries the rows of the batch.
        MeasurementError: In the forward pass, when the batch has another number of rows, or when
            it executes other layers than were traced.
    """
    if not rows:
        raise ValueError("ablated_rows needs the dimensions of one or more rows")
    off = torch.zeros(len(rows), stack.hidden_size, dtype=torch.bool)  # (B, D)
    for row, dims in enumerate(rows):
        if dims:
            chosen = plain_indices(dims, "dimension")
            _require_below(chosen, stack.hidden_size, "dimension")
            off[row, list(chosen)] = True
    chosen_layers = None if layers is None else plain_indices(layers, "layer")
    edits = {site.layer: _ZeroRows(site, off) for site in _sites(stack, chosen_layers)}
    with _edited(model, stack, edits):
        yield


class _Zero:
    """Sets the same features to 0 everywhere."""

    def __init__(self, dims: Tensor) -> None:
        self._dims = dims

    def __call__(self, features: Tensor) -> Tensor:
        """A copy of the features, ``(..., D)``, with some of them 0."""
        if self._dims.device != features.device:
            self._dims = self._dims.to(features.device)
        return features.index_fill(-1, self._dims, 0)


class _ZeroRows:
    """Sets other features to 0 in each row of the batch."""

    def __init__(self, site: Site, off: Tensor) -> None:
        if site.batch_axis is None:
            raise UnsupportedSite(
                f"It is not known which axis of the output of {site.module!r} carries the rows of "
                "the batch, so each ablation needs a batch of its own."
            )
        self._site = site
        self._axis: int = site.batch_axis
        self._off = off  # (B, D)
        self._masks: dict[tuple[torch.Size, torch.device], Tensor] = {}

    def __call__(self, features: Tensor) -> Tensor:
        """A copy of the features, ``(..., D)``, with some of them 0."""
        key = (features.shape, features.device)
        if key not in self._masks:
            self._masks[key] = self._mask(features)
        return features.masked_fill(self._masks[key], 0)

    def _mask(self, features: Tensor) -> Tensor:
        """Which features are to be 0, in a shape that broadcasts over them."""
        size, n_rows = features.shape[self._axis], len(self._off)
        matches = size == n_rows if self._site.flattened is None else size % n_rows == 0
        if not matches:
            raise MeasurementError(
                f"Dimensions were given for {n_rows} rows, but axis {self._axis} of the output of "
                f"{self._site.module!r} has {size} entries; give as many as the batch has rows."
            )
        positions = torch.arange(size)
        row_of = positions % n_rows if self._is_time_major else positions * n_rows // size
        shape = [1] * features.ndim
        shape[self._axis], shape[-1] = size, features.shape[-1]
        return self._off[row_of].view(shape).to(features.device)

    @property
    def _is_time_major(self) -> bool:
        return self._site.flattened == "time-major"


class _Execution:
    """Follows a forward pass through hooks, to know which layer's site returns something."""

    def __init__(self, stack: Stack, edits: Mapping[int, _Edit]) -> None:
        self._name = stack.name
        self._layers = {(site.layer_module, site.execution): site.layer for site in stack.sites}
        self._edits = edits
        self._calls: Counter[str] = Counter()
        self._layer: int | None = None  # the one being executed
        self._missing: set[int] = set()

    def stack_begins(self, *_: object) -> None:
        """Forget what an earlier forward pass, perhaps one that failed, left behind."""
        self._calls.clear()
        self._layer = None
        self._missing = set(self._edits)

    def stack_ends(self, *_: object) -> None:
        """Make sure that no layer escaped."""
        if self._missing:
            raise self._other_layers(f"nothing was ablated in the layers {sorted(self._missing)}")

    def layer_begins(self, name: str, *_: object) -> None:
        """Note which layer this is: its module may be shared with others."""
        self._layer = self._layers.get((name, self._calls[name]))
        if self._layer is None:
            raise self._other_layers(f"{name!r} was executed more than {self._calls[name]} times")
        self._calls[name] += 1

    def layer_ends(self, *_: object) -> None:
        """Nothing is edited between layers."""
        self._layer = None

    def site_returns(self, module: nn.Module, args: object, output: Any) -> Any:  # noqa: ARG002
        """The output of a site's module, edited if its layer is among those to edit."""
        if self._layer is None or self._layer not in self._edits:
            return output
        self._missing.discard(self._layer)
        return _with_features(output, self._edits[self._layer])

    def _other_layers(self, what: str) -> MeasurementError:
        return MeasurementError(
            f"This forward pass executes other layers of {self._name!r} than the traced one "
            f"({what}); trace the model with inputs like those that it is measured with."
        )


@contextmanager
def _edited(model: nn.Module, stack: Stack, edits: Mapping[int, _Edit]) -> Iterator[None]:
    """Apply an edit to the features at each chosen layer's site."""
    execution = _Execution(stack, edits)
    with ExitStack() as hooks:

        def register(handle: RemovableHandle) -> None:
            hooks.callback(handle.remove)

        caller = model.get_submodule(stack.name)
        register(caller.register_forward_pre_hook(execution.stack_begins))
        register(caller.register_forward_hook(execution.stack_ends))
        for name in dict.fromkeys(site.layer_module for site in stack.sites):
            layer = model.get_submodule(name)
            register(layer.register_forward_pre_hook(partial(execution.layer_begins, name)))
            register(layer.register_forward_hook(execution.layer_ends))
        for name in dict.fromkeys(site.module for site in stack.sites if site.layer in edits):
            register(model.get_submodule(name).register_forward_hook(execution.site_returns))
        yield


def _with_features(output: Any, edit: _Edit) -> Any:
    """A module's output with its feature tensor, the first floating one, edited."""
    if isinstance(output, Tensor):
        return edit(output)
    if isinstance(output, tuple | list):
        for i, item in enumerate(output):
            if isinstance(item, Tensor) and item.is_floating_point():
                return type(output)([*output[:i], edit(item), *output[i + 1 :]])
    raise MeasurementError(
        f"An output site returned {type(output).__name__}, in which there is no feature tensor."
    )


def _sites(stack: Stack, layers: Sequence[int] | None) -> list[Site]:
    if layers is None:
        return list(stack.sites)
    _require_below(layers, stack.n_layers, "layer")
    return [stack.sites[layer] for layer in layers]


def _require_below(indices: Sequence[int], limit: int, what: str) -> None:
    beyond = [i for i in indices if i >= limit]
    if beyond:
        raise UnsupportedSite(
            f"There is no {what} {beyond[0]}: the model's {what}s are numbered from 0 to "
            f"{limit - 1}."
        )
