"""The statistics of checks on a task: what growing answers are asked."""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from robustness.checks.tasks.task import AnswerEvidence, Task
from robustness.statistics.decisions import Decision
from robustness.statistics.draw_decisions import FactorDecision
from robustness.statistics.loop import Statistic
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


@dataclass(kw_only=True)
class ScoreDrop(Statistic[AnswerEvidence, Decision]):
    """How far the score of a fixed ablation drops, against a threshold."""

    task: Task
    threshold: float
    alpha: float
    signed: ClassVar[bool] = True

    def decide(self, evidence: AnswerEvidence) -> Decision | None:
        """See :meth:`Task.decide`."""
        return self.task.decide(evidence.paired, threshold=self.threshold, alpha=self.alpha)

    def shown(
        self, evidence: AnswerEvidence, decision: Decision | None
    ) -> tuple[str, tuple[float, float] | None]:
        """The drop so far, also where it is not the time to decide."""
        if decision is None:
            return f"{evidence.paired.drop(self.task.planned.metric):+.4g}", None
        return super().shown(evidence, decision)


@dataclass(kw_only=True)
class AgainstGuess(ScoreDrop):
    """How much better a guess that reads no text does than the model.

    Attributes:
        guess: its answers, in the order of measurement.
    """

    guess: Floats

    def against(self, paired: Paired) -> Paired:
        """The guess and the model, side by side."""
        n = len(paired.labels)
        return Paired(labels=paired.labels, first=self.guess[:n], second=paired.first)

    def decide(self, evidence: AnswerEvidence) -> Decision | None:
        """Accuracies are compared where classes are guessed; see :meth:`Task.decide`."""
        against = self.against(evidence.paired)
        if self.task.planned.kind != "classification":
            return self.task.decide(against, threshold=self.threshold, alpha=self.alpha)
        return decide_mean(
            against.drop_per_example(),
            threshold=self.threshold,
            alpha=self.alpha,
            exhausted=evidence.whole,
        )

    def shown(
        self, evidence: AnswerEvidence, decision: Decision | None
    ) -> tuple[str, tuple[float, float] | None]:
        against = AnswerEvidence(paired=self.against(evidence.paired), total=evidence.total)
        return super().shown(against, decision)


@dataclass(kw_only=True)
class DropsOfDraws:
    """The drop of every complete draw; what was computed once is kept."""

    task: Task
    examples: int
    _drops: list[float] = field(default_factory=list)

    def of(self, paired: Paired) -> Floats:
        """Shape (draws,); where single examples have a score, each is a draw of its own."""
        if self.task.is_mean:
            return paired.drop_per_example()
        for draw in range(len(self._drops), len(paired.labels) // self.examples):
            part = slice(draw * self.examples, (draw + 1) * self.examples)
            self._drops.append(paired.part(part).drop(self.task.planned.metric))
        return np.array(self._drops)


@dataclass(kw_only=True)
class DropOfDraws(Statistic[AnswerEvidence, Decision]):
    """The mean drop over random draws, or the median draw's, against a threshold.

    Attributes:
        drops: of the draws.
        threshold: on the drop.
        alpha: error probability.
        max_examples: after which it ends.
    """

    drops: DropsOfDraws
    threshold: float
    alpha: float
    max_examples: int
    signed: ClassVar[bool] = True

    def decide(self, evidence: AnswerEvidence) -> Decision | None:
        """The mean where the score is one, else the median."""
        drops = self.drops.of(evidence.paired)
        if not len(drops):
            return None
        if self.drops.task.is_mean:
            return decide_mean(
                drops,
                threshold=self.threshold,
                alpha=self.alpha,
                minimum=FIRST_LOOK_AT_DRAWS,
                exhausted=False,
            )
        return decide_median_drop(drops, threshold=self.threshold, alpha=self.alpha)

    def spent(self, evidence: AnswerEvidence) -> bool:
        """After ``max_examples``."""
        return evidence.seen >= self.max_examples

    def most(self, evidence: AnswerEvidence) -> int:
        return self.max_examples


@dataclass(kw_only=True)
class DropFactor(Statistic[AnswerEvidence, FactorDecision]):
    """The joint drop against a multiple of the mean control's.

    Attributes:
        drops: of the random draws.
        joint_drops: of the fixed ablation on the same examples.
        factor: the multiple.
        alpha: error probability.
        max_examples: after which it ends.
        needed: examples that it would take to decide, once that was asked.
    """

    drops: DropsOfDraws
    joint_drops: DropsOfDraws
    factor: float
    alpha: float
    max_examples: int
    needed: float = math.inf
    _due: int = FIRST_ESTIMATE
    _hopeless: bool = False

    def decide(self, evidence: AnswerEvidence) -> FactorDecision | None:
        """See :func:`robustness.tasks.decisions.decide_factor`."""
        assert evidence.joint is not None
        drops = self.drops.of(evidence.paired)
        joints = self.joint_drops.of(evidence.joint)
        if not len(drops):
            return None
        task, whole = self.drops.task, None
        if evidence.whole:
            metric = task.planned.metric
            whole = evidence.joint.part(slice(0, evidence.total)).drop(metric)
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

    def spent(self, evidence: AnswerEvidence) -> bool:
        """After ``max_examples``, or where these would not decide it."""
        return self._hopeless or evidence.seen >= self.max_examples

    def most(self, evidence: AnswerEvidence) -> int:
        return self.max_examples

    def shown(
        self,
        evidence: AnswerEvidence,
        decision: FactorDecision | None,
    ) -> tuple[str, None]:
        """Both drops."""
        if decision is None:
            return "", None
        return f"{decision.joint_mean:+.4g} and {decision.control_mean:+.4g}", None
