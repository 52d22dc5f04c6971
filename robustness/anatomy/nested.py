"""Tensors in the nested structures that modules and operations take and return."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from torch import Tensor

_T = TypeVar("_T")


def tensors_in(nested: object) -> Iterator[Tensor]:
    """The tensors in nested tuples, lists and mappings (model outputs are mappings), in order."""
    if isinstance(nested, Tensor):
        yield nested
    elif isinstance(nested, Mapping):
        for item in nested.values():
            yield from tensors_in(item)
    elif isinstance(nested, tuple | list):
        for item in nested:
            yield from tensors_in(item)


def floating_tensors(nested: object) -> Iterator[Tensor]:
    """Those of `tensors_in` that hold floating-point numbers; features come first among them."""
    return (tensor for tensor in tensors_in(nested) if tensor.is_floating_point())


def map_nested(nested: Any, kind: type[_T], function: Callable[[_T], object]) -> Any:
    """A copy of nested tuples, lists and dicts, every object of one kind replaced."""
    if isinstance(nested, kind):
        return function(nested)
    if type(nested) is tuple or type(nested) is list:
        return type(nested)(map_nested(item, kind, function) for item in nested)
    if type(nested) is dict:
        return {key: map_nested(item, kind, function) for key, item in nested.items()}
    return nested
