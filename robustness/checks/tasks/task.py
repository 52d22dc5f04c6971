"""A checkpoint on its downstream task: what it answers, and how drops of its score are decided."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from robustness.ablation.ablation import Ablation
from robustness.ablation.interventions import (
    FixedAblation,
    Intact,
    Intervention,
    PerBlockAblation,
)
from robustness.checks.subject import Subject
from robustness.scoring.sampling import random_dims, uniform_index
from robustness.statistics.decisions import Decision
from robustness.statistics.figures import TaskFigures
from robustness.tasks.decisions import Paired, bootstrap_looks, decide_mean, decide_score
from robustness.tasks.metrics import MEANS, Floats, score


@dataclass(frozen=True, kw_only=True)
class AnswerEvidence:
    """Answers side by side for the examples seen so far.

    Attributes:
        paired: of the intact and of the other model.
        total: examples of the task.
        joint: of the intact model and without fixed dimensions, on the same examples.
    """

    paired: Paired
    total: int
    joint: Paired | None = None
    slack_nats: tuple[float, ...] = ()

    @property
    def seen(self) -> int:
        """Examples, over all passes."""
        return len(self.paired.labels)

    @property
    def whole(self) -> bool:
        """Whether these are all examples of the task."""
        return self.seen >= self.total


class Task:
    """A checkpoint on its downstream task.

    Attributes:
        subject: the checkpoint.
        planned: the task.
        measurement: predictions.
    """

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

    def answers(self, outputs: "np.ndarray[Any, Any]") -> Floats:
        """Class numbers or values of predictions, shape (n,)."""
        if self.planned.kind == "classification":
            return np.asarray(outputs.argmax(1), dtype=np.float64)
        return np.asarray(outputs[:, 0], dtype=np.float64)

    def decide(self, paired: Paired, *, threshold: float, alpha: float) -> Decision | None:
        """Compare the drop of a fixed ablation with a threshold, where it is time to do so."""
        n, total = len(paired.labels), self.measurement.n_examples
        if self.is_mean:
            drops = paired.drop_per_example()
            return decide_mean(drops, threshold=threshold, alpha=alpha, exhausted=n >= total)
        if n < total and n not in bootstrap_looks(total):
            return None
        return decide_score(
            paired,
            self.planned.metric,
            threshold=threshold,
            alpha=alpha,
            n_examples=total,
            seed=self._seed(n),
        )

    def _seed(self, n: int) -> int:
        """Of the bootstrap on the first n examples: the same in every process."""
        data = self.measurement.data
        return uniform_index(2**63, "bootstrap", self.measurement.seed, data.texts_fingerprint, n)

    def figures(self, paired: Paired, *, examples: int | None = None) -> TaskFigures:
        """What every verdict says of the intact model and of the other one.

        Args:
            paired: their answers, to each example once.
            examples: measured over all passes; by default as many.
        """
        metric = self.planned.metric
        return TaskFigures(
            name=self.planned.name,
            metric=metric,
            intact_score=float(score(metric, paired.labels, paired.first)),
            ablated_score=float(score(metric, paired.labels, paired.second)),
            examples=len(paired.labels) if examples is None else examples,
            task_examples=self.measurement.n_examples,
        )

    def evidence(self, intervention: Intervention | None) -> Iterator[AnswerEvidence]:
        """Answers of the intact model and under an intervention, one item per chunk."""
        interventions = [Intact(), *([] if intervention is None else [intervention])]
        first: list[Floats] = []
        second: list[Floats] = []
        for index in range(self.measurement.n_chunks):
            outputs = self.measurement.chunk(index, *interventions)
            first.append(self.answers(outputs[0]))
            second.append(self.answers(outputs[-1]))
            intact = np.concatenate(first)
            labels = self.labels[: len(intact)]
            paired = Paired(labels=labels, first=intact, second=np.concatenate(second))
            yield AnswerEvidence(paired=paired, total=self.measurement.n_examples)

    def control_evidence(self, draws: "Draws", joint: Ablation | None) -> Iterator[AnswerEvidence]:
        """Answers without random dimensions, and without fixed ones beside them.

        Chunk by chunk, pass after pass with new draws, without end.
        """
        measurement = self.measurement
        fixed = [] if joint is None else [FixedAblation(ablation=joint)]
        columns: dict[str, list[Floats]] = {"labels": [], "intact": [], "random": [], "joint": []}
        start = 0
        while True:
            for index in range(measurement.n_chunks):
                n = len(measurement.examples(index))
                done = index * len(measurement.examples(0))
                random = draws.intervention(start, n)
                start += n
                outputs = measurement.chunk(index, Intact(), random, *fixed)
                columns["labels"].append(self.labels[done : done + n])
                for name, output in zip(("intact", "random", "joint"), outputs, strict=False):
                    columns[name].append(self.answers(output))
                yield self._beside(columns)

    def _beside(self, columns: dict[str, list[Floats]]) -> AnswerEvidence:
        joined = {name: np.concatenate(parts) for name, parts in columns.items() if parts}
        both = {"labels": joined["labels"], "first": joined["intact"]}
        return AnswerEvidence(
            paired=Paired(**both, second=joined["random"]),
            joint=Paired(**both, second=joined["joint"]) if "joint" in joined else None,
            total=self.measurement.n_examples,
        )


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Random dimensions for a stream of examples.

    Attributes:
        candidates: the dimensions to draw from.
        size: of a draw.
        template: where and how they are ablated, its own dimensions aside.
        examples: that a draw stays for.
        seed: of the draws.
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
        return PerBlockAblation(
            dims=tuple(self.dims(number) for number in numbers), template=self.template
        )
