"""All checks, in the order of the suite. What is not registered here does not exist."""

from collections.abc import Mapping
from typing import Any

from robustness.checks.ablation import (
    AblationDegrades,
    EmbeddingNormAloneIsHarmless,
    JointAblationDegrades,
    MagnitudeAloneIsHarmless,
)
from robustness.checks.check import Check, PlanContext
from robustness.checks.control import OutliersMatterMoreThanChance, RandomAblationIsHarmless
from robustness.checks.layer_sweep import LayerProfile
from robustness.checks.planned import PlannedCheck
from robustness.checks.predictions import AblationChangesPredictions
from robustness.checks.quantization import QuantizationIsHarmless
from robustness.checks.reference import (
    DistributionsAreKept,
    OutliersAreKept,
    PerplexityIsKept,
    PredictionsAreKept,
)
from robustness.checks.sanity import OutliersArePresent, WeightsAreFinite
from robustness.checks.tasks.ablated import OutliersMatterMoreForTask, TaskScoreDrops
from robustness.checks.tasks.control import RandomAblationKeepsTaskScore
from robustness.checks.tasks.kept import TaskScoreIsKept
from robustness.checks.tasks.models import TaskIsLearned

CHECKS: Mapping[str, Check[Any]] = {
    check.name: check
    for check in (
        WeightsAreFinite(),
        OutliersArePresent(),
        AblationDegrades(),
        JointAblationDegrades(),
        RandomAblationIsHarmless(),
        OutliersMatterMoreThanChance(),
        MagnitudeAloneIsHarmless(),
        EmbeddingNormAloneIsHarmless(),
        LayerProfile(),
        AblationChangesPredictions(),
        QuantizationIsHarmless(),
        TaskIsLearned(),
        TaskScoreDrops(),
        RandomAblationKeepsTaskScore(),
        OutliersMatterMoreForTask(),
        PerplexityIsKept(),
        PredictionsAreKept(),
        DistributionsAreKept(),
        OutliersAreKept(),
        TaskScoreIsKept(),
    )
}
"""By name."""


def planned_checks(context: PlanContext) -> tuple[PlannedCheck, ...]:
    """The checks of a checkpoint, in the order of the suite."""
    return tuple(planned for check in CHECKS.values() for planned in check.planned(context))
