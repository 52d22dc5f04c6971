"""What a planned task will cost, before anything is loaded."""

from collections.abc import Sequence

from robustness.checks.checks import Check
from robustness.checks.tasks.ablated import RECORDED_EXAMPLES
from robustness.checks.tasks.control import EXAMPLES_PER_DRAW
from robustness.policy.policy import Settings
from robustness.run.planned_task import PlannedTask
from robustness.tasks.decisions import (
    FIRST_BOOTSTRAP,
    FIRST_LOOK,
    FIRST_LOOK_AT_BLOCKS,
    FIRST_LOOK_AT_DRAWS,
)
from robustness.tasks.metrics import MEANS

_RANDOM = "test_random_ablation_keeps_task_score"
_FACTOR = "test_outliers_matter_more_for_task"
_TOKENS_PER_WORD = 4 / 3
_SPECIAL_TOKENS = 3


def examples_measured(
    task: PlannedTask, settings: Settings, checks: Sequence[Check]
) -> tuple[int, int]:
    """Examples through the model if every verdict comes at the first look, and if none does."""
    n, is_mean = task.examples, task.metric in MEANS
    per_draw = 1 if is_mean else EXAMPLES_PER_DRAW
    first = n if settings.exhaustive else min(n, FIRST_LOOK if is_mean else FIRST_BOOTSTRAP)
    fixed: dict[tuple[int, ...], int] = {(): first}
    draws = 0
    for check in checks:
        if check.not_applicable is not None:
            continue
        if check.test == "test_task_score_drops":
            fixed[check.dims] = first if check.statistical else max(first, RECORDED_EXAMPLES)
        elif check.test == _RANDOM:
            draws = max(draws, FIRST_LOOK_AT_DRAWS if is_mean else FIRST_LOOK_AT_BLOCKS)
        elif check.test == _FACTOR:
            draws = max(draws, FIRST_LOOK_AT_DRAWS)
            fixed[check.dims] = max(first, min(n, draws * per_draw))
    control = draws * per_draw
    if draws:
        fixed[()] = max(first, min(n, control))
    least = sum(min(n, examples) for examples in fixed.values()) + control
    most = settings.checks.random_ablation_keeps_task_score.max_examples if draws else 0
    return least, len(fixed) * n + max(control, most)


def tokens_per_example(task: PlannedTask, settings: Settings) -> float:
    """About how many tokens an example has, by its words."""
    return min(settings.task.max_length, task.words * _TOKENS_PER_WORD + _SPECIAL_TOKENS)
