"""What all claims on a task share: paired answers, and the verdict that a look becomes."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from robustness.ablation.interventions import Intact, Intervention
from robustness.statistics.history import Step, course, step
from robustness.statistics.sequential import blind_share
from robustness.statistics.verdict import Decision, Outcome, Side, Verdict
from robustness.tasks.decisions import Paired

if TYPE_CHECKING:
    from robustness.checks.tasks.task import Task
    from robustness.tasks.metrics import Floats


class OnTask:
    """A model on its task, to be asked for verdicts."""

    questions = ""

    def __init__(self, task: "Task") -> None:
        self._task = task

    def __bool__(self) -> NoReturn:
        raise TypeError(f"{self!r} is no verdict: ask it {self.questions}")

    def _pairs(self, intervention: Intervention | None) -> Iterator[Paired]:
        """Answers of the intact model and under a intervention, one item per chunk of examples."""
        task = self._task
        first: list[Floats] = []
        second: list[Floats] = []
        for index in range(task.measurement.n_chunks):
            interventions = [Intact(), *([] if intervention is None else [intervention])]
            found = task.measurement.chunk(index, *interventions)
            first.append(task.answers(found[0]))
            second.append(task.answers(found[-1]))
            intact = np.concatenate(first)
            yield Paired(
                labels=task.labels[: len(intact)], first=intact, second=np.concatenate(second)
            )

    def _looked_at(
        self,
        statement: str,
        growing: Iterable[Paired],
        look_at: Callable[[Paired], Decision | None],
    ) -> tuple[Decision, Paired, list[Step]]:
        """Decision at more and more examples until that decides: the last look, at what, and all.

        Args:
            statement: shown with the progress.
            growing: answers side by side, one chunk of examples more in each.
            look_at: says what they tell; ``None`` where that is nothing yet.
        """
        task = self._task
        look, steps = None, []
        for paired in growing:
            n = len(paired.labels)
            look = look_at(paired)
            if look is None:
                task.progress(statement, n, paired.drop(task.planned.metric))
                continue
            task.progress(statement, n, look.ratio, interval=finite_interval(look))
            steps.append(look_step(look, examples=n))
            if look.side and (look.exact or not task.vetting.settings.exhaustive):
                break
        assert look is not None
        return look, paired, steps


def finite_interval(look: Decision) -> tuple[float, float] | None:
    """Of a look, or ``None`` where it excludes nothing yet or is exact."""
    interval = look.interval
    return interval if interval is not None and all(map(math.isfinite, interval)) else None


def look_step(look: Decision, *, examples: int, draws: int | None = None) -> Step:
    """One look for the course of a decision.

    Args:
        look: at everything seen so far.
        examples: how many that is, over all passes.
        draws: random draws among them, where they are what is compared.
    """
    found = step(replace(look, interval=finite_interval(look)), text_blocks=examples)
    return found if draws is None else {**found, "draws": draws}


def verdict(
    statement: str,
    look: Decision,
    threshold: float,
    *,
    passes: Side,
    details: Mapping[str, Any],
    alpha: float,
    steps: Sequence[Step],
    examples: int | None = None,
    reason: str = "",
) -> Verdict:
    """What the last look says of a statement.

    Args:
        statement: the sentence that is true if it passes.
        look: the last one.
        threshold: that the drop was compared with.
        passes: on which side.
        details: further numbers.
        alpha: error probability.
        steps: the looks that led to it.
        examples: seen over all passes; by default the look's own.
        reason: why it came to this, where the numbers do not say it.
    """
    blind = {}
    if look.side == "below" and not look.exact:
        blind = {"blind_share": blind_share(look.text_blocks, alpha)}
    return Verdict(
        outcome=outcome(None if look.side is None else look.side == passes),
        statement=statement,
        ratio=look.ratio,
        interval=finite_interval(look),
        threshold=threshold,
        passes=passes,
        text_blocks=look.text_blocks if examples is None else examples,
        exact=look.exact,
        details={**details, **blind},
        reason=reason,
        course=course(steps),
    )


def outcome(passed: bool | None) -> Outcome:
    """Of a side that was or was not reached."""
    if passed is None:
        return "inconclusive"
    return "pass" if passed else "fail"
