"""What switching dimensions off does to a task's score, and the checks that ask for it.

Kovaleva et al. 2021: removing them "significantly degrades both the MLM perplexity and the
downstream task performance".
"""

from collections.abc import Iterable
from typing import Unpack

from pydantic import Field

from robustness.ablation.ablation import Ablation
from robustness.ablation.interventions import FixedAblation
from robustness.checks.check import Check, Cost, FactorCheck, PlanContext, joint_suffix
from robustness.checks.limits import Drop, DropOrRecord, Limits, Ratio
from robustness.checks.planned import PlannedCheck
from robustness.checks.statistic import Recorded
from robustness.checks.subject import Level, Subject, where
from robustness.checks.tasks.control import RandomlyAblatedOnTask
from robustness.checks.tasks.statistic import ScoreDrop
from robustness.checks.tasks.task import ModelOnTask, Task, paired
from robustness.outliers.outlier_dimensions import named
from robustness.statistics.decisions import Decision, Side
from robustness.statistics.loop import Statistic
from robustness.statistics.verdict import Verdict

RECORDED_EXAMPLES = 256
"""Examples of a drop that is compared with nothing, unless all are measured."""


class AblatedOnTask(ModelOnTask):
    """A model without some dimensions, on its task."""

    questions = ".score_drops(by=…), .score_holds(within=…) or .matters_more_than_chance()"

    def __init__(self, task: Task, ablation: Ablation) -> None:
        super().__init__(task)
        self.ablation = ablation

    def __repr__(self) -> str:
        return f"<{self.subject.checkpoint.label} without {named(self.ablation.dims)}>"

    def score_drops(self, *, by: float, **level: Unpack[Level]) -> Verdict:
        """Whether the ablation lowers the task's score by at least ``by``."""
        return self._compared("at least", by, self.subject.alpha(**level), "above")

    def score_holds(self, *, within: float, **level: Unpack[Level]) -> Verdict:
        """Whether the ablation lowers the task's score by less than ``within``."""
        return self._compared("less than", within, self.subject.alpha(**level), "below")

    def recorded(self, **level: Unpack[Level]) -> Verdict:
        """How far the score drops, compared with nothing: it passes in any case."""
        alpha = self.subject.alpha(**level)
        statistic = Recorded(
            statistic=ScoreDrop(task=self._task, threshold=0.0, alpha=alpha),
            enough=RECORDED_EXAMPLES,
            exhaustive=self.subject.terms.exhaustive,
        )
        return self._decided(f"how far {self._lowers} is recorded", statistic, None, alpha, None)

    def matters_more_than_chance(self, *, factor: float = 5.0, **level: Unpack[Level]) -> Verdict:
        """Whether the score drops by ``factor`` times as much as without random dimensions."""
        control = RandomlyAblatedOnTask(self._task, len(self.ablation.dims), self.ablation)
        return control.decide_factor(self.ablation, factor, self.subject.alpha(**level))

    @property
    def _lowers(self) -> str:
        return f"ablating {where(self.ablation)} lowers the {self._task.score_of}"

    def _compared(self, bound: str, threshold: float, alpha: float, passes: Side) -> Verdict:
        statement = f"{self._lowers} by {bound} {threshold:g}"
        statistic = ScoreDrop(task=self._task, threshold=threshold, alpha=alpha)
        return self._decided(statement, statistic, threshold, alpha, passes)

    def _decided(
        self,
        statement: str,
        statistic: Statistic[Decision],
        threshold: float | None,
        alpha: float,
        passes: Side | None,
    ) -> Verdict:
        ablation = FixedAblation(ablation=self.ablation)
        end = self.decided(
            statement, statistic, lambda _: self._task.evidence(lambda *_: {"other": ablation})
        )
        return self.verdict(
            end,
            statement,
            passes=passes,
            threshold=threshold,
            alpha=alpha,
            measure="drop",
            details={"task": self._task.figures(paired(end.evidence), end.evidence.seen)},
        )


class TaskScoreDropsLimits(Limits):
    """Ablating outlier dimensions, measured by the task's score."""

    min_drop: Drop = Field(
        default=0.05, description="the score must fall by this much without all of them (paper)"
    )
    min_drop_alone: DropOrRecord = Field(
        default="record", description="… without one alone, or it is only recorded (paper)"
    )
    max_drop: Drop = Field(default=0.02, description="it must fall by less (hardened)")


class TaskScoreDrops(Check[TaskScoreDropsLimits]):
    """Ablating outlier dimensions lowers the task's score by at least ``min_drop``.

    One alone, where there are several, by ``min_drop_alone``, or it is only recorded: which of
    them a task depends on differs from task to task.
    """

    name, title = "task_score_drops", "task score"
    limits = TaskScoreDropsLimits
    source, by_dimension, is_claim = "task", True, True

    def cases(self, context: PlanContext) -> Iterable[PlannedCheck]:
        """One for each dimension alone and one for all, which of a single one are the same."""
        hardened = context.terms.hardened
        compared = hardened or self.limits_in(context.terms).min_drop_alone != "record"
        for dim in context.dims if len(context.dims) > 1 else ():
            yield self.case((dim,), f"dim{dim}", comparisons=int(compared))
        yield self.case(context.dims, joint_suffix(context.dims))

    def cost(self, planned: PlannedCheck) -> Cost:
        recorded = 0 if planned.comparisons else RECORDED_EXAMPLES
        return Cost(ablations=(planned.dims,), recorded=recorded)

    def decide(self, planned: PlannedCheck, subject: Subject, *, alpha: float) -> Verdict:
        limits = self.limits_in(subject.terms)
        model = AblatedOnTask(Task(subject), subject.ablation(planned.dims))
        together = len(planned.dims) == len(subject.outliers())
        needed = limits.min_drop if together else limits.min_drop_alone
        if subject.terms.hardened:
            return model.score_holds(within=limits.max_drop, alpha=alpha)
        if needed == "record":
            return model.recorded(alpha=alpha)
        return model.score_drops(by=needed, alpha=alpha)


class OutliersMatterMoreForTaskLimits(Limits):
    """The drop without the outlier dimensions against that without random ones."""

    factor: Ratio = Field(
        default=5.0, description="the joint drop must be this many times the control's"
    )


class OutliersMatterMoreForTask(FactorCheck[OutliersMatterMoreForTaskLimits]):
    """The score's joint drop is positive and at least ``factor`` times the mean control's."""

    name, title = "outliers_matter_more_for_task", "task score, effect over chance"
    limits = OutliersMatterMoreForTaskLimits
    source = "task"

    def decide(self, planned: PlannedCheck, subject: Subject, *, alpha: float) -> Verdict:
        model = AblatedOnTask(Task(subject), subject.ablation(planned.dims))
        factor = self.limits_in(subject.terms).factor
        return model.matters_more_than_chance(factor=factor, alpha=alpha)
