"""Plans of runs that need no checkpoint."""

from pathlib import Path
from typing import TYPE_CHECKING

from robustness.checks.check import PlanContext
from robustness.checks.registry import planned_checks
from robustness.outliers.model_profile import ModelProfile
from robustness.outliers.outliers import Detection, Outlier
from robustness.policy.settings import Settings
from robustness.run.plan import PlannedCheckpoint, RunPlan

if TYPE_CHECKING:
    from robustness.checks.planned import PlannedCheck

DIM = 7


def plan(*labels: str, without_checks: tuple[str, ...] = (), source: str | None = None) -> RunPlan:
    """A plan for checkpoints that all have outlier dimension 7."""
    return RunPlan(
        checkpoints=tuple(_planned(label, empty=label in without_checks) for label in labels),
        confidence=0.99,
        comparisons=5 * len(labels),
        store_root=Path("/home/somebody/with/a/long/name/.cache/pytest-robustness"),
        policy_source=source,
    )


def _planned(label: str, *, empty: bool) -> PlannedCheckpoint:
    outlier = Outlier(dim=DIM, layers=(0, 1), z_scale=(4.0, 5.0), z_bias=(9.0, -8.0))
    model_profile = ModelProfile(
        anatomy_record={},
        detection=Detection(rule="busters", outliers=(outlier,), by_chance=1e-5, magnitude=(3,)),
        layers=2,
        hidden_size=32,
        distinct_sites=2,
    )
    checkpoint = {
        "reference": f"organisation/{label}",
        "revision": "0123456789abcdef" * 4,
        "architecture": "BertForMaskedLM",
        "n_parameters": 110_000_000,
        "vocab_size": 64,
        "scoring": "masked",
    }
    context = PlanContext(terms=Settings().terms, model_profile=model_profile)
    checks: tuple[PlannedCheck, ...] = () if empty else planned_checks(context)
    return PlannedCheckpoint(
        label=label,
        checkpoint=checkpoint,
        settings=Settings(),
        model_profile=model_profile,
        corpus="wikitext:wikitext-2-raw-v1:validation:text of datasets 4.1",
        text_blocks=156,
        block_size=128,
        notes=("17 examples are longer than a text block and split, " * 3,),
        checks=checks,
    )
