"""What happens to the features at one place: other numbers are put in their stead, or summed up."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from robustness.anatomy.stacks import HookPoint
from robustness.errors import MeasurementError, UnsupportedSite

Edit: TypeAlias = Callable[[Tensor], Tensor]


class Replace:
    """Gives some features, indices of shape (k,), the same values (k,) everywhere; None for 0."""

    def __init__(self, dims: Tensor, values: Tensor | None = None) -> None:
        self._dims = dims
        self._values = values

    def __call__(self, features: Tensor) -> Tensor:
        """A copy of the features, ``(..., D)``, with some of them replaced."""
        if self._dims.device != features.device:
            self._dims = self._dims.to(features.device)
        if self._values is None:
            return features.index_fill(-1, self._dims, 0)
        self._values = self._values.to(device=features.device, dtype=features.dtype)
        replaced = features.clone()
        replaced[..., self._dims] = self._values
        return replaced


class ReplaceRows:
    """Replaces other features in each row of the batch.

    Args:
        place: Where the features are, for its axes.
        off: Which ones, shape (B, D).
        values: What features become, shape (D,); None for 0.
    """

    def __init__(self, place: HookPoint, off: Tensor, values: Tensor | None = None) -> None:
        if place.batch_axis is None:
            raise UnsupportedSite(
                f"It is not known which axis of the output of {place.module!r} carries the rows of "
                "the batch, so each ablation needs a batch of its own."
            )
        self._place = place
        self._axis: int = place.batch_axis
        self._off = off
        self._values = values
        self._masks: dict[tuple[torch.Size, torch.device], Tensor] = {}

    def __call__(self, features: Tensor) -> Tensor:
        """A copy of the features, ``(..., D)``, with some of them replaced."""
        key = (features.shape, features.device)
        if key not in self._masks:
            self._masks[key] = self._mask(features)
        if self._values is None:
            return features.masked_fill(self._masks[key], 0)
        self._values = self._values.to(device=features.device, dtype=features.dtype)
        return torch.where(self._masks[key], self._values, features)

    def _mask(self, features: Tensor) -> Tensor:
        """Which features are to be replaced, in a shape that broadcasts over them."""
        size, n_rows = features.shape[self._axis], len(self._off)
        matches = size == n_rows if self._place.flattened is None else size % n_rows == 0
        if not matches:
            raise MeasurementError(
                f"Dimensions were given for {n_rows} rows, but axis {self._axis} of the output of "
                f"{self._place.module!r} has {size} entries; give as many as the batch has rows."
            )
        positions = torch.arange(size)
        row_of = positions % n_rows if self._is_time_major else positions * n_rows // size
        shape = [1] * features.ndim
        shape[self._axis], shape[-1] = size, features.shape[-1]
        return self._off[row_of].view(shape).to(features.device)

    @property
    def _is_time_major(self) -> bool:
        return self._place.flattened == "time-major"


class Sum:
    """Sums the features over all positions, (D,), in float64, and leaves them as they are."""

    def __init__(self, hidden_size: int) -> None:
        self.total = torch.zeros(hidden_size, dtype=torch.float64)
        self.count = 0

    def __call__(self, features: Tensor) -> Tensor:
        """The features, ``(..., D)``."""
        flat = features.detach().flatten(0, -2).cpu().double()  # some devices know no float64
        self.total += flat.sum(0)
        self.count += len(flat)
        return features


def with_features(output: Any, edit: Edit, *, streams: bool = False) -> Any:
    """A module's output with its feature tensor, the first floating one, edited.

    The output is a tensor, or a tuple, list or mapping (such as a ModelOutput) with one in it. With
    ``streams``, tensors behind it that have as many axes and features are edited alike: a layer of
    XLNet hands two streams of features on.

    Raises:
        MeasurementError: There is no feature tensor.
    """
    if isinstance(output, Tensor):
        return edit(output)
    items: list[Any] = []
    if isinstance(output, tuple | list | Mapping):
        items = list(output.values() if isinstance(output, Mapping) else output)
    first: Tensor | None = None
    for i, item in enumerate(items):
        if not isinstance(item, Tensor) or not item.is_floating_point():
            continue
        alike = first is not None and (item.ndim, item.shape[-1]) == (first.ndim, first.shape[-1])
        if first is None or (streams and alike):
            first = item if first is None else first
            items[i] = edit(item)
    if first is None:
        raise MeasurementError(
            f"An output site returned {type(output).__name__}, in which there is no feature tensor."
        )
    if isinstance(output, Mapping):
        keys: Any = type(output)
        return keys(**dict(zip(output, items, strict=True)))
    return output._make(items) if hasattr(output, "_make") else type(output)(items)
