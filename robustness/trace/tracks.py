"""One parameter of one dimension over the steps of a run, beside those of all other dimensions."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Track:
    """The scale or the bias of a dimension over the steps."""

    layer: int  # the one that is followed, where the dimension stood furthest out in the end
    value: tuple[float, ...]  # there, for each step
    # its distance from the layer's mean in unbiased standard deviations, for each step
    z: tuple[float, ...]
    layer_mean: tuple[float, ...]  # over all dimensions of that layer
    layer_std: tuple[float, ...]  # over the same, unbiased
    z_lowest: tuple[float, ...]  # over all layers
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
    """Follow a dimension through a parameter and its z-scores, both (L, D) for each step.

    The layer is chosen in the step with the index ``layer_of``.
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
