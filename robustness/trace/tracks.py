"""One parameter of one dimension over the steps of a run, beside those of all other dimensions."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Track:
    """The scale or the bias of a dimension over the steps.

    Attributes:
        layer: the one that is followed, where the dimension stood furthest out in the end.
        value: there, for each step.
        z: its distance from the layer's mean in unbiased standard deviations, for each step.
        layer_mean: over all dimensions of that layer.
        layer_std: likewise, unbiased.
        z_lowest: over all layers.
        z_highest: likewise.
    """

    layer: int
    value: tuple[float, ...]
    z: tuple[float, ...]
    layer_mean: tuple[float, ...]
    layer_std: tuple[float, ...]
    z_lowest: tuple[float, ...]
    z_highest: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        fields = asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}


def track(
    dim: int,
    values: Sequence[NDArray[np.float64]],
    z: Sequence[NDArray[np.float64]],
    *,
    layer_of: int,
) -> Track:
    """Follow a dimension.

    Args:
        dim: its index.
        values: the parameter for each step, shape (L, D).
        z: its z-scores, likewise.
        layer_of: index of the step in which the layer is chosen.
    """
    layer = int(np.abs(z[layer_of][:, dim]).argmax())
    return Track(
        layer=layer,
        value=tuple(float(each[layer, dim]) for each in values),
        z=tuple(float(each[layer, dim]) for each in z),
        layer_mean=tuple(float(each[layer].mean()) for each in values),
        layer_std=tuple(float(each[layer].std(ddof=1)) for each in values),
        z_lowest=tuple(float(each[:, dim].min()) for each in z),
        z_highest=tuple(float(each[:, dim].max()) for each in z),
    )
