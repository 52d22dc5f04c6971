"""Switching dimensions off at the sites of an unmodified model, for a while.

Forward hooks replace what a site's module returns by a copy in which the features have other
values. No parameter changes, so several processes can share one memory-mapped copy of the weights.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from robustness.ablation.ablation import Ablation, plain_indices
from robustness.ablation.edits import Edit, Replace, ReplaceRows, Sum, with_features
from robustness.anatomy.stacks import EMBEDDING, HookPoint, Stack, StackInput
from robustness.errors import MeasurementError, UnsupportedSite

Means: TypeAlias = Mapping[int, Tensor]
"""Mean features of the intact model, shape (D,), by layer; `EMBEDDING` is what precedes them."""


@contextmanager
def ablated(
    model: nn.Module, stack: Stack, ablation: Ablation, means: Means | None = None
) -> Iterator[None]:
    """Switch dimensions off in all rows of every forward pass within the context.

    Contexts can be nested: each switches off its own. On leaving, also by an exception, the model
    is as it was. The mode ``mean`` needs the intact model's means at these sites.

    Raises:
        UnsupportedSite: The model has no such dimension, layer or site.
        MeasurementError: In the forward pass, when it executes other layers than were traced.
    """
    _require_below(ablation.dims, stack.hidden_size, "dimension")
    means = _needed(ablation.mode, means)
    dims = torch.tensor(ablation.dims)
    edits = {
        place.layer: Replace(dims, None if means is None else means[place.layer][dims])
        for place in _places(stack, ablation)
    }
    with _edited(model, stack, ablation.site, edits):
        yield


@contextmanager
def ablated_rows(
    model: nn.Module,
    stack: Stack,
    rows: Sequence[Sequence[int]],
    *,
    template: Ablation | None = None,
    means: Means | None = None,
) -> Iterator[None]:
    """Switch other dimensions off in each row of the batch; none leaves a row intact.

    Where and how is as in the template, its own dimensions aside; by default zero at the output
    sites. For the rest see `ablated`.

    Raises:
        UnsupportedSite: It was not found where a site carries the rows of the batch.
        MeasurementError: In the forward pass, when the batch has another number of rows.
    """
    if not rows:
        raise ValueError("ablated_rows needs the dimensions of one or more rows")
    off = torch.zeros(len(rows), stack.hidden_size, dtype=torch.bool)  # (B, D)
    for row, dims in enumerate(rows):
        if dims:
            chosen = plain_indices(dims, "dimension")
            _require_below(chosen, stack.hidden_size, "dimension")
            off[row, list(chosen)] = True
    template = template or Ablation(dims=(0,))
    means = _needed(template.mode, means)
    edits = {
        place.layer: ReplaceRows(place, off, None if means is None else means[place.layer])
        for place in _places(stack, template)
    }
    with _edited(model, stack, template.site, edits):
        yield


@contextmanager
def summed(model: nn.Module, stack: Stack, ablation: Ablation) -> Iterator[dict[int, Sum]]:
    """Sum up the intact features at the sites of an ablation, by layer, or `EMBEDDING`."""
    sums = {place.layer: Sum(stack.hidden_size) for place in _places(stack, ablation)}
    with _edited(model, stack, ablation.site, sums):
        yield sums


class _Execution:
    """Follows a forward pass through hooks, to know which layer's site returns something."""

    def __init__(self, stack: Stack, edits: Mapping[int, Edit], *, streams: bool) -> None:
        self._name = stack.name
        self._layers = {
            (place.layer_module, place.execution): place.layer for place in stack.layers
        }
        self._edits = {layer: edit for layer, edit in edits.items() if layer != EMBEDDING}
        self._streams = streams
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
        return with_features(output, self._edits[self._layer], streams=self._streams)

    def _other_layers(self, what: str) -> MeasurementError:
        return MeasurementError(
            f"This forward pass executes other layers of {self._name!r} than the traced one "
            f"({what}); trace the model with inputs like those that it is measured with."
        )


class _Entrance:
    """Edits what a module is handed in one of its calls."""

    def __init__(self, entry: StackInput, edit: Edit) -> None:
        self._entry = entry
        self._edit = edit
        self._calls = 0

    def stack_begins(self, *_: object) -> None:
        """Count from here."""
        self._calls = 0

    def before(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments, the features among them edited."""
        call, self._calls = self._calls, self._calls + 1
        if self._entry.execution not in (None, call):
            return args, kwargs
        where = self._entry.argument
        if isinstance(where, str) and where in kwargs:
            return args, {**kwargs, where: self._edit(kwargs[where])}
        if isinstance(where, int) and where < len(args):
            return (*args[:where], self._edit(args[where]), *args[where + 1 :]), kwargs
        raise MeasurementError(
            f"{type(module).__name__} {self._entry.module!r} is handed its features in another way "
            "than in the traced forward pass; trace the model with inputs like those that it is "
            "measured with."
        )


@contextmanager
def _edited(model: nn.Module, stack: Stack, site: str, edits: Mapping[int, Edit]) -> Iterator[None]:
    """Apply an edit to the features at each chosen layer's place of that site."""
    execution = _Execution(stack, edits, streams=site == "residual")
    with ExitStack() as hooks:

        def register(handle: RemovableHandle) -> None:
            hooks.callback(handle.remove)

        if site == "embedding-norm":
            (place,) = stack.at(site)
            edit = edits[EMBEDDING]
            norm = model.get_submodule(place.module)
            register(norm.register_forward_hook(lambda _, __, out: with_features(out, edit)))
            yield
            return
        caller = model.get_submodule(stack.name)
        register(caller.register_forward_pre_hook(execution.stack_begins))
        register(caller.register_forward_hook(execution.stack_ends))
        for entry in stack.entries if EMBEDDING in edits else ():
            entrance = _Entrance(entry, edits[EMBEDDING])
            register(caller.register_forward_pre_hook(entrance.stack_begins))
            entered = model.get_submodule(entry.module)
            register(entered.register_forward_pre_hook(entrance.before, with_kwargs=True))
        layers = dict.fromkeys(place.layer_module for place in stack.layers)
        for name in layers:
            begins = partial(execution.layer_begins, name)
            register(model.get_submodule(name).register_forward_pre_hook(begins))
        places = [place for place in stack.at(site) if place.layer in edits]
        for name in dict.fromkeys(place.module for place in places):
            register(model.get_submodule(name).register_forward_hook(execution.site_returns))
        for name in layers:  # last, since the site can be the layer itself
            register(model.get_submodule(name).register_forward_hook(execution.layer_ends))
        yield


def _places(stack: Stack, ablation: Ablation) -> list[HookPoint]:
    """Where it acts; what enters the first layer is a place like its output."""
    places = list(stack.at(ablation.site))
    if ablation.layers is not None:
        _require_below(ablation.layers, stack.n_layers, "layer")
        places = [places[layer] for layer in ablation.layers]
    if ablation.embeddings:
        if not stack.entries:
            raise UnsupportedSite(
                f"What enters the first layer of {stack.name!r} is read outside of its modules, "
                "too, so it cannot be switched off there; leave embeddings out."
            )
        first = stack.layers[0]
        places.append(
            HookPoint(
                module=first.module,
                layer_module=first.layer_module,
                execution=first.execution,
                layer=EMBEDDING,
                batch_axis=first.batch_axis,
                flattened=first.flattened,
            )
        )
    return places


def _needed(mode: str, means: Means | None) -> Means | None:
    if mode == "mean" and means is None:
        raise ValueError("the mode 'mean' needs the intact model's means")
    return means if mode == "mean" else None


def _require_below(indices: Sequence[int], limit: int, what: str) -> None:
    beyond = [i for i in indices if i >= limit]
    if beyond:
        raise UnsupportedSite(
            f"There is no {what} {beyond[0]}: the model's {what}s are numbered from 0 to "
            f"{limit - 1}."
        )
