"""The checks of the packaged suite that a checkpoint gets, given what was found in it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from robustness.checks.expected import ExpectedFailure
from robustness.outliers.model_profile import ModelProfile
from robustness.policy.policy import Settings

NO_OUTLIERS = "no outlier dimensions were found"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check of one checkpoint.

    Attributes:
        test: name of the suite's test function.
        dims: the dimensions it is about.
        suffix: its part of the test id, after the checkpoint's label.
        statistical: whether its verdict is a statistical comparison (counted in m).
        not_applicable: why it cannot be asked, or ``None``.
        expected_failure: why and until when it may fail, or ``None``.
    """

    test: str
    dims: tuple[int, ...] = ()
    suffix: str = ""
    statistical: bool = True
    not_applicable: str | None = None
    expected_failure: ExpectedFailure | None = None

    @property
    def may_fail(self) -> bool:
        """Whether a failure is expected, and the mark has not expired."""
        return self.expected_failure is not None and not self.expected_failure.expired

    def test_id(self, label: str) -> str:
        """The part in brackets of its test's name: ``bert-dim308``."""
        return f"{label}-{self.suffix}" if self.suffix else label

    def test_name(self, label: str) -> str:
        """Its test as pytest names it: ``test_ablation_degrades[bert-dim308]``."""
        return f"{self.test}[{self.test_id(label)}]"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "test": self.test,
            "dims": list(self.dims),
            "suffix": self.suffix,
            "statistical": self.statistical,
            "not_applicable": self.not_applicable,
            "expected_failure": self.expected_failure and self.expected_failure.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Check":
        """The inverse of :meth:`to_dict`."""
        expected = data["expected_failure"]
        return cls(
            **{
                **data,
                "dims": tuple(data["dims"]),
                "expected_failure": expected and ExpectedFailure.from_dict(expected),
            }
        )


def planned_checks(
    settings: Settings,
    model_profile: ModelProfile,
    *,
    task: bool = False,
    language_model: bool = True,
) -> tuple[Check, ...]:
    """The checks of a checkpoint, in the order of the suite.

    Args:
        settings: the policy's settings for it.
        model_profile: what was found in it.
        task: whether it has a downstream task.
        language_model: whether it has a perplexity.

    A check that the outlier dimensions found leave nothing to ask for is in the plan too, marked
    as not applicable: nothing passes because nothing was found.
    """
    dims = model_profile.detection.dims
    joint = f"dims{'+'.join(map(str, dims))}" if len(dims) <= 4 else f"{len(dims)}dims"
    joint = f"dim{dims[0]}" if len(dims) == 1 else joint
    random = f"{len(dims)}random"
    whole = [
        # Without a perplexity, it only looks at the parameters.
        Check(test="test_weights_are_finite", statistical=language_model),
        Check(test="test_outliers_are_present", dims=dims, statistical=False),
    ]
    of_perplexity = [
        *(Check(test="test_ablation_degrades", dims=(dim,), suffix=f"dim{dim}") for dim in dims),
        Check(test="test_joint_ablation_degrades", dims=dims, suffix=joint),
        Check(test="test_random_ablation_is_harmless", dims=dims, suffix=random),
        _factor(settings, dims, joint),
        _magnitude(model_profile),
        _embedding_norm(model_profile, joint),
        _layer_profile(settings, dims, joint),
    ]
    # Asked whether there are outlier dimensions or not.
    quantization = Check(test="test_quantization_is_harmless", dims=dims, suffix="int8")
    of_task = [
        *_score_drops(settings, dims, joint),
        Check(test="test_random_ablation_keeps_task_score", dims=dims, suffix=random),
        _factor(settings, dims, joint, test="test_outliers_matter_more_for_task"),
    ]
    plan = [
        *whole,
        *(_applicable(of_perplexity, dims, "test_ablation_degrades") if language_model else ()),
        *((quantization,) if language_model else ()),
        *((Check(test="test_task_is_learned"), *_applicable(of_task, dims)) if task else ()),
    ]
    return tuple(check for check in plan if _enabled(settings, check.test))


def _applicable(checks: list[Check], dims: tuple[int, ...], *of_single_dims: str) -> list[Check]:
    """The checks, or that each of their tests has nothing to ask for."""
    if dims:
        return checks
    names = [*of_single_dims, *(check.test for check in checks)]
    return [
        Check(test=name, suffix="no-outliers", statistical=False, not_applicable=NO_OUTLIERS)
        for name in names
    ]


def _score_drops(settings: Settings, dims: tuple[int, ...], suffix: str) -> list[Check]:
    """One for each dimension alone and one for all, which of a single dimension are the same."""
    test = "test_task_score_drops"
    limits = settings.checks.task_score_drops
    compared = settings.expectation == "hardened" or limits.min_drop_alone != "record"
    alone = [
        Check(test=test, dims=(dim,), suffix=f"dim{dim}", statistical=compared)
        for dim in (dims if len(dims) > 1 else ())
    ]
    return [*alone, Check(test=test, dims=dims, suffix=suffix)]


def _factor(
    settings: Settings,
    dims: tuple[int, ...],
    suffix: str,
    *,
    test: str = "test_outliers_matter_more_than_chance",
) -> Check:
    if settings.expectation == "paper":
        return Check(test=test, dims=dims, suffix=suffix)
    why = "expectation hardened does not ask for it"
    return Check(test=test, dims=dims, suffix=suffix, statistical=False, not_applicable=why)


def _magnitude(model_profile: ModelProfile) -> Check:
    test = "test_magnitude_alone_is_harmless"
    n_outliers = len(model_profile.detection.dims)
    if model_profile.distinct_sites < 2:
        why = "all layers share one site, so nothing can lack consistency over layers"
        return Check(test=test, suffix="shared", statistical=False, not_applicable=why)
    dims = tuple(sorted(model_profile.detection.magnitude[:n_outliers]))
    suffix = f"dims{'+'.join(map(str, dims))}" if len(dims) <= 4 else f"{len(dims)}dims"
    return Check(test=test, dims=dims, suffix=suffix)


def _embedding_norm(model_profile: ModelProfile, suffix: str) -> Check:
    test = "test_embedding_norm_alone_is_harmless"
    if "embedding-norm" not in model_profile.sites:
        why = "the model has no norm of that width between its embedding and its first layer"
        return Check(test=test, suffix="no-norm", statistical=False, not_applicable=why)
    return Check(test=test, dims=model_profile.detection.dims, suffix=suffix)


def _layer_profile(settings: Settings, dims: tuple[int, ...], suffix: str) -> Check:
    test = "test_layer_profile"
    if settings.site == "embedding-norm":
        why = "the site embedding-norm lies before the layers"
        return Check(test=test, suffix="no-layers", statistical=False, not_applicable=why)
    compared = settings.checks.layer_profile.max_ratio != "record"
    return Check(test=test, dims=dims, suffix=suffix, statistical=compared)


def _enabled(settings: Settings, test: str) -> bool:
    return bool(getattr(settings.checks, test.removeprefix("test_")).enabled)
