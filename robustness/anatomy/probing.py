"""What a single module does, found by calling it on random numbers, never by its name.

A module is called with other parameters through ``torch.func.functional_call``; its own are
neither read nor changed.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from robustness.anatomy.nested import floating_tensors, map_nested
from robustness.anatomy.tracing import Call, TensorSpec, evaluation
from robustness.errors import UnsupportedSite

_TOLERANCE = (
    1e-3  # of the largest number: float32 rounding is far below, another function far above
)


@dataclass(frozen=True, kw_only=True)
class ParameterRoles:
    """Which parameters of a module scale its output features and which shift them.

    Attributes:
        scale: Name within the module of the 1-D scale or of the dense weight.
        bias: Name of the vector that is added to the features, if there is one.
        feature_axis: Axis of the scale that indexes the output features.
    """

    scale: str
    bias: str | None
    feature_axis: int


def is_normalisation(call: Call) -> bool:
    """Whether the called module normalises: scaling its input leaves its output as it is.

    Such a module calls no other, has at most vectors as parameters, and turns one tensor into one
    of the same shape.
    """
    vectors = all(parameter.ndim == 1 for parameter in _own_parameters(call).values())
    if call.children or not vectors or list(call.inputs.values()) != [call.shape]:
        return False
    parameters = _random_parameters(call)
    x = _input(call)  # large beside any epsilon
    try:
        y, y_scaled, y_other = (
            _outcome(call, parameters, value) for value in (x, 7 * x, x.flip(-1))
        )
    except Exception:  # a module that cannot be called on its own is nothing we can vouch for
        return False
    return bool(
        y.shape == x.shape and _close(y, y_scaled) and not _close(y, y_other) and y.isfinite().all()
    )


def parameter_roles(call: Call) -> ParameterRoles:
    """Find scale and bias of a module that writes features along the last axis of its output.

    Raises:
        UnsupportedSite: The parameters are neither one vector nor one matrix, with or without a
            vector that is added to the output.
    """
    own = _own_parameters(call)
    n_features = call.shape[-1]
    vectors = [n for n, p in own.items() if tuple(p.shape) == (n_features,)]
    matrices = [n for n, p in own.items() if p.ndim == 2 and n_features in p.shape]
    if 1 <= len(own) <= 2 and len(vectors) + len(matrices) == len(own) and len(matrices) <= 1:
        try:
            biases = [name for name in vectors if _is_added(call, name)]
            if matrices and biases == vectors:
                axis = _feature_axis(call, matrices[0])
                if axis is not None:
                    return _roles(matrices[0], biases, axis)
            scales = [name for name in vectors if name not in biases]
            if len(scales) == 1 and not matrices:
                return _roles(scales[0], biases, 0)
        except (RuntimeError, TypeError, ValueError) as error:
            raise UnsupportedSite(
                f"{call.name!r} writes the layer's output but cannot be called on its own, so its "
                f"scale and bias cannot be told apart: {error}"
            ) from error
    shapes = ", ".join(f"{name} {tuple(parameter.shape)}" for name, parameter in own.items())
    raise UnsupportedSite(
        f"{call.name!r} writes the layer's {n_features} output features, but its parameters "
        f"({shapes or 'none'}) are not one scale or dense weight with at most one bias."
    )


def is_dense(call: Call) -> ParameterRoles | None:
    """The roles of a module's parameters if all it does is to multiply by its matrix and to add.

    Tried out with parameters and an input of random numbers: its output is compared with that of
    the formula.
    """
    own = _own_parameters(call)
    if sum(parameter.ndim == 2 for parameter in own.values()) != 1 or len(call.inputs) != 1:
        return None
    try:
        roles = parameter_roles(call)
        parameters = _random_parameters(call)
        matrix = parameters[roles.scale]
        transposed = matrix.T if roles.feature_axis == 0 else matrix  # (in, out)
        x = _input(call)
        expected = x @ transposed
        if roles.bias is not None:
            expected = expected + parameters[roles.bias]
        same = _outcome(call, parameters, x)
    except (UnsupportedSite, RuntimeError, TypeError, ValueError, IndexError):
        return None
    return roles if same.shape == expected.shape and _close(same, expected) else None


def _roles(scale: str, biases: list[str], feature_axis: int) -> ParameterRoles:
    return ParameterRoles(
        scale=scale, bias=biases[0] if biases else None, feature_axis=feature_axis
    )


def _is_added(call: Call, name: str) -> bool:
    """Whether raising a vector raises the output by the same amount, whatever the input."""
    parameters = _random_parameters(call)
    raised = {**parameters, name: parameters[name] + 1}
    x = _input(call)
    difference = _outcome(call, raised, x) - _outcome(call, parameters, x)
    return _close(difference, torch.ones_like(difference))


def _feature_axis(call: Call, name: str) -> int | None:
    """Along which axis of a matrix lie the output features: ``(out, in)`` or ``(in, out)``.

    With a matrix that varies along one axis only, the output features differ exactly if that axis
    is theirs. Such matrices take no memory, however large the module is.
    """
    rows, columns = _own_parameters(call)[name].shape
    parameters = {key: torch.zeros_like(p) for key, p in _random_parameters(call, name).items()}
    x = _input(call).abs()  # no sum over it is zero

    def features_differ(matrix: Tensor) -> bool:
        y = _outcome(call, {**parameters, name: matrix}, x)
        return not _close(y, y[..., :1].expand_as(y))

    by_rows = features_differ((1 + _random((rows, 1), seed=3).abs()).expand(rows, columns))
    by_columns = features_differ((1 + _random((1, columns), seed=3).abs()).expand(rows, columns))
    if by_rows == by_columns:
        return None
    return 0 if by_rows else 1


def _own_parameters(call: Call) -> dict[str, nn.Parameter]:
    return {n: p for n, p in call.module._parameters.items() if p is not None}


def _random_parameters(call: Call, *without: str) -> dict[str, Tensor]:
    """Stand-ins: vectors between 0.5 and 1.5, all different; a matrix of small numbers."""
    stand_ins = {}
    for seed, (name, parameter) in enumerate(_own_parameters(call).items()):
        if name in without:
            continue
        vector = _random(tuple(parameter.shape[-1:]), seed=10 + seed)
        stand_ins[name] = (1 + 0.5 * vector.tanh()).expand(parameter.shape)
    return stand_ins


def _input(call: Call) -> Tensor:
    """A random tensor of decent scale, shaped like the one that the module was called with."""
    shapes = list(call.inputs.values())
    if len(shapes) != 1:
        raise ValueError(f"it takes {len(shapes)} floating tensors, not one")
    return 10 * _random(shapes[0], seed=1)


def _outcome(call: Call, parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """The module's output for other parameters and another input tensor."""
    device = None

    def replace(spec: TensorSpec) -> Tensor:
        nonlocal device
        device = spec.device
        return x.to(device)

    args = map_nested(call.args, TensorSpec, replace)
    kwargs = map_nested(call.kwargs, TensorSpec, replace)
    own = {name: parameter.to(device) for name, parameter in parameters.items()}
    with torch.inference_mode(False), torch.no_grad(), evaluation(call.module):
        output = functional_call(call.module, own, args, kwargs)
    return next(floating_tensors(output)).float().cpu()


def _random(shape: tuple[int, ...], *, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= _TOLERANCE * b.abs().max())
