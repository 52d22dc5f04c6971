"""The model's downstream task depends on its outlier dimensions (expectation paper), or does not.

Kovaleva et al. 2021: removing them "significantly degrades both the MLM perplexity and the
downstream task performance". Only with ``--robustness-task``.
"""

from robustness.pytest_support.gate import Gate
from robustness.vetting import Vetting


def test_task_is_learned(vetting: Vetting, gate: Gate) -> None:
    """The intact model does better on its task than a guess that reads no text."""
    gate.decide(vetting)


def test_task_score_drops(vetting: Vetting, gate: Gate) -> None:
    """Ablating outlier dimensions lowers the task's score by at least ``min_drop``.

    One alone, where there are several, by ``min_drop_alone``, or it is only recorded: which of
    them a task depends on differs from task to task.
    """
    gate.decide(vetting)


def test_random_ablation_keeps_task_score(vetting: Vetting, gate: Gate) -> None:
    """Ablating as many non-outlier dimensions lowers the task's score by less than ``max_drop``."""
    gate.decide(vetting)


def test_outliers_matter_more_for_task(vetting: Vetting, gate: Gate) -> None:
    """The score's joint drop is positive and at least ``factor`` times the mean control's."""
    gate.decide(vetting)
