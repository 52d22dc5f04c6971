"""The statistics of checks on a task: what growing answers are asked.

Each is compared with a threshold, or a factor, at an error probability ``alpha``.
"""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from robustness.checks.tasks.task import Task, paired
from robustness.statistics.decisions import Decision
from robustness.statistics.draw_decisions import FactorDecision
from robustness.statistics.loop import Compared, Evidence, Statistic
from robustness.tasks.decisions import (
    FIRST_LOOK_AT_DRAWS,
    Paired,
    decide_factor,
    decide_mean,
    decide_median_drop,
    draws_for_factor,
)
from robustness.tasks.metrics import Floats

FIRST_ESTIMATE = 1024
"""Examples after which, and whenever their number has doubled, it is asked whether two drops can be
told apart within the examples that are allowed."""

_OPTIMISM = 2.0
"""Standard errors by which the two may lie farther apart than they were seen to."""

D = TypeVar("D", bound=Decision)


@dataclass(kw_only=True)
class ScoreDrop(Compared[Decision]):
    """How far the score of one column of answers lies below that of another."""

    task: Task
    columns: tuple[str, str] = ("intact", "other")
    signed: ClassVar[bool] = True

    def decide(self, evidence: Evidence) -> Decision | None:
        pair = paired(evidence, *self.columns)
        return self.task.decide(pair, threshold=self.threshold, alpha=self.alpha)

    def shown(
        self, evidence: Evidence, decision: Decision | None
    ) -> tuple[str, tuple[float, float] | None]:
        """The drop so far, also where it is not the time to decide."""
        if decision is None:
            drop = paired(evidence, *self.columns).drop(self.task.planned.metric)
            return f"{drop:+.4g}", None
        return super().shown(evidence, decision)


@dataclass(kw_only=True)
class AccuracyDrop(ScoreDrop):
    """The same of accuracies, whatever the task's metric."""

    def decide(self, evidence: Evidence) -> Decision:
        return decide_mean(
            paired(evidence, *self.columns).drop_per_example(),
            threshold=self.threshold,
            alpha=self.alpha,
            exhausted=evidence.whole,
        )


@dataclass(kw_only=True)
class DropsOfDraws:
    """The drop of every complete draw; what was computed once is kept."""

    task: Task
    examples: int
    _drops: list[float] = field(default_factory=list)

    def of(self, pair: Paired) -> Floats:
        """Shape (draws,); where single examples have a score, each is a draw of its own."""
        if self.task.is_mean:
            return pair.drop_per_example()
        for draw in range(len(self._drops), len(pair.labels) // self.examples):
            part = slice(draw * self.examples, (draw + 1) * self.examples)
            self._drops.append(pair.part(part).drop(self.task.planned.metric))
        return np.array(self._drops)


@dataclass(kw_only=True)
class OfExamples(Statistic[D], Generic[D]):
    """What random draws are asked; it ends after ``max_examples``."""

    drops: DropsOfDraws
    alpha: float
    max_examples: int

    def spent(self, evidence: Evidence) -> bool:
        return evidence.seen >= self.max_examples

    def most(self, evidence: Evidence) -> int:
        return self.max_examples


@dataclass(kw_only=True)
class DropOfDraws(OfExamples[Decision]):
    """The mean drop over random draws where the score is a mean, or else the median draw's."""

    threshold: float
    signed: ClassVar[bool] = True

    def decide(self, evidence: Evidence) -> Decision | None:
        drops = self.drops.of(paired(evidence))
        if not len(drops):
            return None
        if not self.drops.task.is_mean:
            return decide_median_drop(drops, threshold=self.threshold, alpha=self.alpha)
        return decide_mean(
            drops,
            threshold=self.threshold,
            alpha=self.alpha,
            minimum=FIRST_LOOK_AT_DRAWS,
            exhausted=False,
        )


@dataclass(kw_only=True)
class DropFactor(OfExamples[FactorDecision]):
    """The joint drop against a multiple, ``factor``, of the mean control's.

    ``needed`` are the examples that it would take to decide, once that was asked.
    """

    joint_drops: DropsOfDraws
    factor: float
    needed: float = math.inf
    _due: int = FIRST_ESTIMATE
    _hopeless: bool = False

    def decide(self, evidence: Evidence) -> FactorDecision | None:
        drops = self.drops.of(paired(evidence))
        joints = self.joint_drops.of(paired(evidence, second="joint"))
        if not len(drops):
            return None
        task, whole = self.drops.task, None
        if evidence.whole:
            whole = paired(evidence.once, second="joint").drop(task.planned.metric)
        options: dict[str, Any] = {
            "factor": self.factor,
            "alpha": self.alpha,
            "bound": 1.0 if task.is_mean else None,
            "joint_drop": whole,
        }
        decision = decide_factor(joints, drops, **options)
        self._hopeless = decision.side is None and self._is_hopeless(
            evidence.seen, joints, drops, options
        )
        return decision

    def _is_hopeless(
        self, seen: int, joints: Floats, drops: Floats, options: dict[str, Any]
    ) -> bool:
        """Whether even optimistically more examples would be needed than are allowed."""
        if len(drops) < FIRST_LOOK_AT_DRAWS or seen < min(self._due, self.max_examples):
            return False
        self._due *= 2
        best = draws_for_factor(joints, drops, **options, optimism=_OPTIMISM)
        self.needed = draws_for_factor(joints, drops, **options) * self.drops.examples
        return best * self.drops.examples > self.max_examples

    def spent(self, evidence: Evidence) -> bool:
        return self._hopeless or super().spent(evidence)

    def shown(self, evidence: Evidence, decision: FactorDecision | None) -> tuple[str, None]:
        if decision is None:
            return "", None
        return f"{decision.joint_mean:+.4g} and {decision.control_mean:+.4g}", None
