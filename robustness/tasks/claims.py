"""What can be claimed of a model on its task, intact or ablated; each claim ends in a verdict."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn, SupportsIndex

import numpy as np

from robustness.conditions import Condition, Fixed, Intact, PerBlock
from robustness.outlier_dimensions import named
from robustness.sampling import random_candidates, random_dims, uniform_index
from robustness.sequential import blind_share
from robustness.tasks.looks import (
    FIRST_LOOK_AT_DRAWS,
    Paired,
    bootstrap_looks,
    look_at_factor,
    look_at_mean,
    look_at_median,
    look_at_score,
)
from robustness.tasks.metrics import MEANS, Floats, score
from robustness.verdict import Look, Outcome, Side, Verdict

if TYPE_CHECKING:
    from robustness.ablation import Ablation
    from robustness.tasks.measure import TaskMeasurement
    from robustness.tasks.planned import PlannedTask
    from robustness.vetting import Vetting

RECORDED_EXAMPLES = 256
"""Examples of a drop that is compared with nothing, unless all are measured."""

EXAMPLES_PER_DRAW = 32
"""Examples that a random draw stays for, where single examples have no score."""


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

    def look(self, paired: Paired, *, threshold: float, alpha: float) -> Look | None:
        """Compare the drop of a fixed ablation with a threshold, where it is time to do so."""
        n, total = len(paired.labels), self.measurement.n_examples
        if self.is_mean:
            return look_at_mean(
                paired.drop_per_example(), threshold=threshold, alpha=alpha, exhausted=n >= total
            )
        if n < total and n not in bootstrap_looks(total):
            return None
        return look_at_score(
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

    def progress(self, claim: str, seen: int, drop: float) -> None:
        """Tell whoever waits how far a decision has come."""
        total = self.measurement.n_examples
        self.vetting.report_progress(claim, seen, f"{drop:+.4g}", examples=total)


class _OnTask:
    questions = ""

    def __init__(self, task: Task) -> None:
        self._task = task

    def __bool__(self) -> NoReturn:
        raise TypeError(f"{self!r} is no verdict: ask it {self.questions}")

    def _pairs(self, condition: Condition | None) -> Iterator[Paired]:
        """Answers of the intact model and under a condition, one item per chunk of examples."""
        task = self._task
        first: list[Floats] = []
        second: list[Floats] = []
        for index in range(task.measurement.n_chunks):
            conditions = [Intact(), *([] if condition is None else [condition])]
            found = task.measurement.chunk(index, *conditions)
            first.append(task.answers(found[0]))
            second.append(task.answers(found[-1]))
            intact = np.concatenate(first)
            yield Paired(
                labels=task.labels[: len(intact)], first=intact, second=np.concatenate(second)
            )


class IntactOnTask(_OnTask):
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
        guess, claim = self._guess()
        look = None
        for intact in self._pairs(None):
            n = len(intact.labels)
            against = Paired(labels=intact.labels, first=guess[:n], second=intact.first)
            if task.planned.kind == "classification":
                exhausted = n >= task.measurement.n_examples
                drops = against.drop_per_example()
                look = look_at_mean(drops, threshold=0.0, alpha=level, exhausted=exhausted)
            else:
                look = task.look(against, threshold=0.0, alpha=level)
            if look is None:
                continue
            task.progress(claim, n, look.ratio)
            if look.side and (look.exact or not task.vetting.settings.exhaustive):
                break
        assert look is not None
        return _verdict(
            claim, look, 0.0, passes="below", details=task.details(_same(intact)), alpha=level
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


class AblatedOnTask(_OnTask):
    """A model without some dimensions, on its task."""

    questions = ".score_drops(by=…), .score_holds(within=…) or .matters_more_than_chance()"

    def __init__(self, task: Task, ablation: "Ablation") -> None:
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
        claim = f"{self._lowers} by less than {within:g}"
        return self._decided(claim, within, level, passes="below")

    def recorded(self, *, confidence: float | None = None, alpha: float | None = None) -> Verdict:
        """How far the score drops, compared with nothing: it passes in any case."""
        task = self._task
        level = task.vetting.alpha(confidence, alpha)
        claim = f"how far {self._lowers} is recorded"
        for paired in self._pairs(Fixed(ablation=self.ablation)):
            n = len(paired.labels)
            task.progress(claim, n, paired.drop(task.planned.metric))
            if n >= RECORDED_EXAMPLES and not task.vetting.settings.exhaustive:
                break
        look = task.look(paired, threshold=0.0, alpha=level)
        assert look is not None
        interval = None if look.exact else look.interval
        return Verdict(
            outcome="pass",
            claim=claim,
            ratio=look.ratio,
            interval=interval,
            text_blocks=look.text_blocks,
            exact=look.exact,
            details=task.details(paired),
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

    def _decided(self, claim: str, threshold: float, alpha: float, *, passes: Side) -> Verdict:
        task = self._task
        look = None
        for paired in self._pairs(Fixed(ablation=self.ablation)):
            look = task.look(paired, threshold=threshold, alpha=alpha)
            if look is None:
                continue
            task.progress(claim, len(paired.labels), look.ratio)
            if look.side and (look.exact or not task.vetting.settings.exhaustive):
                break
        assert look is not None
        return _verdict(
            claim, look, threshold, passes=passes, details=task.details(paired), alpha=alpha
        )


class RandomlyAblatedOnTask(_OnTask):
    """A model without random dimensions, on its task.

    Where the score is a mean, every example has a draw of its own and the mean drop is decided on.
    Where it is not, a draw stays for 32 examples, whose score it lowers, and the median draw is.
    """

    questions = ".score_holds(within=…)"

    def __init__(self, task: Task, size: int, like: "Ablation") -> None:
        super().__init__(task)
        vetting = task.vetting
        self._candidates = random_candidates(
            vetting.outliers().dims, hidden_size=vetting.examination.hidden_size, size=size
        )
        self._size = size
        self._like = like
        self._per_draw = 1 if task.is_mean else EXAMPLES_PER_DRAW

    def __repr__(self) -> str:
        return f"<{self._task.vetting.checkpoint.label} without {self._counted}>"

    def score_holds(
        self, *, within: float, confidence: float | None = None, alpha: float | None = None
    ) -> Verdict:
        """Whether the task's score drops by less than ``within``: on average, or typically."""
        task = self._task
        level = task.vetting.alpha(confidence, alpha)
        planned = task.planned
        how = "on average" if task.is_mean else "for the median draw"
        claim = (
            f"ablating {self._counted}{self._like.where} lowers the {planned.metric} on "
            f"{planned.name} by less than {within:g} {how}"
        )
        look = None
        known: list[float] = []
        for control, _ in self._stream(None):
            drops = self._drops(control, known)
            if not len(drops):
                continue
            if task.is_mean:
                minimum = FIRST_LOOK_AT_DRAWS
                look = look_at_mean(
                    drops, threshold=within, alpha=level, minimum=minimum, exhausted=False
                )
            else:
                look = look_at_median(drops, threshold=within, alpha=level)
            task.progress(claim, len(control.labels), look.ratio)
            if self._finished(len(control.labels), decided=look.side is not None):
                break
        assert look is not None
        once = control.part(slice(0, task.measurement.n_examples))
        return _verdict(
            claim,
            look,
            within,
            passes="below",
            details={
                **task.details(once),
                "examples": len(control.labels),
                "task_draws": len(drops),
                "mean_drop": float(np.mean(drops)),
                "largest_drops": self._largest(drops),
            },
            alpha=level,
            examples=len(control.labels),
            reason="" if look.side else "max_examples examples do not decide it",
        )

    def decide_factor(self, joint: "Ablation", factor: float, alpha: float) -> Verdict:
        """Whether the joint drop is positive and at least ``factor`` times the mean control's."""
        task, planned = self._task, self._task.planned
        claim = (
            f"ablating {named(joint.dims)}{joint.where} lowers the {planned.metric} on "
            f"{planned.name} at least {factor:g} times as much as ablating {self._counted}"
        )
        total = task.measurement.n_examples
        look = None
        known: tuple[list[float], list[float]] = ([], [])
        for control, beside in self._stream(joint):
            assert beside is not None
            drops, joints = self._drops(control, known[0]), self._drops(beside, known[1])
            if not len(drops):
                continue
            n = len(control.labels)
            whole = beside.part(slice(0, total)).drop(planned.metric) if n >= total else None
            look = look_at_factor(
                joints,
                drops,
                factor=factor,
                alpha=alpha,
                bound=1.0 if task.is_mean else None,
                joint_drop=whole,
            )
            task.progress(claim, n, look.joint_mean)
            if self._finished(n, decided=look.side is not None):
                break
        assert look is not None
        assert beside is not None
        passed = {"above": True, "below": False}.get(look.side or "")
        once = beside.part(slice(0, total))
        return Verdict(
            outcome=_outcome(passed),
            claim=claim,
            ratio=look.ratio,
            threshold=factor,
            passes="above",
            text_blocks=n,
            details={
                **task.details(once),
                "examples": n,
                "joint_drop": look.joint_mean,
                "control_drop": look.control_mean,
            },
            reason=(
                f"a drop of {look.joint_mean:.3g} against {look.control_mean:.3g} of the random "
                "control" + ("" if look.side else "; max_examples examples do not decide it")
            ),
        )

    @property
    def _counted(self) -> str:
        return f"{self._size} random dimension{'s' * (self._size > 1)}"

    def _stream(self, joint: "Ablation | None") -> Iterator[tuple[Paired, Paired | None]]:
        """Random draws, and a fixed ablation beside them: chunk by chunk, pass after pass."""
        task, measurement = self._task, self._task.measurement
        seen: dict[str, list[Floats]] = {"labels": [], "intact": [], "random": [], "joint": []}
        start, passes = 0, 0
        while True:
            for index in range(measurement.n_chunks):
                n = len(measurement.examples(index))
                draws = [(start + place) // self._per_draw for place in range(n)]
                start += n
                dims = tuple(self._dims(draw) for draw in draws)
                conditions: list[Condition] = [Intact(), PerBlock(dims=dims, like=self._like)]
                if joint is not None:
                    conditions.append(Fixed(ablation=joint))
                found = measurement.chunk(index, *conditions)
                done = index * len(measurement.examples(0))
                seen["labels"].append(task.labels[done : done + n])
                for name, outputs in zip(("intact", "random", "joint"), found, strict=False):
                    seen[name].append(task.answers(outputs))
                columns = {name: np.concatenate(parts) for name, parts in seen.items() if parts}
                known = {"labels": columns["labels"], "first": columns["intact"]}
                yield (
                    Paired(**known, second=columns["random"]),
                    None if joint is None else Paired(**known, second=columns["joint"]),
                )
            passes += 1

    def _dims(self, draw: int) -> tuple[int, ...]:
        return random_dims(
            self._candidates, self._size, seed=self._task.measurement.seed, draw=draw
        )

    def _drops(self, paired: Paired, known: list[float]) -> Floats:
        """Of each complete draw, shape (draws,); those that are new are added to ``known``."""
        if self._task.is_mean:
            return paired.drop_per_example()
        for draw in range(len(known), len(paired.labels) // self._per_draw):
            part = slice(draw * self._per_draw, (draw + 1) * self._per_draw)
            known.append(paired.part(part).drop(self._task.planned.metric))
        return np.array(known)

    def _finished(self, n: int, *, decided: bool) -> bool:
        settings = self._task.vetting.settings
        enough = n >= self._task.measurement.n_examples or not settings.exhaustive
        limit = settings.checks.random_ablation_keeps_task_score.max_examples
        return enough and (decided or n >= limit)

    def _largest(self, drops: Sequence[float] | Floats) -> list[dict[str, Any]]:
        """The draws with the largest drops; single examples show nothing."""
        if self._task.is_mean:
            return []
        order = np.argsort(-np.asarray(drops), kind="stable")[:5]
        return [{"dims": list(self._dims(int(d))), "drop": float(drops[int(d)])} for d in order]


def _same(paired: Paired) -> Paired:
    return Paired(labels=paired.labels, first=paired.first, second=paired.first)


def _verdict(
    claim: str,
    look: Look,
    threshold: float,
    *,
    passes: Side,
    details: Mapping[str, Any],
    alpha: float,
    examples: int | None = None,
    reason: str = "",
) -> Verdict:
    interval = look.interval
    if interval is not None and not all(map(math.isfinite, interval)):
        interval = None
    blind = {}
    if look.side == "below" and not look.exact:
        blind = {"blind_share": blind_share(look.text_blocks, alpha)}
    return Verdict(
        outcome=_outcome(None if look.side is None else look.side == passes),
        claim=claim,
        ratio=look.ratio,
        interval=interval,
        threshold=threshold,
        passes=passes,
        text_blocks=look.text_blocks if examples is None else examples,
        exact=look.exact,
        details={**details, **blind},
        reason=reason,
    )


def _outcome(passed: bool | None) -> Outcome:
    if passed is None:
        return "inconclusive"
    return "pass" if passed else "fail"
