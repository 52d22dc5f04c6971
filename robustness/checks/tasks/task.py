"""A checkpoint on its downstream task: what it answers, and how drops of its score are decided."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle
from typing import Any, ClassVar

import numpy as np

from robustness.ablation.ablation import Ablation
from robustness.ablation.interventions import Intact, Intervention, PerBlockAblation
from robustness.checks.subject import Model, Subject
from robustness.scoring.sampling import random_dims, uniform_index
from robustness.statistics.decisions import Decision
from robustness.statistics.figures import TaskFigures
from robustness.statistics.loop import Evidence
from robustness.statistics.verdict import Unit
from robustness.tasks.decisions import Paired, bootstrap_looks, decide_mean, decide_score
from robustness.tasks.metrics import MEANS, Floats, score

Intervene = Callable[[int, int], dict[str, Intervention]]
"""From the number of examples before and of those to come: what is done to the model for these, by
the name of the column that their answers make."""


class Task:
    """A checkpoint on its downstream task."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.planned = subject.planned_task
        self.measurement = subject.task_measurement

    @property
    def is_mean(self) -> bool:
        """Whether the score is a mean over examples, so that single examples can be compared."""
        return self.planned.metric in MEANS

    @property
    def score_of(self) -> str:
        """``accuracy on glue/mrpc``."""
        return f"{self.planned.metric} on {self.planned.name}"

    @cached_property
    def labels(self) -> Floats:
        """In the order of measurement, shape (n,)."""
        return self.planned.labels[self.measurement.order]

    def decide(self, paired: Paired, *, threshold: float, alpha: float) -> Decision | None:
        """Compare the drop of a fixed ablation with a threshold, where it is time to do so."""
        n, total = len(paired.labels), self.measurement.n_examples
        if self.is_mean:
            drops = paired.drop_per_example()
            return decide_mean(drops, threshold=threshold, alpha=alpha, exhausted=n >= total)
        if n < total and n not in bootstrap_looks(total):
            return None
        of_texts = self.measurement.data.texts_fingerprint
        return decide_score(
            paired,
            self.planned.metric,
            threshold=threshold,
            alpha=alpha,
            n_examples=total,
            seed=uniform_index(2**63, "bootstrap", self.measurement.seed, of_texts, n),
        )

    def figures(self, paired: Paired, examples: int) -> TaskFigures:
        """What every verdict says of both models, to each example once; measured were ``examples``.

        These are counted over all passes.
        """
        metric = self.planned.metric
        return TaskFigures(
            name=self.planned.name,
            metric=metric,
            intact_score=float(score(metric, paired.labels, paired.first)),
            ablated_score=float(score(metric, paired.labels, paired.second)),
            examples=examples,
            task_examples=self.measurement.n_examples,
        )

    def evidence(self, intervene: Intervene, *, endless: bool = False) -> Iterator[Evidence]:
        """Answers of the intact model and under interventions, one item per chunk.

        The columns are ``labels``, ``intact``, and those of the interventions. Where it is endless
        pass follows pass, for each of which something else may be done.
        """
        measurement = self.measurement
        evidence, chunks = Evidence(total=measurement.n_examples), range(measurement.n_chunks)
        for index in cycle(chunks) if endless else chunks:
            n, first = len(measurement.examples(index)), index * len(measurement.examples(0))
            done = intervene(evidence.seen, n)
            outputs = measurement.chunk(index, Intact(), *done.values())
            answers = map(self.answers, outputs)
            columns = dict(zip(("intact", *done), answers, strict=True))
            evidence = evidence.grown(labels=self.labels[first : first + n], **columns)
            yield evidence

    def answers(self, outputs: "np.ndarray[Any, Any]") -> Floats:
        """Class numbers or values of predictions, shape (n,)."""
        answers = outputs.argmax(1) if self.planned.kind == "classification" else outputs[:, 0]
        return np.asarray(answers, dtype=np.float64)


def paired(evidence: Evidence, first: str = "intact", second: str = "other") -> Paired:
    """Two columns of answers side by side."""
    return Paired(labels=evidence["labels"], first=evidence[first], second=evidence[second])


class ModelOnTask(Model):
    """A model in some state, to be asked for verdicts on its task."""

    unit: ClassVar[Unit] = "examples"

    def __init__(self, task: Task) -> None:
        super().__init__(task.subject)
        self._task = task


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Random dimensions for a stream of examples.

    ``size`` of the candidates stay for so many examples, and are ablated as in the template.
    """

    candidates: list[int]
    size: int
    template: Ablation
    examples: int
    seed: int

    def dims(self, draw: int) -> tuple[int, ...]:
        """The dimensions of one draw."""
        return random_dims(self.candidates, self.size, seed=self.seed, draw=draw)

    def intervention(self, start: int, n: int) -> PerBlockAblation:
        """What is done for ``n`` examples of the stream, from ``start`` on."""
        numbers = ((start + place) // self.examples for place in range(n))
        return PerBlockAblation(dims=tuple(map(self.dims, numbers)), template=self.template)
