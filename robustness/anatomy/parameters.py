"""The scales and biases at the output sites, as the rules see them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from robustness.anatomy.stacks import Site, Stack, distinct_sites
from robustness.errors import CheckpointError

_Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class SiteParameters:
    """Scale and bias of every output feature in every layer.

    Attributes:
        scale: Shape (layers, D).
        bias: Shape (layers, D), None unless every layer has one.
        distinct_sites: Number of different modules; 1 where the layers share theirs, so that
            consistency over layers says nothing.
    """

    scale: _Array
    bias: _Array | None
    distinct_sites: int


def site_parameters(stack: Stack, tensor: Callable[[str], NDArray[Any]]) -> SiteParameters:
    """Read scale and bias at every output site of a stack, or at the norms in their place.

    A vector is taken as it stands. For a dense writer, the scale of a feature is the L2 norm of the
    weights that write it.

    Raises:
        CheckpointError: A parameter does not have the shape that the anatomy asks for.
    """
    read: dict[str, _Array] = {}

    def values(name: str, site: Site) -> _Array:
        if name not in read:
            read[name] = _per_feature(tensor(name), name, site.feature_axis, stack.hidden_size)
        return read[name]

    scales = [values(site.scale, site) for site in stack.rule_sites]
    biases = [values(site.bias, site) for site in stack.rule_sites if site.bias is not None]
    return SiteParameters(
        scale=np.stack(scales),
        bias=np.stack(biases) if len(biases) == len(scales) else None,
        distinct_sites=distinct_sites(stack),
    )


def _per_feature(array: NDArray[Any], name: str, feature_axis: int, n_features: int) -> _Array:
    if array.ndim not in (1, 2) or array.shape[feature_axis * (array.ndim - 1)] != n_features:
        raise CheckpointError(
            f"The parameter {name!r} has the shape {array.shape}, but the model writes "
            f"{n_features} features with it; the checkpoint does not fit its config."
        )
    if array.ndim == 1:
        return array.astype(np.float64)
    weights = array if feature_axis == 0 else array.T
    # einsum accumulates in float64 without a float64 copy of the matrix.
    squares: _Array = np.einsum("fi,fi->f", weights, weights, dtype=np.float64)
    return np.sqrt(squares)
