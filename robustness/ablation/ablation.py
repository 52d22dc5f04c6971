"""What is switched off: dimensions, a site, layers and a mode. Plain data, without torch."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from operator import index
from typing import Any, Literal, TypeAlias, get_args

from robustness.errors import UnsupportedSite

SiteName: TypeAlias = Literal["output", "residual", "attention-norm", "embedding-norm"]
Mode: TypeAlias = Literal["zero", "mean"]

SITES: tuple[str, ...] = get_args(SiteName)
MODES: tuple[str, ...] = get_args(Mode)

MEAN_BLOCKS = 64
"""Text blocks of the seeded order, the first ones, over which a mean is taken."""


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """Which dimensions are switched off, where, and how.

    Attributes:
        dims: Feature indices, ascending.
        site: ``output``, the layers' output sites: the norm whose result is the layer's output,
            or else the module whose result is added to the residual stream last; ``residual``, the
            layer's whole output; ``attention-norm``, the norm that follows the attention within
            the layer; ``embedding-norm``, the norm between the embedding and the first layer.
        mode: ``zero``, the feature is exactly 0 at every position; ``mean``, it is the intact
            model's mean at that site and layer over all positions of the first `MEAN_BLOCKS` text
            blocks.
        layers: Layer indices, ascending; None for all layers.
        embeddings: Whether the feature is switched off in what enters the first layer, too; at
            the site ``residual``, in all layers, nothing of it is left then.
    """

    dims: tuple[int, ...]
    site: str = "output"
    mode: str = "zero"
    layers: tuple[int, ...] | None = None
    embeddings: bool = False

    def __post_init__(self) -> None:
        """Sort the indices and refuse what cannot be ablated.

        Raises:
            ValueError: There are no indices, negative ones, or duplicates.
            UnsupportedSite: The site or the mode is not known, or they do not go together.
        """
        object.__setattr__(self, "dims", plain_indices(self.dims, "dimension"))
        if self.layers is not None:
            object.__setattr__(self, "layers", plain_indices(self.layers, "layer"))
        if self.site not in SITES:
            raise UnsupportedSite(
                f"There is no ablation at the site {self.site!r}; use {_either(SITES)}."
            )
        if self.mode not in MODES:
            raise UnsupportedSite(f"There is no ablation mode {self.mode!r}; use {_either(MODES)}.")
        if self.site == "embedding-norm" and self.layers is not None:
            raise UnsupportedSite(
                "The site 'embedding-norm' lies before the layers, so none of them can be chosen; "
                "leave the layers out."
            )
        if self.embeddings and self.site != "residual":
            raise UnsupportedSite(
                "What enters the first layer belongs to the site 'residual', not to "
                f"{self.site!r}; leave embeddings out, or choose that site."
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        layers = None if self.layers is None else list(self.layers)
        return {**asdict(self), "dims": list(self.dims), "layers": layers}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Ablation":
        """The inverse of `to_dict`."""
        layers = None if data["layers"] is None else tuple(data["layers"])
        return cls(**{**data, "dims": tuple(data["dims"]), "layers": layers})

    @property
    def where(self) -> str:
        """What differs from ablating with zero at the output sites of all layers, in words."""
        layers = "" if self.layers is None else f"layers {', '.join(map(str, self.layers))}"
        parts = (
            f"site {self.site}" if self.site != "output" else "",
            "embedding output included" if self.embeddings else "",
            f"mode {self.mode}" if self.mode != "zero" else "",
            layers if self.layers is None or len(self.layers) > 1 else layers.replace("s", "", 1),
        )
        text = ", ".join(filter(None, parts))
        return f" ({text})" if text else ""

    def key(self) -> dict[str, Any]:
        """What identifies it in the store, beside the context of the measurement."""
        basis = {"mean_blocks": MEAN_BLOCKS} if self.mode == "mean" else {}
        return {**self.to_dict(), **basis}


def _either(names: Iterable[str]) -> str:
    *others, last = map(repr, names)
    return f"{', '.join(others)} or {last}"


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
