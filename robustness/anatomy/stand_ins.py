"""Running a model without reading its parameters.

What a forward pass is made of does not depend on the parameters' values, and must also be found on
a skeleton whose parameters are all the same number, where differences vanish that a trained model
would show. Every parameter is therefore replaced, while an operation reads it, by a fixed
pseudo-random stand-in that needs next to no memory.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from robustness.anatomy.nested import map_nested

_TOKENS = 64  # distinct rows of the stand-in for an embedding matrix
_LARGE = 2**22  # elements; a larger stand-in repeats its parts


class StandInParameters(TorchFunctionMode):
    """Lets every operation read pseudo-random stand-ins instead of parameters.

    A vector gets positive numbers, a matrix overlapping views of one vector (element ``[i, j]`` is
    ``vector[i + j]``), which need no memory and yet keep rows, columns and features apart. The two
    operations that read the most are cheap: a dense layer copies input features to output features,
    and an embedding looks tokens up in a small table.
    """

    def __init__(self) -> None:
        super().__init__()
        self._vectors: dict[tuple[object, ...], Tensor] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operation with stand-ins for the parameters among its arguments."""
        named = dict(kwargs or {})
        if any(type(argument) is nn.Parameter and argument.ndim == 2 for argument in args[1:3]):
            if func is nn.functional.embedding:
                return self._embedding(args[0], args[1])
            if func is nn.functional.linear:
                return self._dense(args[0], args[1].shape[0], *args[2:3], *named.values())
            if func is torch.addmm and type(args[2]) is nn.Parameter:
                return self._dense(args[1], args[2].shape[1], args[0])
        args = map_nested(args, Tensor, self._stand_in)
        return func(*args, **map_nested(named, Tensor, self._stand_in))

    def _stand_in(self, tensor: Tensor) -> Tensor:
        if type(tensor) is not nn.Parameter or not tensor.is_floating_point() or not tensor.ndim:
            return tensor
        if tensor.ndim == 1:
            # An alias of its own for every reader: an operation that returns its operand as it
            # stands, such as a cast to the same type, must not seem to have made it once for all.
            return self._random(tuple(tensor.shape), tensor, low=0.5, high=1.5).detach()
        bound = (3 / max(tensor.shape[-1], 1)) ** 0.5
        if tensor.ndim == 2:
            vector = self._random((sum(tensor.shape),), tensor, low=-bound, high=bound)
            return vector.as_strided(tensor.shape, (1, 1))
        # Some kernels refuse overlapping memory here, and what is large is a layer's many experts.
        keep = 0 if tensor.numel() <= _LARGE else 1
        part = self._random(tuple(tensor.shape[keep:]), tensor, low=-bound, high=bound)
        return part.expand(tensor.shape)

    def _embedding(self, ids: Tensor, weight: Tensor) -> Tensor:
        shape = (min(_TOKENS, weight.shape[0]), weight.shape[1])
        table = self._random(shape, weight, low=-1.0, high=1.0)
        return nn.functional.embedding(ids % shape[0], table)

    def _dense(self, x: Tensor, width: int, bias: Tensor | None = None) -> Tensor:
        """A dense layer whose stand-in weight is a 0/1 matrix, so that it costs next to nothing."""
        y = x.index_select(-1, torch.arange(width, device=x.device) % x.shape[-1])
        return y if bias is None else y + self._stand_in(bias)

    def _random(
        self, shape: tuple[int, ...], parameter: Tensor, *, low: float, high: float
    ) -> Tensor:
        key = (shape, low, high, parameter.dtype, parameter.device)
        if key not in self._vectors:
            generator = torch.Generator().manual_seed(0)  # leaves the global state alone
            uniform = torch.rand(shape, generator=generator) * (high - low) + low
            self._vectors[key] = uniform.to(device=parameter.device, dtype=parameter.dtype)
        return self._vectors[key]
