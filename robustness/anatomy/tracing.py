"""One forward pass, recorded: which module calls and tensor operations made which tensors.

Module hooks alone cannot see the residual addition between two modules, and tensor operations
alone do not say which module they belong to; the recording has both. It is a graph of integers:
every state of a tensor is a *value*, and an in-place operation gives the tensor a new value.

The parameters' values are not read (`stand_ins`): the data flow of a language model does
not depend on them.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from robustness.anatomy.nested import floating_tensors, map_nested, tensors_in
from robustness.anatomy.stand_ins import StandInParameters
from robustness.checkpoint.loading import reason
from robustness.errors import UnsupportedArchitecture

_WHOLE_MODULE = "whole module"  # a call whose operations torch did not show, e.g. a fused kernel
_PARTIAL_UPDATE = "partial in-place update"
# Operations that choose, join, repeat or pool positions, as long as every feature stays itself.
_OF_POSITIONS = {
    *("getitem", "cat", "pad", "index_select", "repeat_interleave", "avg_pool2d", "max_pool2d"),
}


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """What is kept of a tensor that a module was called with."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One tensor operation: its name without underscores, what it read and what it made."""

    index: int
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(kw_only=True, eq=False)
class Call:
    """One call of a module.

    Attributes:
        index: Position among all calls, in the order in which they started.
        name: Qualified name of the module.
        parent: The call from within which this one was made.
        children: Calls made directly from within this one.
        args: Positional arguments, every tensor replaced by its `TensorSpec`.
        kwargs: Keyword arguments, likewise.
        inputs: Values of the floating tensors among the arguments, with their shapes.
        arguments: Where among its arguments these are, by position or by keyword; without those
            within lists and other structures.
        outputs: Values of the floating tensors among the results, in order.
        shape: Shape of the first of them.
        operations: The operations executed within the call.
    """

    index: int
    name: str
    module: nn.Module
    parent: "Call | None"
    children: list["Call"] = field(default_factory=list)
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    inputs: dict[int, tuple[int, ...]] = field(default_factory=dict)
    arguments: dict[int, int | str] = field(default_factory=dict)
    outputs: tuple[int, ...] = ()
    shape: tuple[int, ...] = ()
    operations: range = range(0)

    def ancestors(self) -> Iterator["Call"]:
        """The calls around this one, innermost first."""
        call = self.parent
        while call is not None:
            yield call
            call = call.parent

    def descendants(self) -> Iterator["Call"]:
        """All calls made within this one, in order."""
        for child in self.children:
            yield child
            yield from child.descendants()

    @property
    def owns_parameters(self) -> bool:
        """Whether the module holds parameters itself, not only through its children."""
        return any(parameter is not None for parameter in self.module._parameters.values())


@dataclass(kw_only=True)
class Trace:
    """The graph of one forward pass."""

    calls: list[Call] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    _producer: dict[int, Operation] = field(default_factory=dict)
    _returned: dict[int, list[Call]] = field(default_factory=dict)

    def producer(self, value: int) -> Operation | None:
        """The operation that made a value, or None for an input, a parameter or a constant."""
        return self._producer.get(value)

    def made_by(self, value: int) -> list[Call]:
        """The calls that returned a value and also made it, innermost first."""
        operation = self._producer.get(value)
        if operation is None:
            return []
        return [c for c in self._returned.get(value, ()) if operation.index in c.operations]

    def add_operation(self, name: str, inputs: Iterable[int], outputs: Iterable[int]) -> None:
        """Append an operation to the record."""
        operation = Operation(
            index=len(self.operations), name=name, inputs=tuple(inputs), outputs=tuple(outputs)
        )
        self.operations.append(operation)
        for value in operation.outputs:
            self._producer[value] = operation

    def close_call(self, call: Call, outputs: Sequence[int]) -> None:
        """Note what a call returned; inner calls close first."""
        call.outputs = tuple(outputs)
        call.operations = range(call.operations.start, len(self.operations))
        for value in dict.fromkeys(outputs):
            self._returned.setdefault(value, []).append(call)


class _Recorder(StandInParameters):
    """Fills a `Trace` from the operations and module calls of one forward pass."""

    def __init__(self, names: Mapping[nn.Module, str]) -> None:
        super().__init__()
        self.trace = Trace()
        self._names = names
        self._open: list[Call] = []
        # Weak keys: activations are freed as usual, and a recycled address is never mistaken.
        self._values: MutableMapping[Tensor, int] = WeakTensorKeyDictionary()
        self._n_values = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operation and add it to the trace."""
        operands = list(tensors_in((args, kwargs)))
        versions = [_version(operand) for operand in operands]
        result = super().__torch_function__(func, types, args, kwargs)
        changed = [t for t, old in zip(operands, versions, strict=True) if _version(t) != old]
        new = [tensor for tensor in tensors_in(result) if tensor not in self._values]
        if changed or new:  # and not, for example, a question after a tensor's dtype
            name, inputs = _operation_name(func), [self._value(operand) for operand in operands]
            if name in _OF_POSITIONS and len(_widths(*operands, *new)) == 1:
                name = "alias"
            for tensor in changed:
                self._update_in_place(name, tensor, inputs)
            new = [tensor for tensor in new if tensor not in self._values]
            if new:
                self.trace.add_operation(name, inputs, [self._value(tensor) for tensor in new])
        return result

    def before_call(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Forward pre-hook: open a call."""
        start = len(self.trace.operations)
        call = Call(
            index=len(self.trace.calls),
            name=self._names[module],
            module=module,
            parent=self._open[-1] if self._open else None,
            args=map_nested(args, Tensor, _spec),
            kwargs=map_nested(kwargs, Tensor, _spec),
            inputs={self._value(t): tuple(t.shape) for t in floating_tensors((args, kwargs))},
            arguments=self._positions(args, kwargs),
            operations=range(start, start),
        )
        if call.parent is not None:
            call.parent.children.append(call)
        self.trace.calls.append(call)
        self._open.append(call)

    def after_call(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object
    ) -> None:
        """Forward hook: close the call opened last."""
        call = self._open.pop()
        assert call.module is module
        results = list(floating_tensors(output))
        unseen = [tensor for tensor in results if tensor not in self._values]
        if unseen:
            inputs = [self._value(tensor) for tensor in tensors_in((args, kwargs))]
            self.trace.add_operation(_WHOLE_MODULE, inputs, [self._value(t) for t in unseen])
        if results:
            call.shape = tuple(results[0].shape)
        self.trace.close_call(call, [self._value(tensor) for tensor in results])

    def _positions(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[int, int | str]:
        found: dict[int, int | str] = {}
        named: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
        for where, argument in named:
            if isinstance(argument, Tensor):
                found[self._value(argument)] = where
        return found

    def _value(self, tensor: Tensor) -> int:
        if tensor not in self._values:
            self._values[tensor] = self._new_value()
        return self._values[tensor]

    def _new_value(self) -> int:
        self._n_values += 1
        return self._n_values

    def _update_in_place(self, name: str, changed: Tensor, inputs: list[int]) -> None:
        """Give the changed tensor, and every other live view of its memory, a new value."""
        storage = changed.untyped_storage()._cdata
        for tensor, old in list(self._values.items()):
            if tensor.untyped_storage()._cdata == storage:
                whole = tensor.numel() == changed.numel()
                others = inputs if tensor is changed else [old, *inputs]
                value = self._new_value()
                self.trace.add_operation(name if whole else _PARTIAL_UPDATE, others, [value])
                self._values[tensor] = value


def record(model: nn.Module, inputs: Mapping[str, Tensor]) -> Trace:
    """Record one forward pass.

    Args:
        model: Any model; its parameters' values are not read, and it is left as it was.
        inputs: Keyword arguments of its forward pass.

    Raises:
        UnsupportedArchitecture: The forward pass failed.
    """
    recorder = _Recorder({module: name for name, module in model.named_modules()})
    with ExitStack() as hooks:
        for module in model.modules():
            before = module.register_forward_pre_hook(recorder.before_call, with_kwargs=True)
            hooks.callback(before.remove)
            after = module.register_forward_hook(recorder.after_call, with_kwargs=True)
            hooks.callback(after.remove)
        _forward(model, inputs, recorder)
    return recorder.trace


def outputs_of(
    model: nn.Module, inputs: Mapping[str, Tensor], modules: Iterable[str]
) -> dict[str, list[Tensor]]:
    """The first floating tensor that each named module returned in each of its calls.

    Like `record`, this reads stand-ins for the parameters.
    """
    seen: dict[str, list[Tensor]] = {name: [] for name in modules}
    with ExitStack() as hooks:
        for name, outputs in seen.items():

            def keep(
                module: nn.Module,  # noqa: ARG001 (the hook's signature)
                args: object,  # noqa: ARG001
                output: object,
                outputs: list[Tensor] = outputs,
            ) -> None:
                outputs.extend(tensor.clone() for tensor in [*floating_tensors(output)][:1])

            handle = model.get_submodule(name).register_forward_hook(keep)
            hooks.callback(handle.remove)
        _forward(model, inputs, StandInParameters())
    return seen


def _forward(model: nn.Module, inputs: Mapping[str, Tensor], mode: TorchFunctionMode) -> None:
    with torch.inference_mode(False), torch.no_grad(), evaluation(model):
        own_inputs: dict[str, Any] = {name: tensor.clone() for name, tensor in inputs.items()}
        if "use_cache" in inspect.signature(model.forward).parameters:
            own_inputs["use_cache"] = False  # as when it is measured; some caches need more
        try:
            with mode:
                model(**own_inputs)
        except Exception as error:  # whatever a model's code may raise
            raise UnsupportedArchitecture(
                f"A forward pass of {type(model).__name__} on {', '.join(inputs)} failed, so its "
                f"layers cannot be found ({type(error).__name__}: {reason(error)}): try another "
                "version of transformers, correct config.json, or give a model that reads texts of "
                "any length and nothing else."
            ) from error


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Put every module in evaluation mode, and back into its own on leaving."""
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


def _spec(tensor: Tensor) -> TensorSpec:
    return TensorSpec(shape=tuple(tensor.shape), dtype=tensor.dtype, device=tensor.device)


def _widths(*tensors: Tensor) -> set[int]:
    return {tensor.shape[-1] for tensor in tensors if tensor.is_floating_point() and tensor.ndim}


def _version(tensor: Tensor) -> int:
    """How often a tensor was changed in place; inference tensors do not count, nor can they be."""
    return 0 if tensor.is_inference() else tensor._version


def _operation_name(func: Callable[..., Any]) -> str:
    """``add`` for ``torch.add``, ``Tensor.add_``, ``Tensor.__iadd__``; ``T`` for ``Tensor.T``."""
    name = getattr(func, "__name__", type(func).__name__)
    if name == "__get__":  # an attribute: its name is that of the descriptor
        name = getattr(getattr(func, "__self__", None), "__name__", name)
    return str(name).strip("_")
