"""All checks, in the order of the suite."""

from collections.abc import Mapping, Sequence

from robustness.checks.check import Check, Limits


class WeightsAreFinite(Check):
    name, title, limits = "weights_are_finite", "weights are finite", Limits


class OutliersArePresent(Check):
    name, title, limits = "outliers_are_present", "outliers are present", Limits
    source, role = "files", "presence"


class AblationDegrades(Check):
    name, title, limits = "ablation_degrades", "ablation", Limits
    role, by_dimension = "alone", True

    def row(self, dims: Sequence[int]) -> str | None:
        return f"dimension {', '.join(map(str, dims))}"


class JointAblationDegrades(Check):
    name, title, limits = "joint_ablation_degrades", "joint ablation", Limits
    role = "joint"

    def row(self, dims: Sequence[int]) -> str | None:
        return "all (the one)" if len(dims) == 1 else f"all {len(dims)} together"


class RandomAblationIsHarmless(Check):
    name, title, limits = "random_ablation_is_harmless", "random control", Limits
    role, random = "control", True

    def row(self, dims: Sequence[int]) -> str | None:
        return f"{len(dims)} random"


class OutliersMatterMoreThanChance(Check):
    name, title, limits = "outliers_matter_more_than_chance", "effect over chance", Limits
    role = "factor"


class MagnitudeAloneIsHarmless(Check):
    name, title, limits = "magnitude_alone_is_harmless", "magnitude alone is harmless", Limits

    def row(self, dims: Sequence[int]) -> str | None:
        return f"{len(dims)} extreme in one layer"


class EmbeddingNormAloneIsHarmless(Check):
    name, title, limits = (
        "embedding_norm_alone_is_harmless",
        "embedding norm alone is harmless",
        Limits,
    )

    def row(self, dims: Sequence[int]) -> str | None:
        return "at embedding norm"


class LayerProfile(Check):
    name, title, limits = "layer_profile", "layer profile", Limits


class QuantizationIsHarmless(Check):
    name, title, limits = "quantization_is_harmless", "quantization is harmless", Limits


class TaskIsLearned(Check):
    name, title, limits = "task_is_learned", "task is learned", Limits
    source = "task"


class TaskScoreDrops(Check):
    name, title, limits = "task_score_drops", "task score", Limits
    source, by_dimension = "task", True


class RandomAblationKeepsTaskScore(Check):
    name, title, limits = "random_ablation_keeps_task_score", "task score, random control", Limits
    source, role, random = "task", "control", True


class OutliersMatterMoreForTask(Check):
    name, title, limits = "outliers_matter_more_for_task", "task score, effect over chance", Limits
    source, role = "task", "factor"


class MatchesBaseline(Check):
    name, title, limits = "matches_baseline", "matches baseline", Limits
    source = "baseline"


CHECKS: Mapping[str, Check] = {
    check.name: check
    for check in (
        WeightsAreFinite(), OutliersArePresent(), AblationDegrades(), JointAblationDegrades(),
        RandomAblationIsHarmless(), OutliersMatterMoreThanChance(), MagnitudeAloneIsHarmless(),
        EmbeddingNormAloneIsHarmless(), LayerProfile(), QuantizationIsHarmless(), TaskIsLearned(),
        TaskScoreDrops(), RandomAblationKeepsTaskScore(), OutliersMatterMoreForTask(), MatchesBaseline(),
    )
}  # fmt: skip
