"""All checks together: each is whole, and each checkpoint gets those it should."""

import ast
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import pytest

from robustness import suite
from robustness.checks.check import PlanContext, Role, Source
from robustness.checks.limits import Limits
from robustness.checks.planned import PlannedCheck
from robustness.checks.registry import CHECKS, planned_checks
from robustness.outliers.model_profile import ModelProfile
from robustness.outliers.outliers import Detection, Outlier
from robustness.policy.settings import Settings
from robustness.reference.baseline import Flagged
from robustness.reference.reference import Reference, SavedReference
from tests.support.records.profiles import entry

by_check = pytest.mark.parametrize("name", [*CHECKS])


def suite_functions() -> list[str]:
    (folder,) = map(Path, suite.__path__)
    return [
        node.name
        for file in sorted(folder.glob("test_*.py"))
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]


# --- what every check has ------------------------------------------------------------------------


def test_every_check_has_one_function_of_the_suite_and_every_function_a_check() -> None:
    functions = suite_functions()
    assert Counter(functions) == Counter(check.test for check in CHECKS.values())
    assert len(functions) == 20


def test_names_and_titles_are_unique() -> None:
    assert len({check.title for check in CHECKS.values()}) == len(CHECKS)
    assert [check.name for check in CHECKS.values()] == [*CHECKS]


@by_check
def test_a_check_says_what_it_is(name: str) -> None:
    check = CHECKS[name]
    assert re.fullmatch("[a-z_]+", name)
    assert check.test == f"test_{name}" == PlannedCheck(check=name).test
    assert check.title.strip() == check.title != ""
    assert (type(check).__doc__ or "").strip()
    assert check.source in get_args(Source)
    assert check.role is None or check.role in get_args(Role)


@by_check
def test_its_limits_say_what_each_of_them_is(name: str) -> None:
    limits = CHECKS[name].limits
    assert issubclass(limits, Limits)
    assert (limits.__doc__ or "").strip()
    for key, field in limits.model_fields.items():
        assert field.description, key
        assert not field.is_required(), key


@by_check
def test_its_table_in_the_policy_is_its_limits(name: str) -> None:
    settings = Settings()
    found = getattr(settings.checks, name)
    assert type(found) is CHECKS[name].limits
    assert found == CHECKS[name].limits()
    assert settings.limits[name] is found
    assert CHECKS[name].limits_in(settings.terms) is found
    changed = Settings.model_validate({"checks": {name: {"enabled": not found.enabled}}})
    assert changed.limits[name].enabled is not found.enabled
    assert Settings.model_validate(changed.model_dump()) == changed


def test_the_policy_has_no_table_beside_those_of_checks() -> None:
    assert [*type(Settings().checks).model_fields] == [*CHECKS] == [*Settings().limits]


def test_checks_off_by_default_are_those_that_were() -> None:
    off = {name for name, limits in Settings().limits.items() if not limits.enabled}
    assert off == OPTIONAL


# --- what a checkpoint gets ----------------------------------------------------------------------

OPTIONAL = {
    "magnitude_alone_is_harmless",
    "embedding_norm_alone_is_harmless",
    "layer_profile",
    "ablation_changes_predictions",
    "quantization_is_harmless",
}
ALL = {name: {"enabled": True} for name in OPTIONAL}

WHY = {
    "none": "no outlier dimensions were found",
    "hardened": "expectation hardened does not ask for it",
    "shared": "all layers share one site, so nothing can lack consistency over layers",
    "no norm": "the model has no norm of that width between its embedding and its first layer",
    "saved": "a saved profile holds no predictions; name the checkpoint",
    "none of reference": "the reference has no outlier dimensions",
    "other size": "hidden states have 32 dimensions here and 16 in the reference",
    "no layers": "the site embedding-norm lies before the layers",
}


def profiled(*dims: int, **values: Any) -> ModelProfile:
    outliers = tuple(
        Outlier(dim=dim, layers=(0, 1), z_scale=(4.0, 5.0), z_bias=(9.0, -8.0)) for dim in dims
    )
    found = Detection(
        rule="busters", outliers=outliers, by_chance=1e-5, magnitude=(30, 3, 9, 11, 12, 13)
    )
    return ModelProfile(
        anatomy_record={},
        detection=found,
        layers=2,
        hidden_size=32,
        **{"distinct_sites": 2, "sites": ("output", "residual", "embedding-norm"), **values},
    )


def planned(
    model_profile: ModelProfile, settings: Mapping[str, Any], **has: Any
) -> tuple[PlannedCheck, ...]:
    terms = Settings.model_validate(settings).terms
    return planned_checks(PlanContext(terms=terms, model_profile=model_profile, **has))


def described(check: PlannedCheck) -> str:
    """``ablation_degrades[dim7]``, and why it is none or that it is not counted."""
    line = f"{check.check}[{check.suffix}]" if check.suffix else check.check
    if check.not_applicable is not None:
        (why,) = (key for key, text in WHY.items() if text == check.not_applicable)
        assert not check.comparisons
        return f"{line}: {why}"
    counted = {0: " (not counted)", 1: "", 2: " (counted twice)"}
    return f"{line}{counted[check.comparisons]}"


EXPECTED = {
    "paper, two dimensions, task": """
        weights_are_finite
        outliers_are_present (not counted)
        ablation_degrades[dim7]
        ablation_degrades[dim20]
        joint_ablation_degrades[dims7+20]
        random_ablation_is_harmless[2random]
        outliers_matter_more_than_chance[dims7+20]
        magnitude_alone_is_harmless[dims3+30]
        embedding_norm_alone_is_harmless[dims7+20]
        layer_profile[dims7+20] (not counted)
        ablation_changes_predictions[dims7+20]
        quantization_is_harmless[int8]
        task_is_learned
        task_score_drops[dim7] (not counted)
        task_score_drops[dim20] (not counted)
        task_score_drops[dims7+20]
        random_ablation_keeps_task_score[2random]
        outliers_matter_more_for_task[dims7+20]
    """,
    "hardened, two dimensions, task": """
        weights_are_finite
        outliers_are_present (not counted)
        ablation_degrades[dim7]
        ablation_degrades[dim20]
        joint_ablation_degrades[dims7+20]
        random_ablation_is_harmless[2random]
        outliers_matter_more_than_chance[dims7+20]: hardened
        magnitude_alone_is_harmless[dims3+30]
        embedding_norm_alone_is_harmless[dims7+20]
        layer_profile[dims7+20] (not counted)
        ablation_changes_predictions[dims7+20]
        quantization_is_harmless[int8]
        task_is_learned
        task_score_drops[dim7]
        task_score_drops[dim20]
        task_score_drops[dims7+20]
        random_ablation_keeps_task_score[2random]
        outliers_matter_more_for_task[dims7+20]: hardened
    """,
    "paper, one dimension, task": """
        weights_are_finite
        outliers_are_present (not counted)
        ablation_degrades[dim7]
        joint_ablation_degrades[dim7]
        random_ablation_is_harmless[1random]
        outliers_matter_more_than_chance[dim7]
        magnitude_alone_is_harmless[dims30]
        embedding_norm_alone_is_harmless[dim7]
        layer_profile[dim7] (not counted)
        ablation_changes_predictions[dim7]
        quantization_is_harmless[int8]
        task_is_learned
        task_score_drops[dim7]
        random_ablation_keeps_task_score[1random]
        outliers_matter_more_for_task[dim7]
    """,
    "paper, no dimension, task": """
        weights_are_finite
        outliers_are_present (not counted)
        ablation_degrades[no-outliers]: none
        joint_ablation_degrades[no-outliers]: none
        random_ablation_is_harmless[no-outliers]: none
        outliers_matter_more_than_chance[no-outliers]: none
        magnitude_alone_is_harmless[no-outliers]: none
        embedding_norm_alone_is_harmless[no-outliers]: none
        layer_profile[no-outliers]: none
        ablation_changes_predictions[no-outliers]: none
        quantization_is_harmless[int8]
        task_is_learned
        task_score_drops[no-outliers]: none
        random_ablation_keeps_task_score[no-outliers]: none
        outliers_matter_more_for_task[no-outliers]: none
    """,
    "hardened, no dimension": """
        weights_are_finite
        outliers_are_present (not counted)
        ablation_degrades[no-outliers]: none
        joint_ablation_degrades[no-outliers]: none
        random_ablation_is_harmless[no-outliers]: none
        outliers_matter_more_than_chance[no-outliers]: none
        magnitude_alone_is_harmless[no-outliers]: none
        embedding_norm_alone_is_harmless[no-outliers]: none
        layer_profile[no-outliers]: none
        ablation_changes_predictions[no-outliers]: none
        quantization_is_harmless[int8]
    """,
    "paper, five dimensions": """
        weights_are_finite
        outliers_are_present (not counted)
        ablation_degrades[dim1]
        ablation_degrades[dim2]
        ablation_degrades[dim5]
        ablation_degrades[dim7]
        ablation_degrades[dim20]
        joint_ablation_degrades[5dims]
        random_ablation_is_harmless[5random]
        outliers_matter_more_than_chance[5dims]
        magnitude_alone_is_harmless[5dims]
        embedding_norm_alone_is_harmless[5dims]
        layer_profile[5dims] (not counted)
        ablation_changes_predictions[5dims]
        quantization_is_harmless[int8]
    """,
    "no language model, two dimensions, task": """
        weights_are_finite (not counted)
        outliers_are_present (not counted)
        task_is_learned
        task_score_drops[dim7] (not counted)
        task_score_drops[dim20] (not counted)
        task_score_drops[dims7+20]
        random_ablation_keeps_task_score[2random]
        outliers_matter_more_for_task[dims7+20]
    """,
    "hardened, no language model, five dimensions, task": """
        weights_are_finite (not counted)
        outliers_are_present (not counted)
        task_is_learned
        task_score_drops[dim1]
        task_score_drops[dim2]
        task_score_drops[dim5]
        task_score_drops[dim7]
        task_score_drops[dim20]
        task_score_drops[5dims]
        random_ablation_keeps_task_score[5random]
        outliers_matter_more_for_task[5dims]: hardened
    """,
    "no language model, no dimension": """
        weights_are_finite (not counted)
        outliers_are_present (not counted)
    """,
    "one site for all layers": """
        weights_are_finite
        outliers_are_present (not counted)
        ablation_degrades[dim7]
        ablation_degrades[dim20]
        joint_ablation_degrades[dims7+20]
        random_ablation_is_harmless[2random]
        outliers_matter_more_than_chance[dims7+20]
        magnitude_alone_is_harmless[shared]: shared
        embedding_norm_alone_is_harmless[no-norm]: no norm
        layer_profile[dims7+20] (not counted)
        ablation_changes_predictions[dims7+20]
        quantization_is_harmless[int8]
    """,
    "site before the layers": """
        weights_are_finite
        outliers_are_present (not counted)
        ablation_degrades[dim7]
        ablation_degrades[dim20]
        joint_ablation_degrades[dims7+20]
        random_ablation_is_harmless[2random]
        outliers_matter_more_than_chance[dims7+20]
        magnitude_alone_is_harmless[dims3+30]
        embedding_norm_alone_is_harmless[dims7+20]
        layer_profile[no-layers]: no layers
        ablation_changes_predictions[dims7+20]
        quantization_is_harmless[int8]
    """,
    "what else is recorded is compared": """
        weights_are_finite
        outliers_are_present (not counted)
        ablation_degrades[dim7]
        ablation_degrades[dim20]
        joint_ablation_degrades[dims7+20]
        random_ablation_is_harmless[2random]
        outliers_matter_more_than_chance[dims7+20]
        magnitude_alone_is_harmless[dims3+30]
        embedding_norm_alone_is_harmless[dims7+20]
        layer_profile[dims7+20]
        ablation_changes_predictions[dims7+20]
        quantization_is_harmless[int8]
        task_is_learned
        task_score_drops[dim7]
        task_score_drops[dim20]
        task_score_drops[dims7+20]
        random_ablation_keeps_task_score[2random]
        outliers_matter_more_for_task[dims7+20]
    """,
    "defaults": """
        weights_are_finite
        outliers_are_present (not counted)
        ablation_degrades[dim7]
        ablation_degrades[dim20]
        joint_ablation_degrades[dims7+20]
        random_ablation_is_harmless[2random]
        outliers_matter_more_than_chance[dims7+20]
    """,
    "two disabled": """
        outliers_are_present (not counted)
        joint_ablation_degrades[dims7+20]
        random_ablation_is_harmless[2random]
        outliers_matter_more_than_chance[dims7+20]
        task_is_learned
        task_score_drops[dim7] (not counted)
        task_score_drops[dim20] (not counted)
        task_score_drops[dims7+20]
        random_ablation_keeps_task_score[2random]
        outliers_matter_more_for_task[dims7+20]
    """,
}

PAPER: dict[str, Any] = {"checks": ALL}
HARDENED: dict[str, Any] = {"expectation": "hardened", "checks": ALL}
COMPARED: dict[str, Any] = {
    "checks": {
        **ALL,
        "layer_profile": {"enabled": True, "max_ratio": 1.5},
        "task_score_drops": {"min_drop_alone": 0.1},
    }
}
DISABLED: dict[str, Any] = {
    "checks": {"ablation_degrades": {"enabled": False}, "weights_are_finite": {"enabled": False}}
}
SHARED = profiled(7, 20, sites=("output",), distinct_sites=1)
FIVE = profiled(1, 2, 5, 7, 20)

CASES: dict[str, tuple[ModelProfile, dict[str, Any], dict[str, bool]]] = {
    "paper, two dimensions, task": (profiled(7, 20), PAPER, {"task": True}),
    "hardened, two dimensions, task": (profiled(7, 20), HARDENED, {"task": True}),
    "paper, one dimension, task": (profiled(7), PAPER, {"task": True}),
    "paper, no dimension, task": (profiled(), PAPER, {"task": True}),
    "hardened, no dimension": (profiled(), HARDENED, {}),
    "paper, five dimensions": (FIVE, PAPER, {}),
    "no language model, two dimensions, task": (
        profiled(7, 20),
        PAPER,
        {"task": True, "language_model": False},
    ),
    "hardened, no language model, five dimensions, task": (
        FIVE,
        HARDENED,
        {"task": True, "language_model": False},
    ),
    "no language model, no dimension": (profiled(), PAPER, {"language_model": False}),
    "one site for all layers": (SHARED, PAPER, {}),
    "site before the layers": (profiled(7, 20), {**PAPER, "site": "embedding-norm"}, {}),
    "what else is recorded is compared": (profiled(7, 20), COMPARED, {"task": True}),
    "defaults": (profiled(7, 20), {}, {}),
    "two disabled": (profiled(7, 20), DISABLED, {"task": True}),
}


@pytest.mark.parametrize("case", [*CASES])
def test_a_checkpoint_gets_the_checks_it_should(case: str) -> None:
    model_profile, settings, has = CASES[case]
    found = [described(check) for check in planned(model_profile, settings, **has)]
    assert found == [line.strip() for line in EXPECTED[case].strip().splitlines()]


def test_every_check_can_be_planned_and_its_ids_are_unique() -> None:
    found = [check for case in CASES.values() for check in planned(case[0], case[1], **case[2])]
    found += beside_reference(Other(label="a"), REGRESSION, task=True)
    assert {check.check for check in found} == CHECKS.keys()
    for model_profile, settings, has in CASES.values():
        names = [check.test_name("x") for check in planned(model_profile, settings, **has)]
        assert len(set(names)) == len(names)


def test_dimensions_are_those_that_a_check_is_about() -> None:
    found = planned(profiled(7, 20), {"checks": ALL}, task=True)
    dims = {(check.check, check.suffix): check.dims for check in found}
    assert dims["outliers_are_present", ""] == (7, 20)
    assert dims["ablation_degrades", "dim20"] == (20,)
    assert dims["magnitude_alone_is_harmless", "dims3+30"] == (3, 30)
    assert dims["quantization_is_harmless", "int8"] == (7, 20)
    assert dims["task_score_drops", "dim7"] == (7,)
    assert dims["random_ablation_keeps_task_score", "2random"] == (7, 20)


REGRESSION: dict[str, Any] = {"expectation": "regression"}
TRAINING: dict[str, Any] = {**REGRESSION, "change": "training"}


class Other(Reference):
    """A reference without numbers."""

    hidden_size = 32
    outliers = tuple(Flagged(dim=dim, layers=(0, 1)) for dim in (7, 20))

    def nll_nats(self, index: int) -> Any:
        raise NotImplementedError

    def effect_nats(self, index: int, ablation: Any) -> Any:
        raise NotImplementedError


class WithoutOutliers(Other):
    outliers = ()


class Narrower(Other):
    hidden_size = 16


SAVED = SavedReference(label="a", entry=entry("a"))


def beside_reference(
    reference: Reference, settings: Mapping[str, Any], **has: Any
) -> tuple[PlannedCheck, ...]:
    return planned(profiled(7, 20), settings, reference=reference, **has)


@pytest.mark.parametrize(
    ("reference", "settings", "has", "expected"),
    [
        (
            Other(label="a"),
            REGRESSION,
            {"task": True},
            """
            weights_are_finite
            task_is_learned
            perplexity_is_kept
            predictions_are_kept
            distributions_are_kept
            outliers_are_kept[outliers] (not counted)
            outliers_are_kept[dims7+20] (counted twice)
            task_score_is_kept
            """,
        ),
        (
            Other(label="a"),
            TRAINING,
            {"task": True},
            """
            weights_are_finite
            task_is_learned
            perplexity_is_kept
            predictions_are_kept (not counted)
            distributions_are_kept (not counted)
            outliers_are_kept[outliers] (not counted)
            task_score_is_kept
            """,
        ),
        (
            SAVED,
            REGRESSION,
            {},
            """
            weights_are_finite
            perplexity_is_kept
            predictions_are_kept: saved
            distributions_are_kept: saved
            outliers_are_kept[outliers] (not counted)
            outliers_are_kept[dim7] (counted twice)
            """,
        ),
        (
            WithoutOutliers(label="a"),
            {**REGRESSION, "checks": {"layer_profile": {"enabled": True}}},
            {},
            """
            weights_are_finite
            layer_profile[dims7+20] (not counted)
            perplexity_is_kept
            predictions_are_kept
            distributions_are_kept
            outliers_are_kept[outliers] (not counted)
            outliers_are_kept[none]: none of reference
            """,
        ),
        (
            Narrower(label="a"),
            REGRESSION,
            {},
            """
            weights_are_finite
            perplexity_is_kept
            predictions_are_kept
            distributions_are_kept
            outliers_are_kept[outliers]: other size
            """,
        ),
        (
            Other(label="a"),
            {**REGRESSION, "checks": {"outliers_are_kept": {"single": True}}},
            {"language_model": False, "task": True},
            """
            weights_are_finite (not counted)
            task_is_learned
            outliers_are_kept[outliers] (not counted)
            task_score_is_kept
            """,
        ),
        (
            Other(label="a"),
            {
                **REGRESSION,
                "checks": {
                    "outliers_are_kept": {"single": True},
                    "joint_ablation_degrades": {"enabled": True},
                },
            },
            {},
            """
            weights_are_finite
            joint_ablation_degrades[dims7+20]
            perplexity_is_kept
            predictions_are_kept
            distributions_are_kept
            outliers_are_kept[outliers] (not counted)
            outliers_are_kept[dims7+20] (counted twice)
            outliers_are_kept[dim7] (counted twice)
            outliers_are_kept[dim20] (counted twice)
            """,
        ),
    ],
    ids=[
        "task",
        "training",
        "a saved profile",
        "no outliers, an opt-in check",
        "another hidden size",
        "no language model",
        "a claim is asked for",
    ],
)
def test_a_candidate_gets_the_checks_it_should(
    reference: Reference, settings: Mapping[str, Any], has: dict[str, bool], expected: str
) -> None:
    found = [described(check) for check in beside_reference(reference, settings, **has)]
    assert found == [line.strip() for line in expected.strip().splitlines()]


def test_the_papers_claims_can_be_asked_for_beside_a_reference() -> None:
    with_reference = beside_reference(Other(label="a"), {})
    assert with_reference[: len(EXPECTED["defaults"].split("\n")) - 2] == planned(
        profiled(7, 20), {}
    )
    assert "perplexity_is_kept" in {check.check for check in with_reference}


def test_planned_checks_travel() -> None:
    for model_profile, settings, has in CASES.values():
        for check in planned(model_profile, settings, **has):
            assert PlannedCheck.from_dict(check.to_dict()) == check
