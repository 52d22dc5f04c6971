"""A candidate beside its reference on their task."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Unpack

from pydantic import Field

from robustness.ablation.interventions import Intact
from robustness.checks.against_reference import same_model
from robustness.checks.check import PlanContext
from robustness.checks.limits import Drop, Limits
from robustness.checks.planned import PlannedCheck
from robustness.checks.reference import ReferenceCheck
from robustness.checks.subject import Level, Subject
from robustness.checks.tasks.statistic import ScoreDrop
from robustness.checks.tasks.task import ModelOnTask, Task, paired
from robustness.errors import TaskError
from robustness.measurement.predictions import TaskMeasurement
from robustness.statistics.loop import Evidence
from robustness.statistics.verdict import Verdict


class BesideReferenceOnTask(ModelOnTask):
    """A candidate and its reference, on the same examples."""

    questions = ".keeps_score(within=…)"

    def keeps_score(self, *, within: float, **level: Unpack[Level]) -> Verdict:
        """Whether the score is less than ``within`` lower than the reference's."""
        task, reference = self._task, self.subject.reference_numbers
        statement = f"{task.score_of} is less than {within:g} lower than the reference's"
        if reference.is_candidate:
            return same_model(statement)
        then = reference.task
        if then is None:
            raise TaskError(
                f"the reference {reference.label} has no answers to {task.planned.name}"
            )
        alpha = self.subject.alpha(**level)
        statistic = ScoreDrop(task=task, threshold=within, alpha=alpha)
        end = self.decided(statement, statistic, lambda _: self._evidence(then))
        return self.verdict(
            end,
            statement,
            passes="below",
            threshold=within,
            alpha=alpha,
            measure="drop",
            details={"task": task.figures(paired(end.evidence), end.evidence.seen)},
        )

    def _evidence(self, then: TaskMeasurement) -> Iterator[Evidence]:
        """The reference's answers are the column ``intact``, the candidate's ``other``."""
        theirs = Evidence(total=then.n_examples)
        for chunk, own in enumerate(self._task.evidence(lambda *_: {})):
            (outputs,) = then.chunk(chunk, Intact())
            theirs = theirs.grown(intact=self._task.answers(outputs))
            columns = {"labels": own["labels"], "other": own["intact"], **theirs.columns}
            yield replace(own, columns=columns)


class TaskScoreIsKeptLimits(Limits):
    """The task's score beside the reference's."""

    max_drop: Drop = Field(default=0.01, description="it may be lower by this much")


class TaskScoreIsKept(ReferenceCheck[TaskScoreIsKeptLimits]):
    """The score on the task is less than ``max_drop`` lower than the reference's."""

    name, title = "task_score_is_kept", "task score beside the reference's"
    column = "task"
    limits = TaskScoreIsKeptLimits

    def applies(self, context: PlanContext) -> bool:
        return context.reference is not None and context.task

    def cases(self, context: PlanContext) -> Iterable[PlannedCheck]:
        """One; none that applies where a saved profile has no answers."""
        assert context.reference is not None
        if context.reference.is_saved:
            yield self.not_applicable("a saved profile holds no answers; name the checkpoint")
        else:
            yield self.case()

    def decide(self, planned: PlannedCheck, subject: Subject, *, alpha: float) -> Verdict:
        within = self.limits_in(subject.terms).max_drop
        return BesideReferenceOnTask(Task(subject)).keeps_score(within=within, alpha=alpha)

    def finding(self, verdict: Verdict) -> str | None:
        task = verdict.details.task
        if task is None:
            return None
        return f"{task.metric} is {task.ablated_score:.4g}, the reference's {task.intact_score:.4g}"
