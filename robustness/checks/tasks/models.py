"""A checkpoint on its downstream task, as users hold it."""

from collections.abc import Iterable
from operator import index
from typing import Any, SupportsIndex

from robustness.checks.subject import Subject
from robustness.checks.tasks.ablated import AblatedOnTask
from robustness.checks.tasks.control import RandomlyAblatedOnTask
from robustness.checks.tasks.intact import IntactOnTask
from robustness.checks.tasks.task import Task


class TaskModels:
    """See :attr:`robustness.vetting.Vetting.task`.

    Attributes:
        task: what the models answer.
    """

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.task = Task(subject)

    def intact(self) -> IntactOnTask:
        """The model as it is."""
        return IntactOnTask(self.task)

    def ablate(self, dims: SupportsIndex | Iterable[int], **place: Any) -> AblatedOnTask:
        """The model without these dimensions, to be asked for verdicts.

        Args:
            dims: indices in the hidden vector.
            **place: site, mode and layers, as in :meth:`robustness.vetting.Vetting.ablate`.
        """
        chosen = tuple(dims) if isinstance(dims, Iterable) else (index(dims),)
        return AblatedOnTask(self.task, self.subject.ablation(chosen, **place))

    def ablate_random(self, size: int, **place: Any) -> RandomlyAblatedOnTask:
        """The model without ``size`` random non-outlier dimensions, drawn anew all the time."""
        return RandomlyAblatedOnTask(self.task, size, self.subject.ablation((0,), **place))
