"""What is switched off: dimensions, a site, layers and a mode. Plain data, without torch."""

from collections.abc import Iterable
from dataclasses import dataclass
from operator import index
from typing import Any, Literal, TypeAlias, TypedDict, get_args

from robustness.errors import UnsupportedSite
from robustness.store.documents import PlainRecord

SiteName: TypeAlias = Literal["output", "residual", "attention-norm", "embedding-norm"]
Mode: TypeAlias = Literal["zero", "mean"]

SITES: tuple[str, ...] = get_args(SiteName)
MODES: tuple[str, ...] = get_args(Mode)


class Place(TypedDict, total=False):
    """Where and how dimensions are ablated, as in :class:`Ablation`, if not as the policy says."""

    site: str | None
    mode: str | None
    layers: Iterable[int] | None
    embeddings: bool


MEAN_BLOCKS = 64
"""Text blocks of the seeded order, the first ones, over which a mean is taken."""


@dataclass(frozen=True, kw_only=True)
class Ablation(PlainRecord):
    """Which dimensions are switched off, where, and how.

    Attributes:
        dims: Feature indices, ascending.
        site: ``output``, the layers' output sites: the norm whose result is the layer's output,
            or else the module whose result is added to the residual stream last; ``residual``, the
            layer's whole output; ``attention-norm``, the norm that follows the attention within
            the layer; ``embedding-norm``, the norm between the embedding and the first layer.
        mode: ``zero``, the feature is exactly 0 at every position; ``mean``, the intact model's
            mean at that site and layer over all positions of the first `MEAN_BLOCKS` text blocks.
        layers: Layer indices, ascending; None for all layers.
        embeddings: At the site ``residual``, also in what enters the first layer: in all layers,
            nothing of the feature is left then.
    """

    dims: tuple[int, ...]
    site: str = "output"
    mode: str = "zero"
    layers: tuple[int, ...] | None = None
    embeddings: bool = False

    def __post_init__(self) -> None:
        """Sort the indices; a `ValueError` or `UnsupportedSite` says what cannot be ablated."""
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
    """Ascending plain integers, refused where there are none, negative ones or duplicates."""
    indices = sorted(index(value) for value in values)
    if not indices or indices[0] < 0 or len(set(indices)) < len(indices):
        raise ValueError(
            f"{what} indices must be one or more, different and not negative: {indices}"
        )
    return tuple(indices)
