"""What is done to a model while it is measured: nothing, one ablation, or one per text block.

With it the mean features of the intact model, which an ablation by ``mean`` puts in the place of
its own.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from robustness.ablation.ablation import Ablation
from robustness.errors import MeasurementError
from robustness.store.store import Record, Store

if TYPE_CHECKING:
    from torch import nn

    from robustness.ablation.edits import Sum
    from robustness.ablation.hooks import Means
    from robustness.anatomy.stacks import Anatomy


class Intervention(Protocol):
    """What is done to the model while a chunk is measured."""

    def key(self) -> Any:
        """JSON that identifies it in the store."""

    def applied(
        self,
        model: "nn.Module",
        anatomy: "Anatomy",
        rows: Sequence[int],
        /,
        means: "Means | None" = None,
    ) -> AbstractContextManager[None]:
        """The context in which rows of the chunk's text blocks ``rows`` run as one batch.

        A text block that is asked about in several rows is named once for each. ``means`` are
        those of the intact model, where they are needed.
        """

    @property
    def needs_means(self) -> Ablation | None:
        """The ablation at whose places the intact model's means are needed, or ``None``."""
        return None


@dataclass(frozen=True, kw_only=True)
class Intact(Intervention):
    """Nothing is done."""

    def key(self) -> Any:
        """It has none: what is measured of the intact model stands under ``null``."""
        return None

    def applied(
        self,
        _model: "nn.Module",
        _anatomy: "Anatomy",
        _rows: Sequence[int],
        /,
        means: "Means | None" = None,  # noqa: ARG002
    ) -> AbstractContextManager[None]:
        """The model runs as it is."""
        return nullcontext()


@dataclass(frozen=True, kw_only=True)
class FixedAblation(Intervention):
    """One ablation for all text blocks."""

    ablation: Ablation

    def key(self) -> Any:
        """The ablation's own."""
        return self.ablation.key()

    def applied(
        self,
        model: "nn.Module",
        anatomy: "Anatomy",
        _rows: Sequence[int],
        /,
        means: "Means | None" = None,
    ) -> AbstractContextManager[None]:
        """The same dimensions are switched off in all rows."""
        from robustness.ablation.hooks import ablated

        return ablated(model, anatomy.stack, self.ablation, means)

    @property
    def needs_means(self) -> Ablation | None:
        """The ablation, if it puts means in the place of features."""
        return self.ablation if self.ablation.mode == "mean" else None


@dataclass(frozen=True, kw_only=True)
class Quantized(Intervention):
    """8-bit weights and activations at all dense layers (`robustness.ablation.quantization`).

    Rows run alone: the scale of the activations is that of one text block's tensor.

    Attributes:
        spared: hidden dimensions that stay in float.
    """

    spared: tuple[int, ...] = ()

    def key(self) -> Any:
        """How it quantises, and what it spares."""
        return {"quantized": "int8, symmetric absmax per tensor", "spared": list(self.spared)}

    def applied(
        self,
        model: "nn.Module",
        anatomy: "Anatomy",
        _rows: Sequence[int],
        /,
        means: "Means | None" = None,  # noqa: ARG002
    ) -> AbstractContextManager[None]:
        """The dense layers are found anew; a caller that knows them can do better."""
        from robustness.ablation.quantization import quantized
        from robustness.anatomy.live import dense_layers_of

        return quantized(model, dense_layers_of(model, anatomy.stack), self.spared)


@dataclass(frozen=True, kw_only=True)
class PerBlockAblation(Intervention):
    """Other dimensions for each text block of the chunk (the random control).

    Attributes:
        dims: of each text block.
        template: where and how they are ablated, its own dimensions aside.
    """

    dims: tuple[tuple[int, ...], ...]
    template: Ablation

    def key(self) -> Any:
        """The place once, and the dimensions of each text block."""
        place = {name: value for name, value in self.template.key().items() if name != "dims"}
        return {**place, "per_block": [list(dims) for dims in self.dims]}

    def applied(
        self,
        model: "nn.Module",
        anatomy: "Anatomy",
        rows: Sequence[int],
        /,
        means: "Means | None" = None,
    ) -> AbstractContextManager[None]:
        """Rows of one text block run as a fixed ablation, others with dimensions of their own."""
        from robustness.ablation.hooks import ablated, ablated_rows

        if len(set(rows)) == 1:
            alone = replace(self.template, dims=self.dims[rows[0]])
            return ablated(model, anatomy.stack, alone, means)
        dims = [self.dims[row] for row in rows]
        return ablated_rows(model, anatomy.stack, dims, template=self.template, means=means)

    @property
    def needs_means(self) -> Ablation | None:
        """The template, if it puts means in the place of features."""
        return self.template if self.template.mode == "mean" else None


def stored_means(
    store: Store,
    ablation: Ablation | None,
    *,
    identity: Mapping[str, Any],
    sums: "Callable[[Ablation], Mapping[int, Sum]]",
) -> "Means | None":
    """The means where an ablation puts them, by layer, from the store if they are known.

    Args:
        store: where they are kept.
        ablation: that needs them; ``None`` if none does.
        identity: what they are the means of: part of their key.
        sums: the intact model's summed features at the ablation's places, by layer.

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
