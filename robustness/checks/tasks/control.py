"""What can be claimed of a model without random dimensions on its task: the control."""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from robustness.ablation.interventions import FixedAblation, Intact, Intervention, PerBlockAblation
from robustness.checks.tasks.claim import OnTask, finite_interval, look_step, outcome, verdict
from robustness.outliers.outlier_dimensions import named
from robustness.scoring.sampling import random_candidates, random_dims
from robustness.statistics.history import course, step
from robustness.statistics.verdict import Verdict
from robustness.tasks.decisions import (
    FIRST_LOOK_AT_DRAWS,
    Paired,
    decide_factor,
    decide_mean,
    decide_median_drop,
    draws_for_factor,
)
from robustness.tasks.metrics import Floats

if TYPE_CHECKING:
    from robustness.ablation.ablation import Ablation
    from robustness.checks.tasks.task import Task

EXAMPLES_PER_DRAW = 32
"""Examples that a random draw stays for, where single examples have no score."""


FIRST_ESTIMATE = 1024
"""Examples after which, and whenever their number has doubled, it is asked whether two drops can be
told apart within the examples that are allowed."""

_MOST = "checks.random_ablation_keeps_task_score.max_examples"

_OPTIMISM = 2.0
"""Standard errors by which the two may lie farther apart than they were seen to."""


class RandomlyAblatedOnTask(OnTask):
    """A model without random dimensions, on its task.

    Where the score is a mean, every example has a draw of its own and the mean drop is decided on.
    Where it is not, a draw stays for 32 examples, whose score it lowers, and the median draw is.
    """

    questions = ".score_holds(within=…)"

    def __init__(self, task: "Task", size: int, like: "Ablation") -> None:
        super().__init__(task)
        vetting = task.vetting
        self._candidates = random_candidates(
            vetting.outliers().dims, hidden_size=vetting.model_profile.hidden_size, size=size
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
        statement = (
            f"ablating {self._counted}{self._like.where} lowers the {planned.metric} on "
            f"{planned.name} by less than {within:g} {how}"
        )
        look, steps = None, []
        known: list[float] = []
        for control, _ in self._stream(None):
            drops = self._drops(control, known)
            if not len(drops):
                continue
            if task.is_mean:
                minimum = FIRST_LOOK_AT_DRAWS
                look = decide_mean(
                    drops, threshold=within, alpha=level, minimum=minimum, exhausted=False
                )
            else:
                look = decide_median_drop(drops, threshold=within, alpha=level)
            n = len(control.labels)
            interval = finite_interval(look)
            task.progress(statement, n, look.ratio, interval=interval, most=self._most)
            steps.append(look_step(look, examples=n, draws=None if task.is_mean else len(drops)))
            if self._finished(n, decided=look.side is not None):
                break
        assert look is not None
        once = control.part(slice(0, task.measurement.n_examples))
        return verdict(
            statement,
            look,
            within,
            passes="below",
            details={
                **task.details(once),
                "examples": n,
                "task_draws": len(drops),
                "mean_drop": float(np.mean(drops)),
                "largest_drops": self._largest(drops),
            },
            alpha=level,
            steps=steps,
            examples=n,
            reason="" if look.side else f"{self._most:,} examples do not decide it: raise {_MOST}",
        )

    def decide_factor(self, joint: "Ablation", factor: float, alpha: float) -> Verdict:
        """Whether the joint drop is positive and at least ``factor`` times the mean control's."""
        task, planned = self._task, self._task.planned
        statement = (
            f"ablating {named(joint.dims)}{joint.where} lowers the {planned.metric} on "
            f"{planned.name} at least {factor:g} times as much as ablating {self._counted}"
        )
        total = task.measurement.n_examples
        look, steps = None, []
        bound = 1.0 if task.is_mean else None
        due, needed = FIRST_ESTIMATE, math.inf
        options: dict[str, Any]
        known: tuple[list[float], list[float]] = ([], [])
        for control, beside in self._stream(joint):
            assert beside is not None
            drops, joints = self._drops(control, known[0]), self._drops(beside, known[1])
            if not len(drops):
                continue
            n = len(control.labels)
            whole = beside.part(slice(0, total)).drop(planned.metric) if n >= total else None
            options = {"factor": factor, "alpha": alpha, "bound": bound, "joint_drop": whole}
            look = decide_factor(joints, drops, **options)
            task.progress(statement, n, look.joint_mean, look.control_mean, most=self._most)
            steps.append(step(look, text_blocks=n))
            hopeless = False
            enough = len(drops) >= FIRST_LOOK_AT_DRAWS
            if look.side is None and enough and (n >= due or n >= self._most):
                due *= 2
                best = draws_for_factor(joints, drops, **options, optimism=_OPTIMISM)
                needed = draws_for_factor(joints, drops, **options) * self._per_draw
                hopeless = best * self._per_draw > self._most
            if self._finished(n, decided=look.side is not None or hopeless):
                break
        assert look is not None
        assert beside is not None
        passed = {"above": True, "below": False}.get(look.side or "")
        once = beside.part(slice(0, total))
        return Verdict(
            outcome=outcome(passed),
            statement=statement,
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
            course=course(steps),
            reason=(
                f"a drop of {look.joint_mean:.3g} against {look.control_mean:.3g} of the random "
                "control" + ("" if look.side else f"; {self._undecided(needed)}")
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
                interventions: list[Intervention] = [
                    Intact(),
                    PerBlockAblation(dims=dims, template=self._like),
                ]
                if joint is not None:
                    interventions.append(FixedAblation(ablation=joint))
                found = measurement.chunk(index, *interventions)
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

    def _finished(self, n: int, *, decided: bool) -> bool:
        settings = self._task.vetting.settings
        enough = n >= self._task.measurement.n_examples or not settings.exhaustive
        return enough and (decided or n >= self._most)

    @property
    def _most(self) -> int:
        """Examples after which a control ends whatever was found."""
        return self._task.vetting.settings.checks.random_ablation_keeps_task_score.max_examples

    def _largest(self, drops: Sequence[float] | Floats) -> list[dict[str, Any]]:
        """The draws with the largest drops; single examples show nothing."""
        if self._task.is_mean:
            return []
        order = np.argsort(-np.asarray(drops), kind="stable")[:5]
        return [{"dims": list(self._dims(int(d))), "drop": float(drops[int(d)])} for d in order]
