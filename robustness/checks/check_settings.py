"""Thresholds of the packaged suite's checks, strictly validated, and checks that may fail."""

import math
from contextlib import suppress
from datetime import date
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from robustness.store.documents import StrictTable

Ratio = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Tolerance = Annotated[float, Field(gt=1, allow_inf_nan=False)]


def _ratio_or_record(value: object) -> object:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf:
        return value
    if value == "record":
        return value
    raise ValueError("must be 'record' or a number greater than 0")


# Validated beforehand: of a choice between types, pydantic explains every one that is not given.
RatioOrRecord = Annotated[Literal["record"] | float, BeforeValidator(_ratio_or_record)]


def _day(value: Any) -> Any:
    """TOML's date, or its ISO text, in which plans travel."""
    if isinstance(value, str):
        with suppress(ValueError):
            return date.fromisoformat(value)
    return value


Day = Annotated[date, BeforeValidator(_day), PlainSerializer(date.isoformat)]


class CheckTable(StrictTable):
    """What every check has."""

    enabled: bool = Field(default=True, description="whether the check runs")
    expected: Literal["fail"] | None = Field(
        default=None, description="'fail': the check may fail, for a reason, until a date"
    )
    reason: str | None = Field(
        default=None, min_length=1, max_length=500, description="why it is expected to fail"
    )
    expires: Day | None = Field(default=None, description="last day on which it may, a date")

    @model_validator(mode="after")
    def _expectation_is_whole(self) -> Self:
        parts = (self.expected, self.reason, self.expires)
        if any(part is None for part in parts) and any(part is not None for part in parts):
            raise ValueError(
                'expected = "fail" needs a reason and a date on which it expires '
                "(expires = 2030-01-31), and they need it"
            )
        return self


class WeightsAreFinite(CheckTable):
    """All parameters are finite, and the intact model beats a uniform guess."""


class OutliersArePresent(CheckTable):
    """How many outlier dimensions the rule may find."""

    min: int = Field(default=1, ge=0, description="fewest outlier dimensions (expectation paper)")
    max: int = Field(default=16, ge=0, description="most outlier dimensions (expectation paper)")

    @model_validator(mode="after")
    def _ordered(self) -> "OutliersArePresent":
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) must not be greater than max ({self.max})")
        return self


class AblationDegrades(CheckTable):
    """Ablating one outlier dimension alone."""

    min_ratio: Ratio = Field(
        default=1.05, description="perplexity must grow by this factor (paper)"
    )
    max_ratio: Ratio = Field(default=1.10, description="… must stay below this factor (hardened)")


class JointAblationDegrades(CheckTable):
    """Ablating all outlier dimensions together."""

    min_ratio: Ratio = Field(default=1.5, description="perplexity must grow by this factor (paper)")
    max_ratio: Ratio = Field(default=1.10, description="… must stay below this factor (hardened)")


class RandomAblationIsHarmless(CheckTable):
    """Ablating as many random dimensions: the typical (median) draw."""

    max_ratio: Ratio = Field(
        default=1.10, description="the median draw must stay below this factor"
    )
    max_draws: int = Field(default=1000, ge=128, description="inconclusive after this many draws")


class OutliersMatterMoreThanChance(CheckTable):
    """The joint effect against the mean effect of random dimensions, in nats."""

    factor: Ratio = Field(
        default=5.0, description="joint ΔNLL must be this many times the control's"
    )


class MagnitudeAloneIsHarmless(CheckTable):
    """Ablating dimensions that are extreme in single layers only."""

    enabled: bool = Field(default=False, description="whether the check runs")
    max_ratio: Ratio = Field(default=1.5, description="must stay below this factor")


class MatchesBaseline(CheckTable):
    """How far a checkpoint may be from a saved profile (``--robustness-baseline``)."""

    dims: Literal["same", "subset", "superset", "any"] = Field(
        default="same", description="outlier dimensions: same, none new, none gone, or any"
    )
    max_perplexity_ratio: Tolerance = Field(
        default=1.05, description="perplexity may be up to this many times the profile's"
    )
    max_degradation_ratio: Tolerance = Field(
        default=1.5, description="a degradation may differ by this factor, up or down"
    )


class EmbeddingNormAloneIsHarmless(CheckTable):
    """Ablating the outlier dimensions at the norm behind the embedding, and nowhere else."""

    enabled: bool = Field(default=False, description="whether the check runs")
    max_ratio: Ratio = Field(default=1.5, description="must stay below this factor")


class LayerProfile(CheckTable):
    """Ablating the outlier dimensions in one layer at a time."""

    enabled: bool = Field(default=False, description="whether the check runs")
    max_ratio: RatioOrRecord = Field(
        default="record", description="each layer must stay below this factor; or is only recorded"
    )


class QuantizationIsHarmless(CheckTable):
    """Simulated int8 weights and activations at the dense layers."""

    enabled: bool = Field(default=False, description="whether the check runs")
    max_ratio: Ratio = Field(default=1.05, description="must stay below this factor")


Drop = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def _drop_or_record(value: object) -> object:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf:
        return value
    if value == "record":
        return value
    raise ValueError("must be 'record' or a number that is not negative")


class TaskIsLearned(CheckTable):
    """The intact model does better on its task than a guess that reads no text."""


class TaskScoreDrops(CheckTable):
    """Ablating outlier dimensions, measured by the task's score."""

    min_drop: Drop = Field(
        default=0.05, description="the score must fall by this much without all of them (paper)"
    )
    min_drop_alone: Annotated[Literal["record"] | float, BeforeValidator(_drop_or_record)] = Field(
        default="record", description="… without one alone, or it is only recorded (paper)"
    )
    max_drop: Drop = Field(default=0.02, description="it must fall by less (hardened)")


class RandomAblationKeepsTaskScore(CheckTable):
    """Ablating as many random dimensions, measured by the task's score."""

    max_drop: Drop = Field(default=0.02, description="the score must fall by less than this")
    max_examples: int = Field(
        default=8192, ge=4096, description="inconclusive after this many, over all draws"
    )


class OutliersMatterMoreForTask(CheckTable):
    """The drop without the outlier dimensions against that without random ones."""

    factor: Ratio = Field(
        default=5.0, description="the joint drop must be this many times the control's"
    )


class Checks(StrictTable):
    """Thresholds of the packaged suite's checks, by the test's name without ``test_``."""

    weights_are_finite: WeightsAreFinite = WeightsAreFinite()
    outliers_are_present: OutliersArePresent = OutliersArePresent()
    ablation_degrades: AblationDegrades = AblationDegrades()
    joint_ablation_degrades: JointAblationDegrades = JointAblationDegrades()
    random_ablation_is_harmless: RandomAblationIsHarmless = RandomAblationIsHarmless()
    outliers_matter_more_than_chance: OutliersMatterMoreThanChance = OutliersMatterMoreThanChance()
    magnitude_alone_is_harmless: MagnitudeAloneIsHarmless = MagnitudeAloneIsHarmless()
    matches_baseline: MatchesBaseline = MatchesBaseline()
    embedding_norm_alone_is_harmless: EmbeddingNormAloneIsHarmless = EmbeddingNormAloneIsHarmless()
    layer_profile: LayerProfile = LayerProfile()
    quantization_is_harmless: QuantizationIsHarmless = QuantizationIsHarmless()
    task_is_learned: TaskIsLearned = TaskIsLearned()
    task_score_drops: TaskScoreDrops = TaskScoreDrops()
    random_ablation_keeps_task_score: RandomAblationKeepsTaskScore = RandomAblationKeepsTaskScore()
    outliers_matter_more_for_task: OutliersMatterMoreForTask = OutliersMatterMoreForTask()
