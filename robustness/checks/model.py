"""A model in some state, to be asked for verdicts."""

from typing import ClassVar, NoReturn

from robustness.ablation.ablation import Ablation
from robustness.checks.subject import Subject
from robustness.outliers.outlier_dimensions import named


class Model:
    """Something that is asked for verdicts, and is none itself."""

    questions: ClassVar[str]

    def __init__(self, subject: Subject) -> None:
        self.subject = subject

    def __bool__(self) -> NoReturn:
        raise TypeError(f"{self!r} is no verdict: ask it {self.questions}")


def where(ablation: Ablation) -> str:
    """The ablated dimensions, and where that is not everywhere, where: ``dimension 308``."""
    return f"{named(ablation.dims)}{ablation.where}"


def random_dimensions(size: int) -> str:
    """``2 random dimensions``."""
    return f"{size} random dimension{'s' * (size > 1)}"
