"""What can be claimed of a model without some dimensions on its task."""

from typing import TYPE_CHECKING

from robustness.ablation.interventions import FixedAblation
from robustness.checks.tasks.claim import OnTask, finite_interval, look_step, verdict
from robustness.checks.tasks.control import RandomlyAblatedOnTask
from robustness.outliers.outlier_dimensions import named
from robustness.statistics.history import Step, course
from robustness.statistics.verdict import Side, Verdict

if TYPE_CHECKING:
    from robustness.ablation.ablation import Ablation
    from robustness.checks.tasks.task import Task

RECORDED_EXAMPLES = 256
"""Examples of a drop that is compared with nothing, unless all are measured."""


class AblatedOnTask(OnTask):
    """A model without some dimensions, on its task."""

    questions = ".score_drops(by=…), .score_holds(within=…) or .matters_more_than_chance()"

    def __init__(self, task: "Task", ablation: "Ablation") -> None:
        super().__init__(task)
        self.ablation = ablation

    def __repr__(self) -> str:
        return f"<{self._task.vetting.checkpoint.label} without {named(self.ablation.dims)}>"

    def score_drops(
        self, *, by: float, confidence: float | None = None, alpha: float | None = None
    ) -> Verdict:
        """Whether the ablation lowers the task's score by at least ``by``."""
        level = self._task.vetting.alpha(confidence, alpha)
        return self._decided(f"{self._lowers} by at least {by:g}", by, level, passes="above")

    def score_holds(
        self, *, within: float, confidence: float | None = None, alpha: float | None = None
    ) -> Verdict:
        """Whether the ablation lowers the task's score by less than ``within``."""
        level = self._task.vetting.alpha(confidence, alpha)
        statement = f"{self._lowers} by less than {within:g}"
        return self._decided(statement, within, level, passes="below")

    def recorded(self, *, confidence: float | None = None, alpha: float | None = None) -> Verdict:
        """How far the score drops, compared with nothing: it passes in any case."""
        task = self._task
        level = task.vetting.alpha(confidence, alpha)
        statement = f"how far {self._lowers} is recorded"
        steps: list[Step] = []
        for paired in self._pairs(FixedAblation(ablation=self.ablation)):
            n = len(paired.labels)
            drop = paired.drop(task.planned.metric)
            task.progress(statement, n, drop)
            steps.append({"text_blocks": n, "ratio": drop, "interval": None})
            if n >= RECORDED_EXAMPLES and not task.vetting.settings.exhaustive:
                break
        look = task.look(paired, threshold=0.0, alpha=level)
        assert look is not None
        steps[-1] = look_step(look, examples=n)
        return Verdict(
            outcome="pass",
            statement=statement,
            ratio=look.ratio,
            interval=finite_interval(look),
            text_blocks=look.text_blocks,
            exact=look.exact,
            details=task.details(paired),
            course=course(steps),
        )

    def matters_more_than_chance(
        self, *, factor: float = 5.0, confidence: float | None = None, alpha: float | None = None
    ) -> Verdict:
        """Whether the score drops by ``factor`` times as much as without random dimensions."""
        level = self._task.vetting.alpha(confidence, alpha)
        control = RandomlyAblatedOnTask(self._task, len(self.ablation.dims), self.ablation)
        return control.decide_factor(self.ablation, factor, level)

    @property
    def _lowers(self) -> str:
        planned = self._task.planned
        where = f"{named(self.ablation.dims)}{self.ablation.where}"
        return f"ablating {where} lowers the {planned.metric} on {planned.name}"

    def _decided(self, statement: str, threshold: float, alpha: float, *, passes: Side) -> Verdict:
        task = self._task
        look, paired, steps = self._looked_at(
            statement,
            self._pairs(FixedAblation(ablation=self.ablation)),
            lambda each: task.look(each, threshold=threshold, alpha=alpha),
        )
        return verdict(
            statement,
            look,
            threshold,
            passes=passes,
            details=task.details(paired),
            alpha=alpha,
            steps=steps,
        )
