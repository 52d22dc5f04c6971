"""What a verdict can say beside its own number: parts that it has, of all that there are."""

from typing import Any

from pydantic import model_serializer

from robustness.statistics.figures import (
    DivergenceFigures,
    DrawFigures,
    FactorFigures,
    Figures,
    Int8Figures,
    IntactFigures,
    LayerFigure,
    OutlierChanges,
    PrecisionFigures,
    ReferenceFigures,
    TaskFigures,
)
from robustness.statistics.location import Location


class Details(Figures):
    """What there is to say of a verdict beside its own number; parts that it has none of are None.

    Attributes:
        intact: the intact model.
        precision: which precision was used, where there was a choice.
        blind_share: share of text blocks or examples that may suffer unseen.
        draws: random draws.
        factor: the means behind a factor.
        layers: one layer at a time.
        int8: simulated int8.
        task: the downstream task.
        reference: the same in the reference.
        divergence: how far distributions lie from the reference's.
        outliers: outlier dimensions beside the reference's.
        location: where a candidate that fails differs from its reference.
    """

    intact: IntactFigures | None = None
    precision: PrecisionFigures | None = None
    blind_share: float | None = None
    draws: DrawFigures | None = None
    factor: FactorFigures | None = None
    layers: tuple[LayerFigure, ...] = ()
    int8: Int8Figures | None = None
    task: TaskFigures | None = None
    reference: ReferenceFigures | None = None
    divergence: DivergenceFigures | None = None
    outliers: OutlierChanges | None = None
    location: Location | None = None

    @model_serializer(mode="wrap")
    def _without_what_is_not_there(self, serialise: Any) -> dict[str, Any]:
        return {
            name: value for name, value in serialise(self).items() if value not in (None, [], ())
        }
