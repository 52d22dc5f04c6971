"""The random control on a task: its score without random dimensions."""

import math
from typing import Unpack

import numpy as np
from pydantic import Field

from robustness.ablation.ablation import Ablation
from robustness.ablation.interventions import FixedAblation, Intervention
from robustness.checks.check import ControlCheck
from robustness.checks.limits import Drop, Limits
from robustness.checks.planned import PlannedCheck
from robustness.checks.subject import Level, Subject, random_dimensions, where
from robustness.checks.tasks.statistic import DropFactor, DropOfDraws, DropsOfDraws
from robustness.checks.tasks.task import Draws, ModelOnTask, Task, paired
from robustness.scoring.sampling import random_candidates
from robustness.statistics.figures import DrawFigure, DrawFigures, FactorFigures
from robustness.statistics.loop import Grow
from robustness.statistics.verdict import Verdict
from robustness.tasks.metrics import Floats

EXAMPLES_PER_DRAW = 32
"""Examples that a random draw stays for, where single examples have no score."""

_MOST = "checks.random_ablation_keeps_task_score.max_examples"


class RandomlyAblatedOnTask(ModelOnTask):
    """A model without random dimensions, on its task.

    Where the score is a mean, every example has a draw of its own and the mean drop is decided on.
    Where it is not, a draw stays for 32 examples, whose score it lowers, and the median draw is.
    """

    questions = ".score_holds(within=…)"

    def __init__(self, task: Task, size: int, template: Ablation) -> None:
        super().__init__(task)
        candidates = random_candidates(
            self.subject.outliers().dims,
            hidden_size=self.subject.model_profile.hidden_size,
            size=size,
        )
        self._draws = Draws(
            candidates=candidates,
            size=size,
            template=template,
            examples=1 if task.is_mean else EXAMPLES_PER_DRAW,
            seed=task.measurement.seed,
        )
        self._most = RandomAblationKeepsTaskScore().limits_in(self.subject.terms).max_examples

    def __repr__(self) -> str:
        return f"<{self.subject.checkpoint.label} without {self._counted}>"

    def score_holds(self, *, within: float, **level: Unpack[Level]) -> Verdict:
        """Whether the task's score drops by less than ``within``: on average, or typically."""
        task, alpha = self._task, self.subject.alpha(**level)
        how = "on average" if task.is_mean else "for the median draw"
        statement = (
            f"ablating {self._counted}{self._draws.template.where} lowers the {task.score_of} by "
            f"less than {within:g} {how}"
        )
        drops = DropsOfDraws(task=task, examples=self._draws.examples)
        statistic = DropOfDraws(drops=drops, threshold=within, alpha=alpha, max_examples=self._most)
        end = self.decided(statement, statistic, self._grow({}))
        undecided = f"{self._most:,} examples do not decide it: raise {_MOST}"
        return self.verdict(
            end,
            statement,
            passes="below",
            threshold=within,
            alpha=alpha,
            measure="drop",
            details={
                "task": task.figures(paired(end.evidence.once), end.evidence.seen),
                "draws": self._figures(drops.of(paired(end.evidence))),
            },
            reason="" if end.decision.side else undecided,
        )

    def decide_factor(self, joint: Ablation, factor: float, alpha: float) -> Verdict:
        """Whether the joint drop is positive and at least ``factor`` times the mean control's."""
        task, examples = self._task, self._draws.examples
        statement = (
            f"ablating {where(joint)} lowers the {task.score_of} at least {factor:g} times as "
            f"much as ablating {self._counted}"
        )
        statistic = DropFactor(
            drops=DropsOfDraws(task=task, examples=examples),
            joint_drops=DropsOfDraws(task=task, examples=examples),
            factor=factor,
            alpha=alpha,
            max_examples=self._most,
        )
        fixed: dict[str, Intervention] = {"joint": FixedAblation(ablation=joint)}
        end = self.decided(statement, statistic, self._grow(fixed))
        means = FactorFigures(joint=end.decision.joint_mean, control=end.decision.control_mean)
        once = paired(end.evidence.once, second="joint")
        undecided = "" if end.decision.side else f"; {self._undecided(statistic.needed)}"
        return self.verdict(
            end,
            statement,
            passes="above",
            threshold=factor,
            measure="factor",
            details={"task": task.figures(once, end.evidence.seen), "factor": means},
            reason=(
                f"a drop of {means.joint:.3g} against {means.control:.3g} of the random control"
                f"{undecided}"
            ),
        )

    def _grow(self, fixed: dict[str, Intervention]) -> Grow:
        return lambda _: self._task.evidence(
            lambda start, n: {"other": self._draws.intervention(start, n), **fixed}, endless=True
        )

    @property
    def _counted(self) -> str:
        return random_dimensions(self._draws.size)

    def _undecided(self, needed: float) -> str:
        """What it would take to decide a factor, and what can be done instead."""
        about = "more than a billion"
        if math.isfinite(needed):
            about = f"about {float(f'{needed:.1g}'):,.0f}"
        return (
            f"to compare them takes {about} examples, and max_examples is {self._most:,}: raise "
            f"{_MOST}, or disable checks.outliers_matter_more_for_task where the drop is too small "
            "to matter"
        )

    def _figures(self, drops: Floats) -> DrawFigures:
        """The draws with the largest drops; single examples show nothing."""
        order = np.argsort(-drops, kind="stable").tolist()
        worst = [] if self._task.is_mean else order[:5]
        return DrawFigures(
            draws=len(drops),
            mean=float(np.mean(drops)),
            worst=tuple(
                DrawFigure(dims=self._draws.dims(draw), measured=float(drops[draw]))
                for draw in worst
            ),
        )


class RandomAblationKeepsTaskScoreLimits(Limits):
    """Ablating as many random dimensions, measured by the task's score."""

    max_drop: Drop = Field(default=0.02, description="the score must fall by less than this")
    max_examples: int = Field(
        default=8192, ge=4096, description="inconclusive after this many, over all draws"
    )


class RandomAblationKeepsTaskScore(ControlCheck[RandomAblationKeepsTaskScoreLimits]):
    """Ablating as many non-outlier dimensions lowers the task's score by less than ``max_drop``."""

    name, title = "random_ablation_keeps_task_score", "task score, random control"
    limits = RandomAblationKeepsTaskScoreLimits
    source = "task"

    def decide(self, planned: PlannedCheck, subject: Subject, *, alpha: float) -> Verdict:
        model = RandomlyAblatedOnTask(Task(subject), len(planned.dims), subject.ablation((0,)))
        return model.score_holds(within=self.limits_in(subject.terms).max_drop, alpha=alpha)
