"""What can be claimed of the intact model on its task."""

from collections.abc import Iterator

import numpy as np

from robustness.checks.tasks.claim import OnTask, verdict
from robustness.statistics.verdict import Decision, Verdict
from robustness.tasks.decisions import Paired, decide_mean
from robustness.tasks.metrics import Floats


class IntactOnTask(OnTask):
    """The model as it is, on its task."""

    questions = ".beats_a_guess()"

    def beats_a_guess(
        self, *, confidence: float | None = None, alpha: float | None = None
    ) -> Verdict:
        """Whether the intact model does better than a guess that reads no text.

        A guess at classes names the most frequent one, and accuracies are compared; a guess at
        values correlates with nothing. Measured is the guess's score minus the model's.
        """
        task = self._task
        level = task.vetting.alpha(confidence, alpha)
        guess, statement = self._guess()

        def against_the_guess() -> Iterator[Paired]:
            for intact in self._pairs(None):
                n = len(intact.labels)
                yield Paired(labels=intact.labels, first=guess[:n], second=intact.first)

        def look_at(against: Paired) -> Decision | None:
            if task.planned.kind != "classification":
                return task.look(against, threshold=0.0, alpha=level)
            exhausted = len(against.labels) >= task.measurement.n_examples
            drops = against.drop_per_example()
            return decide_mean(drops, threshold=0.0, alpha=level, exhausted=exhausted)

        look, against, steps = self._looked_at(statement, against_the_guess(), look_at)
        alone = Paired(labels=against.labels, first=against.second, second=against.second)
        return verdict(
            statement,
            look,
            0.0,
            passes="below",
            details=task.details(alone),
            alpha=level,
            steps=steps,
        )

    def _guess(self) -> tuple[Floats, str]:
        task = self._task
        planned, labels = task.planned, task.labels
        if planned.kind != "classification":
            return np.zeros(len(labels)), (
                f"the intact model's {planned.metric} on {planned.name} is positive: it beats a "
                "guess that reads no text"
            )
        classes, counts = np.unique(labels, return_counts=True)
        usual = float(classes[counts.argmax()])
        return np.full(len(labels), usual), (
            f"the intact model's accuracy on {planned.name} is higher than that of always naming "
            f"the most frequent class, {planned.classes[int(usual)]}: it beats a guess that reads "
            "no text"
        )
