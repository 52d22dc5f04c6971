"""What a policy may say of a check: limits, strictly validated."""

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from robustness.store.documents import StrictTable


def _day(value: Any) -> Any:
    """TOML's date, or its ISO text, in which plans travel."""
    if isinstance(value, str):
        with suppress(ValueError):
            return date.fromisoformat(value)
    return value


Day = Annotated[date, BeforeValidator(_day), PlainSerializer(date.isoformat)]
Ratio = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Tolerance = Annotated[float, Field(gt=1, allow_inf_nan=False)]
Drop = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def _or_record(least: float, words: str) -> BeforeValidator:
    """A number from ``least`` on, or the word ``record``.

    Validated beforehand: of a choice between types, pydantic explains every one that is not given.
    """

    def validated(value: object) -> object:
        if isinstance(value, int | float) and not isinstance(value, bool) and value < math.inf:
            if value > least or (value == least and "not negative" in words):
                return value
        elif value == "record":
            return value
        raise ValueError(f"must be 'record' or a number {words}")

    return BeforeValidator(validated)


RatioOrRecord = Annotated[Literal["record"] | float, _or_record(0, "greater than 0")]
DropOrRecord = Annotated[Literal["record"] | float, _or_record(0, "that is not negative")]


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


class OptInLimits(Limits):
    """What a check has that only runs where it is asked for."""

    enabled: bool = Field(default=False, description="whether the check runs")


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What a policy says of how a checkpoint's checks are decided.

    Attributes:
        expectation: ``paper``, ``hardened`` or ``regression``.
        change: what was done to a candidate that is compared with a reference: a ``conversion``
            keeps the model, ``training`` makes another one on purpose.
        exhaustive: whether everything is measured before a decision.
        seed: of the random draws.
        site: where dimensions are ablated.
        limits: of every check, by its name.
    """

    expectation: str
    change: str
    exhaustive: bool
    seed: int
    site: str
    limits: Mapping[str, Limits]

    @property
    def hardened(self) -> bool:
        """Whether the model is to have no outlier dimensions that matter."""
        return self.expectation == "hardened"

    @property
    def regression(self) -> bool:
        """Whether only a reference and sanity decide."""
        return self.expectation == "regression"
