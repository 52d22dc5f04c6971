"""What is switched off: dimensions, a site, layers and a mode. Plain data, without torch."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from operator import index
from typing import Any

from robustness.errors import UnsupportedSite


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """Which dimensions are switched off, where, and how.

    Attributes:
        dims: Feature indices, ascending.
        site: ``output``, the layers' output sites.
        mode: ``zero``, the feature is exactly 0 at every position.
        layers: Layer indices, ascending; None for all layers.
    """

    dims: tuple[int, ...]
    site: str = "output"
    mode: str = "zero"
    layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Sort the indices and refuse what cannot be ablated.

        Raises:
            ValueError: There are no indices, negative ones, or duplicates.
            UnsupportedSite: The site or the mode is not known.
        """
        object.__setattr__(self, "dims", plain_indices(self.dims, "dimension"))
        if self.layers is not None:
            object.__setattr__(self, "layers", plain_indices(self.layers, "layer"))
        if self.site != "output":
            raise UnsupportedSite(
                f"There is no ablation at the site {self.site!r}; use 'output', the layers' "
                "output sites."
            )
        if self.mode != "zero":
            raise UnsupportedSite(
                f"There is no ablation mode {self.mode!r}; use 'zero', which sets features to 0."
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        layers = None if self.layers is None else list(self.layers)
        return {**asdict(self), "dims": list(self.dims), "layers": layers}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Ablation":
        """The inverse of `to_dict`."""
        layers = None if data["layers"] is None else tuple(data["layers"])
        return cls(dims=tuple(data["dims"]), site=data["site"], mode=data["mode"], layers=layers)


def plain_indices(values: Iterable[int], what: str) -> tuple[int, ...]:
    """Ascending plain integers; numpy's are accepted.

    Raises:
        ValueError: There are none, negative ones, or duplicates.
    """
    indices = sorted(index(value) for value in values)
    if not indices or indices[0] < 0 or len(set(indices)) < len(indices):
        raise ValueError(
            f"{what} indices must be one or more, different and not negative: {indices}"
        )
    return tuple(indices)
