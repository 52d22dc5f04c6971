"""What a check is: one object from which the policy, plans, estimates and reports take what they say.

A *check* is what is asked of every checkpoint; a *planned check* is one that a run will decide, of
one checkpoint and for certain dimensions.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias

from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from robustness.outliers.rules.settings import StrictTable

Role: TypeAlias = Literal["presence", "alone", "joint", "control", "factor"]
"""A part that a check plays in what reports tell of a checkpoint: that there are outlier dimensions,
what one of them does, what all do together, what random ones do, and how the last two compare."""

Source: TypeAlias = Literal["files", "text", "task", "baseline"]
"""What a check rests on: the files alone, text blocks of the corpus, examples of the task, or text
blocks of the corpus beside those of a baseline."""


def _day(value: Any) -> Any:
    """TOML's date, or its ISO text, in which plans travel."""
    if isinstance(value, str):
        with suppress(ValueError):
            return date.fromisoformat(value)
    return value


Day = Annotated[date, BeforeValidator(_day), PlainSerializer(date.isoformat)]
Ratio = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _ratio_or_record(value: object) -> object:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf:
        return value
    if value == "record":
        return value
    raise ValueError("must be 'record' or a number greater than 0")


# Validated beforehand: of a choice between types, pydantic explains every one that is not given.
RatioOrRecord = Annotated[Literal["record"] | float, BeforeValidator(_ratio_or_record)]


class Limits(StrictTable):
    """What every check has in a policy."""

    enabled: bool = Field(default=True, description="whether the check runs")
    expected: Literal["fail"] | None = Field(
        default=None, description="'fail': the check may fail, for a reason, until a date"
    )
    reason: str | None = Field(
        default=None, min_length=1, max_length=500, description="why it is expected to fail"
    )
    expires: Day | None = Field(default=None, description="last day on which it may, a date")

    @model_validator(mode="after")
    def _expectation_is_whole(self) -> Self:
        parts = (self.expected, self.reason, self.expires)
        if any(part is None for part in parts) and any(part is not None for part in parts):
            raise ValueError(
                'expected = "fail" needs a reason and a date on which it expires '
                "(expires = 2030-01-31), and they need it"
            )
        return self


class Check(ABC):
    """What is asked of a checkpoint.

    Attributes:
        name: in policies and reports; the suite's function is ``test_`` and this.
        limits: its table in the policy.
        title: what reports call it in a sentence.
        source: what it rests on.
        role: its part in what reports tell of a checkpoint.
        random: whether its dimensions are random ones, of which only the number is said.
        by_dimension: whether a checkpoint's checks of this kind differ by dimension.
    """

    name: ClassVar[str]
    limits: ClassVar[type[Limits]]
    title: ClassVar[str]
    source: ClassVar[Source] = "text"
    role: ClassVar[Role | None] = None
    random: ClassVar[bool] = False
    by_dimension: ClassVar[bool] = False

    def row(self, dims: Sequence[int]) -> str | None:
        """Its row among the degradations that a report draws; ``None`` where it measures none."""
        return None
