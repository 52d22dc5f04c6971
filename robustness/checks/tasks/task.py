"""A checkpoint on its downstream task: what claims are made of, and how they are decided."""

from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np

from robustness.checks.tasks.ablated import AblatedOnTask
from robustness.checks.tasks.control import RandomlyAblatedOnTask
from robustness.checks.tasks.intact import IntactOnTask
from robustness.scoring.sampling import uniform_index
from robustness.statistics.verdict import Decision
from robustness.tasks.decisions import Paired, bootstrap_looks, decide_mean, decide_score
from robustness.tasks.metrics import MEANS, Floats, score

if TYPE_CHECKING:
    from robustness.measurement.predictions import TaskMeasurement
    from robustness.run.planned_task import PlannedTask
    from robustness.vetting import Vetting


class Task:
    """A checkpoint on its downstream task; see :attr:`robustness.vetting.Vetting.task`.

    Attributes:
        planned: what it is asked.
        measurement: its predictions.
    """

    def __init__(
        self, vetting: "Vetting", planned: "PlannedTask", measurement: "TaskMeasurement"
    ) -> None:
        self.vetting = vetting
        self.planned = planned
        self.measurement = measurement

    def intact(self) -> "IntactOnTask":
        """The model as it is."""
        return IntactOnTask(self)

    def ablate(self, dims: SupportsIndex | Iterable[int], **place: Any) -> "AblatedOnTask":
        """The model without these dimensions, to be asked for verdicts.

        Args:
            dims: indices in the hidden vector.
            **place: site, mode and layers, as in :meth:`robustness.vetting.Vetting.ablate`.
        """
        return AblatedOnTask(self, self.vetting.ablate(dims, **place).ablation)

    def ablate_random(self, size: int, **place: Any) -> "RandomlyAblatedOnTask":
        """The model without ``size`` random non-outlier dimensions, drawn anew all the time."""
        return RandomlyAblatedOnTask(self, size, self.vetting.ablation((0,), **place))

    @property
    def is_mean(self) -> bool:
        """Whether the score is a mean over examples, so that single examples can be compared."""
        return self.planned.metric in MEANS

    @cached_property
    def labels(self) -> Floats:
        """In the order of measurement, shape (n,)."""
        return self.planned.labels[self.measurement.order]

    def answers(self, outputs: "np.ndarray[Any, Any]") -> Floats:
        """Class numbers or values of predictions, shape (n,)."""
        if self.planned.kind == "classification":
            return np.asarray(outputs.argmax(1), dtype=np.float64)
        return np.asarray(outputs[:, 0], dtype=np.float64)

    def look(self, paired: Paired, *, threshold: float, alpha: float) -> Decision | None:
        """Compare the drop of a fixed ablation with a threshold, where it is time to do so."""
        n, total = len(paired.labels), self.measurement.n_examples
        if self.is_mean:
            return decide_mean(
                paired.drop_per_example(), threshold=threshold, alpha=alpha, exhausted=n >= total
            )
        if n < total and n not in bootstrap_looks(total):
            return None
        return decide_score(
            paired,
            self.planned.metric,
            threshold=threshold,
            alpha=alpha,
            n_examples=total,
            seed=self.seed(n),
        )

    def seed(self, n: int) -> int:
        """Of the bootstrap on the first n examples: the same in every process."""
        data = self.measurement.data
        return uniform_index(2**63, "bootstrap", self.measurement.seed, data.texts_fingerprint, n)

    def details(self, paired: Paired) -> dict[str, Any]:
        """What every verdict says of the intact model and of the other one."""
        metric, n = self.planned.metric, len(paired.labels)
        return {
            "task": self.planned.name,
            "metric": metric,
            "intact_score": score(metric, paired.labels, paired.first),
            "ablated_score": score(metric, paired.labels, paired.second),
            "examples": n,
            "task_examples": self.measurement.n_examples,
        }

    def progress(
        self,
        statement: str,
        seen: int,
        *drops: float,
        interval: tuple[float, float] | None = None,
        most: int | None = None,
    ) -> None:
        """Tell whoever waits how far a decision has come.

        Args:
            statement: what is decided.
            seen: examples so far, over all passes.
            drops: so far; of a comparison, both.
            interval: of the drop, where there is one.
            most: examples after which it ends whatever was found; by default the task's.
        """
        self.vetting.report_progress(
            statement,
            seen,
            " and ".join(f"{drop:+.4g}" for drop in drops),
            interval=interval,
            most=most,
            examples=self.measurement.n_examples,
        )
