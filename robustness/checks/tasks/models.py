"""Whether the intact model has learnt its task, and the models on it that users hold."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from operator import index
from typing import SupportsIndex, Unpack

import numpy as np

from robustness.ablation.ablation import Place
from robustness.checks.check import Check, PlanContext
from robustness.checks.limits import Limits
from robustness.checks.planned import PlannedCheck
from robustness.checks.subject import Level, Subject
from robustness.checks.tasks.ablated import AblatedOnTask
from robustness.checks.tasks.control import RandomlyAblatedOnTask
from robustness.checks.tasks.statistic import AccuracyDrop, ScoreDrop
from robustness.checks.tasks.task import ModelOnTask, Task, paired
from robustness.statistics.loop import Evidence, Judge
from robustness.statistics.verdict import Verdict
from robustness.tasks.metrics import Floats


class IntactOnTask(ModelOnTask):
    """The model as it is, on its task."""

    questions = ".beats_a_guess()"

    def beats_a_guess(self, **level: Unpack[Level]) -> Verdict:
        """Whether the intact model does better than a guess that reads no text.

        A guess at classes names the most frequent one, and accuracies are compared; a guess at
        values correlates with nothing. Measured is the guess's score minus the model's.
        """
        task, alpha = self._task, self.subject.alpha(**level)
        guess, statement = self._guess()
        kind = AccuracyDrop if task.planned.kind == "classification" else ScoreDrop

        def grow(_: Judge) -> Iterator[Evidence]:
            for answers in task.evidence(lambda *_: {}):
                columns = {**answers.columns, "guess": guess[: answers.seen]}
                yield replace(answers, columns=columns)

        statistic = kind(task=task, threshold=0.0, alpha=alpha, columns=("guess", "intact"))
        end = self.decided(statement, statistic, grow)
        alone = paired(end.evidence, second="intact")
        return self.verdict(
            end,
            statement,
            passes="below",
            threshold=0.0,
            alpha=alpha,
            measure="drop",
            details={"task": task.figures(alone, end.evidence.seen)},
        )

    def _guess(self) -> tuple[Floats, str]:
        task, labels = self._task, self._task.labels
        planned = task.planned
        if planned.kind != "classification":
            return np.zeros(len(labels)), (
                f"the intact model's {task.score_of} is positive: it beats a guess that reads no "
                "text"
            )
        classes, counts = np.unique(labels, return_counts=True)
        usual = float(classes[counts.argmax()])
        return np.full(len(labels), usual), (
            f"the intact model's accuracy on {planned.name} is higher than that of always naming "
            f"the most frequent class, {planned.classes[int(usual)]}: it beats a guess that reads "
            "no text"
        )


class TaskIsLearnedLimits(Limits):
    """The intact model does better on its task than a guess that reads no text."""


class TaskIsLearned(Check[TaskIsLearnedLimits]):
    """The intact model does better on its task than a guess that reads no text."""

    name, title = "task_is_learned", "task is learned"
    limits = TaskIsLearnedLimits
    source = "task"
    needs_outliers = False

    def cases(self, context: PlanContext) -> Iterable[PlannedCheck]:
        yield self.case()

    def decide(self, planned: PlannedCheck, subject: Subject, *, alpha: float) -> Verdict:
        return IntactOnTask(Task(subject)).beats_a_guess(alpha=alpha)


class TaskModels:
    """See :attr:`robustness.vetting.Vetting.task`."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.task = Task(subject)

    def intact(self) -> IntactOnTask:
        """The model as it is."""
        return IntactOnTask(self.task)

    def ablate(self, dims: SupportsIndex | Iterable[int], **place: Unpack[Place]) -> AblatedOnTask:
        """The model without these dimensions; where and how is as in ``Vetting.ablate``."""
        chosen = tuple(dims) if isinstance(dims, Iterable) else (index(dims),)
        return AblatedOnTask(self.task, self.subject.ablation(chosen, **place))

    def ablate_random(self, size: int, **place: Unpack[Place]) -> RandomlyAblatedOnTask:
        """The model without ``size`` random non-outlier dimensions, drawn anew all the time."""
        return RandomlyAblatedOnTask(self.task, size, self.subject.ablation((0,), **place))
