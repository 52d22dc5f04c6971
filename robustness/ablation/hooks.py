"""Switching dimensions off at the sites of an unmodified model, for a while.

Forward hooks replace what a site's module returns by a copy in which the features have other
values. No parameter changes, so several processes can share one memory-mapped copy of the weights.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, TypeAlias, TypeVar

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


def _nothing(*_: object) -> None:
    """Called where nobody listens."""


class LayerHooks:
    """Follows a forward pass through hooks, to know which layer of a stack is being executed."""

    def __init__(
        self,
        stack: Stack,
        *,
        begins: Callable[[int, tuple[Any, ...]], None] = _nothing,
        ends: Callable[[int, Any], None] = _nothing,
    ) -> None:
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
            raise self.other_layers(f"{self._calls.total()} instead of {len(self._layers)}")

    def layer_begins(
        self, name: str, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Note which layer this is: its module may be shared with others."""
        self.layer = self._layers.get((name, self._calls[name]))
        if self.layer is None:
            raise self.other_layers(f"{name!r} was executed more than {self._calls[name]} times")
        self._calls[name] += 1
        self._begins(self.layer, (*args, *kwargs.values()))

    def layer_ends(self, _: nn.Module, __: object, output: Any) -> None:
        """Hand its output on; between layers there is none."""
        if self.layer is not None:
            self._ends(self.layer, output)
        self.layer = None

    def other_layers(self, what: str) -> MeasurementError:
        """The error for a forward pass that is not like the traced one."""
        return MeasurementError(
            f"This forward pass executes other layers of {self._name!r} than the traced one "
            f"({what}); trace the model with inputs like those that it is measured with."
        )


H = TypeVar("H", bound=LayerHooks)


@contextmanager
def followed(
    model: nn.Module,
    stack: Stack,
    running: H,
    sites: Mapping[str, Callable[..., Any]] | None = None,
) -> Iterator[H]:
    """Know where the forward pass is, and run forward hooks of modules within the layers.

    On leaving, the model has no hooks of ours.
    """
    layers = dict.fromkeys(place.layer_module for place in stack.layers)
    with ExitStack() as hooks:
        caller = model.get_submodule(stack.name)
        keep(hooks, caller.register_forward_pre_hook(running.stack_begins))
        keep(hooks, caller.register_forward_hook(running.stack_ends))
        for name in layers:
            begins = partial(running.layer_begins, name)
            layer = model.get_submodule(name)
            keep(hooks, layer.register_forward_pre_hook(begins, with_kwargs=True))
        for name, hook in (sites or {}).items():
            keep(hooks, model.get_submodule(name).register_forward_hook(hook))
        for name in layers:  # last, since a site can be the layer itself
            keep(hooks, model.get_submodule(name).register_forward_hook(running.layer_ends))
        yield running


def keep(hooks: ExitStack, handle: RemovableHandle) -> None:
    """Remove a hook when the context ends."""
    hooks.callback(handle.remove)


class _Editing(LayerHooks):
    """Edits what the sites of some layers return, and makes sure that none of them escapes."""

    def __init__(self, stack: Stack, edits: Mapping[int, Edit], *, streams: bool) -> None:
        super().__init__(stack)
        self._edits = {layer: edit for layer, edit in edits.items() if layer != EMBEDDING}
        self._streams = streams
        self._missing: set[int] = set()

    def stack_begins(self, *_: object) -> None:
        super().stack_begins()
        self._missing = set(self._edits)

    def stack_ends(self, *_: object) -> None:
        if self._missing:
            raise self.other_layers(f"nothing was ablated in the layers {sorted(self._missing)}")

    def site_returns(self, module: nn.Module, args: object, output: Any) -> Any:  # noqa: ARG002
        """The output of a site's module, edited if its layer is among those to edit."""
        if self.layer is None or self.layer not in self._edits:
            return output
        self._missing.discard(self.layer)
        return with_features(output, self._edits[self.layer], streams=self._streams)


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
def entering(model: nn.Module, stack: Stack, edit: Edit) -> Iterator[None]:
    """Apply an edit to what enters the first layer; to nothing where the stack has no entries."""
    with ExitStack() as hooks:
        caller = model.get_submodule(stack.name)
        for entry in stack.entries:
            entrance = _Entrance(entry, edit)
            keep(hooks, caller.register_forward_pre_hook(entrance.stack_begins))
            entered = model.get_submodule(entry.module)
            keep(hooks, entered.register_forward_pre_hook(entrance.before, with_kwargs=True))
        yield


@contextmanager
def _edited(model: nn.Module, stack: Stack, site: str, edits: Mapping[int, Edit]) -> Iterator[None]:
    """Apply an edit to the features at each chosen layer's place of that site."""
    with ExitStack() as hooks:
        if site == "embedding-norm":
            (place,) = stack.at(site)
            edit = edits[EMBEDDING]
            norm = model.get_submodule(place.module)
            keep(hooks, norm.register_forward_hook(lambda _, __, out: with_features(out, edit)))
            yield
            return
        if EMBEDDING in edits:
            hooks.enter_context(entering(model, stack, edits[EMBEDDING]))
        editing = _Editing(stack, edits, streams=site == "residual")
        places = [place for place in stack.at(site) if place.layer in edits]
        sites = dict.fromkeys((place.module for place in places), editing.site_returns)
        hooks.enter_context(followed(model, stack, editing, sites))
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
