"""The model's downstream task depends on its outlier dimensions (expectation paper), or does not.

Kovaleva et al. 2021: removing them "significantly degrades both the MLM perplexity and the
downstream task performance". Only with ``--robustness-task``.
"""

import pytest

from robustness.pytest_support.gate import Dims, Gate
from robustness.vetting import Vetting

pytestmark = pytest.mark.filterwarnings("default")


def test_task_is_learned(vetting: Vetting, gate: Gate) -> None:
    """The intact model does better on its task than a guess that reads no text."""
    gate.settle(vetting.task.intact().beats_a_guess(alpha=gate.alpha))


def test_task_score_drops(vetting: Vetting, dims: Dims, gate: Gate) -> None:
    """Ablating outlier dimensions lowers the task's score by at least ``min_drop``.

    One alone, where there are several, by ``min_drop_alone``, or it is only recorded: which of
    them a task depends on differs from task to task.
    """
    limits = vetting.settings.checks.task_score_drops
    ablated = vetting.task.ablate(dims)
    together = len(dims) == len(vetting.outliers())
    needed = limits.min_drop if together else limits.min_drop_alone
    if vetting.settings.expectation == "hardened":
        gate.settle(ablated.score_holds(within=limits.max_drop, alpha=gate.alpha))
    elif needed == "record":
        gate.settle(ablated.recorded(alpha=gate.alpha))
    else:
        gate.settle(ablated.score_drops(by=needed, alpha=gate.alpha))


def test_random_ablation_keeps_task_score(vetting: Vetting, dims: Dims, gate: Gate) -> None:
    """Ablating as many non-outlier dimensions lowers the task's score by less than ``max_drop``."""
    limits = vetting.settings.checks.random_ablation_keeps_task_score
    control = vetting.task.ablate_random(len(dims))
    gate.settle(control.score_holds(within=limits.max_drop, alpha=gate.alpha))


def test_outliers_matter_more_for_task(vetting: Vetting, dims: Dims, gate: Gate) -> None:
    """The score's joint drop is positive and at least ``factor`` times the mean control's."""
    limits = vetting.settings.checks.outliers_matter_more_for_task
    joint = vetting.task.ablate(dims)
    gate.settle(joint.matters_more_than_chance(factor=limits.factor, alpha=gate.alpha))
