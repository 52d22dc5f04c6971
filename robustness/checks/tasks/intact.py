"""Whether the intact model has learnt its task."""

from collections.abc import Iterable

import numpy as np

from robustness.checks.check import Check, Cost, PlanContext
from robustness.checks.limits import Limits
from robustness.checks.model import Model
from robustness.checks.planned import PlannedCheck
from robustness.checks.subject import Subject
from robustness.checks.tasks.statistic import AgainstGuess
from robustness.checks.tasks.task import Task
from robustness.checks.verdicts import blindness, verdict
from robustness.statistics.figures import Details
from robustness.statistics.loop import decided
from robustness.statistics.verdict import Verdict
from robustness.tasks.decisions import Paired
from robustness.tasks.metrics import Floats


class IntactOnTask(Model):
    """The model as it is, on its task."""

    questions = ".beats_a_guess()"

    def __init__(self, task: Task) -> None:
        super().__init__(task.subject)
        self._task = task

    def beats_a_guess(
        self, *, confidence: float | None = None, alpha: float | None = None
    ) -> Verdict:
        """Whether the intact model does better than a guess that reads no text.

        A guess at classes names the most frequent one, and accuracies are compared; a guess at
        values correlates with nothing. Measured is the guess's score minus the model's.
        """
        task, level = self._task, self.subject.alpha(confidence, alpha)
        guess, statement = self._guess()
        end = decided(
            AgainstGuess(task=task, threshold=0.0, alpha=level, guess=guess),
            lambda _: task.evidence(None),
            exhaustive=self.subject.terms.exhaustive,
            watch=self.subject.watch(statement, "examples"),
        )
        answers = end.evidence.paired
        alone = Paired(labels=answers.labels, first=answers.first, second=answers.first)
        return verdict(
            end,
            statement,
            threshold=0.0,
            passes="below",
            measure="drop",
            unit="examples",
            details=Details(task=task.figures(alone), blind_share=blindness(end, level)),
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

    def cost(self, planned: PlannedCheck) -> Cost:
        """The intact model alone."""
        return Cost()

    def decide(self, planned: PlannedCheck, subject: Subject, *, alpha: float) -> Verdict:
        return IntactOnTask(Task(subject)).beats_a_guess(alpha=alpha)
