"""What is done to a model while it is measured, as data: nothing, an ablation, one per text block.

With it the mean features of the intact model, which an ablation by ``mean`` puts in the place of
its own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from robustness.ablation.ablation import Ablation
from robustness.errors import MeasurementError
from robustness.store.store import Record, Store

if TYPE_CHECKING:
    from robustness.ablation.edits import Sum
    from robustness.ablation.hooks import Means


@dataclass(frozen=True, kw_only=True)
class Intact:
    """Nothing is done."""

    def key(self) -> Any:
        """It has none: what is measured of the intact model stands under ``null``."""
        return None


@dataclass(frozen=True, kw_only=True)
class FixedAblation:
    """One ablation for all text blocks."""

    ablation: Ablation

    def key(self) -> Any:
        """The ablation's own."""
        return self.ablation.key()


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """8-bit weights and activations at all dense layers, but for the spared hidden dimensions.

    Rows run alone: the scale of the activations is that of one text block's tensor.
    """

    spared: tuple[int, ...] = ()

    def key(self) -> Any:
        """How it quantises, and what it spares."""
        return {"quantized": "int8, symmetric absmax per tensor", "spared": list(self.spared)}


@dataclass(frozen=True, kw_only=True)
class PerBlockAblation:
    """The dimensions of each text block of the chunk, ablated as in the template."""

    dims: tuple[tuple[int, ...], ...]
    template: Ablation

    def key(self) -> Any:
        """The place once, and the dimensions of each text block."""
        place = {name: value for name, value in self.template.key().items() if name != "dims"}
        return {**place, "per_block": [list(dims) for dims in self.dims]}


Intervention: TypeAlias = Intact | FixedAblation | Quantized | PerBlockAblation
"""Each has a ``key``: JSON that identifies it in the store."""


def needs_means(intervention: Intervention) -> Ablation | None:
    """The ablation at whose places the intact model's means are needed, or ``None``."""
    place = None
    if isinstance(intervention, FixedAblation):
        place = intervention.ablation
    elif isinstance(intervention, PerBlockAblation):
        place = intervention.template
    return place if place is not None and place.mode == "mean" else None


def stored_means(
    store: Store,
    ablation: Ablation | None,
    *,
    identity: Mapping[str, Any],
    sums: "Callable[[Ablation], Mapping[int, Sum]]",
) -> "Means | None":
    """The intact model's means where an ablation puts them, by layer, from the store if known.

    ``sums`` are its summed features there, and ``identity`` says of what: part of their key.

    Raises:
        MeasurementError: if they are not finite.
    """
    if ablation is None:
        return None
    import torch

    key = {"means": 1, **identity, "site": ablation.site, "embeddings": ablation.embeddings}
    whole = replace(ablation, layers=None)
    (record,) = store.obtain([key], lambda _: _measured(sums(whole)))
    return {int(layer): torch.tensor(mean) for layer, mean in record["means"].items()}


def _measured(sums: "Mapping[int, Sum]") -> Record:
    means = {str(layer): (one.total / one.count).tolist() for layer, one in sums.items()}
    if not all(np.isfinite(mean).all() for mean in means.values()):
        raise MeasurementError(
            "the intact model's mean features are not finite numbers, so no feature can be "
            "replaced by its mean: use the mode 'zero'"
        )
    return {"means": means}
