"""Starting a forward pass in the middle: layers whose outcome is known are not run again.

What the layers before one hand on to it was kept in an earlier forward pass of the same batch. For
a while those layers' modules have another ``forward``, which returns that instead of computing it;
everything around them, hooks included, runs as ever.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from robustness.anatomy.nested import map_nested
from robustness.anatomy.stacks import Stack
from robustness.errors import MeasurementError, UnsupportedArchitecture


@dataclass(kw_only=True)
class Kept:
    """What the layers of a stack returned in the last of so many forward passes, by layer."""

    outputs: list[Any] = field(default_factory=list)
    passes: int = 0

    def begin(self, *_: object) -> None:
        """Another forward pass begins."""
        self.outputs.clear()
        self.passes += 1

    def add(self, _module: object, _args: object, output: Any) -> None:
        """A layer returns."""
        self.outputs.append(_copied(output))


@contextmanager
def kept(model: nn.Module, stack: Stack) -> Iterator[Kept]:
    """Keep what every layer returns in the forward pass within the context."""
    outputs = Kept()
    with ExitStack() as hooks:
        caller = model.get_submodule(stack.name)
        hooks.callback(caller.register_forward_pre_hook(outputs.begin).remove)
        for name in dict.fromkeys(layer.layer_module for layer in stack.layers):
            hooks.callback(model.get_submodule(name).register_forward_hook(outputs.add).remove)
        yield outputs


@contextmanager
def resumed(model: nn.Module, stack: Stack, returned: Kept, layer: int) -> Iterator[None]:
    """Run only the layers from one on, in every forward pass within the context.

    They must be of the batch that the outputs were kept of. On leaving, also by an exception, the
    model is as it was.

    Raises:
        UnsupportedArchitecture: What follows a layer reads more of those before it than what it
            returned (see `Stack.resumable`).
        MeasurementError: The outputs are not those of one forward pass of this stack.
    """
    if not stack.resumable:
        raise UnsupportedArchitecture(
            f"The layers of {stack.name!r} hand on more than they return, so a forward pass cannot "
            "start in the middle of them; run all layers."
        )
    if (returned.passes, len(returned.outputs)) != (1, stack.n_layers):
        raise MeasurementError(
            f"{len(returned.outputs)} layers of {returned.passes} forward passes were kept where "
            f"{stack.name!r} has {stack.n_layers}; keep one forward pass of the same batch."
        )
    if layer == 0:
        yield
        return
    skipped: dict[str, set[int]] = {}
    for place in stack.layers[:layer]:
        skipped.setdefault(place.layer_module, set()).add(place.execution)
    with ExitStack() as undo:
        caller = model.get_submodule(stack.name)
        for name, executions in skipped.items():
            module = model.get_submodule(name)
            stand_in = _StandIn(module, executions, returned.outputs[layer - 1])
            handle = caller.register_forward_pre_hook(stand_in.stack_begins)
            undo.callback(handle.remove)
            undo.enter_context(forward_replaced(module, stand_in))
        yield


class _StandIn:
    """Returns what was kept in the calls that are skipped, and computes the others."""

    def __init__(self, module: nn.Module, executions: set[int], output: Any) -> None:
        self._forward = module.forward
        self._executions = executions
        self._output = output
        self._calls = 0

    def stack_begins(self, *_: object) -> None:
        """Count the calls from here."""
        self._calls = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call, self._calls = self._calls, self._calls + 1
        if call in self._executions:
            return _copied(self._output)  # what follows may change it in place
        return self._forward(*args, **kwargs)


@contextmanager
def forward_replaced(module: nn.Module, compute: Callable[..., Any]) -> Iterator[None]:
    """Let a module compute something else for a while; its hooks run as ever."""
    before = vars(module).get("forward")  # of the instance: accelerate's, for instance
    vars(module)["forward"] = compute
    try:
        yield
    finally:
        if before is None:
            del vars(module)["forward"]
        else:
            vars(module)["forward"] = before


def _copied(output: Any) -> Any:
    return map_nested(output, Tensor, Tensor.clone)
