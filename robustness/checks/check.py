"""What a check is: one object from which policy, plan, estimate and reports take what they say.

A *check* is what is asked of every checkpoint; a *planned check* is one that a run will decide, of
one checkpoint and about certain dimensions.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Generic, Literal, TypeAlias, TypeVar, cast

from robustness.checks.limits import Limits, Terms
from robustness.checks.planned import PlannedCheck
from robustness.checks.subject import Subject
from robustness.outliers.model_profile import ModelProfile
from robustness.reference.reference import Reference
from robustness.statistics.verdict import Verdict

NO_OUTLIERS = "no outlier dimensions were found"

DRAWS_FOR_MEDIAN, DRAWS_FOR_FACTOR = 64, 128
"""Random draws before the first decision (STATISTICS.md)."""

Role: TypeAlias = Literal["presence", "alone", "joint", "control", "factor"]
"""A part that a check plays in what reports tell of a checkpoint: that there are outlier
dimensions, what one of them does, what all do together, what random ones do, and how the last two
compare."""

Source: TypeAlias = Literal["files", "text", "task", "reference"]
"""What a check rests on: the files alone, text blocks of the corpus, examples of the task, or a
reference beside the checkpoint."""


L = TypeVar("L", bound=Limits)


@dataclass(frozen=True, kw_only=True)
class PlanContext:
    """What decides which checks a checkpoint gets.

    Attributes:
        terms: of the policy.
        model_profile: what was found in the checkpoint.
        language_model: whether it has a perplexity.
        task: whether it has a downstream task.
        reference: what it is compared with.
    """

    terms: Terms
    model_profile: ModelProfile
    language_model: bool = True
    task: bool = False
    reference: Reference | None = None

    @property
    def dims(self) -> tuple[int, ...]:
        """The outlier dimensions."""
        return self.model_profile.detection.dims


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a planned check measures beside the intact model.

    Attributes:
        ablations: sets of dimensions that are ablated; several checks may share one.
        draws: random draws before the first decision.
        passes: further passes of its own.
        recorded: text blocks or examples that are measured in any case.
    """

    ablations: tuple[tuple[int, ...], ...] = ()
    draws: int = 0
    passes: int = 0
    recorded: int = 0


class Check(ABC, Generic[L]):
    """What is asked of a checkpoint.

    Attributes:
        name: in policies and reports; the suite's function is ``test_`` and this.
        limits: its table in the policy.
        title: what reports call it in a sentence.
        source: what it rests on.
        role: its part in what reports tell of a checkpoint.
        random: whether its dimensions are random ones, of which only the number is said.
        by_dimension: whether a checkpoint's checks of this kind differ by dimension.
        is_claim: whether it asks for what the paper found, which a candidate that is compared with
            a reference need not show.
        is_sanity: whether nothing that is measured means anything where it fails.
        needs_outliers: whether there is nothing to ask where there are no outlier dimensions.
        in_baseline: whether a baseline holds what its ablation does.
    """

    name: ClassVar[str]
    limits: type[L]
    title: ClassVar[str]
    source: ClassVar[Source] = "text"
    role: ClassVar[Role | None] = None
    random: ClassVar[bool] = False
    by_dimension: ClassVar[bool] = False
    is_claim: ClassVar[bool] = False
    is_sanity: ClassVar[bool] = False
    needs_outliers: ClassVar[bool] = True
    in_baseline: ClassVar[bool] = False

    @property
    def test(self) -> str:
        """The suite's function."""
        return f"test_{self.name}"

    def limits_in(self, terms: Terms) -> L:
        """Its limits in a policy."""
        return cast("L", terms.limits[self.name])

    def planned(self, context: PlanContext) -> tuple[PlannedCheck, ...]:
        """What a checkpoint gets of it.

        A check that the outlier dimensions found leave nothing to ask for is in the plan, too,
        marked as not applicable: nothing passes because nothing was found.
        """
        limits, regression = self.limits_in(context.terms), context.terms.regression
        asked = limits.enabled and (
            not (regression and self.is_claim) or "enabled" in limits.model_fields_set
        )
        if not asked or not self.applies(context):
            return ()
        if self.needs_outliers and not context.dims:
            why = context.model_profile.detection.not_finite or NO_OUTLIERS
            return (self.not_applicable(why, "no-outliers"),)
        return tuple(self.cases(context))

    def applies(self, context: PlanContext) -> bool:
        """Whether the checkpoint has what the check rests on."""
        has = {
            "files": True,
            "text": context.language_model,
            "task": context.task,
            "reference": context.reference is not None and context.language_model,
        }
        return has[self.source]

    def cases(self, context: PlanContext) -> Iterable[PlannedCheck]:
        """What is asked of a checkpoint that has what the check needs: one about all dimensions."""
        yield self.case(context.dims, joint_suffix(context.dims))

    @abstractmethod
    def decide(self, planned: PlannedCheck, subject: Subject, *, alpha: float) -> Verdict:
        """Decide a planned check of this kind, at an error probability if it is statistical."""

    def cost(self, planned: PlannedCheck) -> Cost:
        """What a planned check measures: its outlier dimensions ablated, if it is about any."""
        return Cost(ablations=(planned.dims,)) if self.needs_outliers else Cost()

    def row(self, dims: Sequence[int]) -> str | None:
        """Its row among the degradations that a report draws; ``None`` where it measures none."""
        return None

    def finding(self, verdict: Verdict) -> str | None:
        """What a verdict found in a phrase that needs no table; ``None`` where that says more."""
        return None

    def case(
        self, dims: tuple[int, ...] = (), suffix: str = "", *, comparisons: int = 1
    ) -> PlannedCheck:
        """One planned check."""
        return PlannedCheck(check=self.name, dims=dims, suffix=suffix, comparisons=comparisons)

    def not_applicable(
        self, why: str, suffix: str = "", dims: tuple[int, ...] = ()
    ) -> PlannedCheck:
        """One that there is nothing to ask for."""
        planned = self.case(dims, suffix, comparisons=0)
        return replace(planned, not_applicable=why)


def joint_suffix(dims: Sequence[int]) -> str:
    """The part of a test's id for all of these dimensions: ``dim308``, ``dims308+381``."""
    if len(dims) == 1:
        return f"dim{dims[0]}"
    return f"dims{'+'.join(map(str, dims))}" if len(dims) <= 4 else f"{len(dims)}dims"


class FactorCheck(Check[L]):
    """The joint effect against that of random dimensions: only the paper's findings ask for it."""

    role, is_claim = "factor", True

    def cost(self, planned: PlannedCheck) -> Cost:
        return Cost(ablations=(planned.dims,), draws=DRAWS_FOR_FACTOR)

    def cases(self, context: PlanContext) -> Iterable[PlannedCheck]:
        """One about all dimensions, unless the model is to have no outliers."""
        suffix = joint_suffix(context.dims)
        if not context.terms.hardened:
            yield self.case(context.dims, suffix)
        else:
            why = "expectation hardened does not ask for it"
            yield self.not_applicable(why, suffix, context.dims)


class ControlCheck(Check[L]):
    """A check of as many random dimensions."""

    role, random, is_claim = "control", True, True

    def cost(self, planned: PlannedCheck) -> Cost:
        return Cost(draws=DRAWS_FOR_MEDIAN)

    def cases(self, context: PlanContext) -> Iterable[PlannedCheck]:
        """One; its id says how many dimensions a draw has."""
        yield self.case(context.dims, f"{len(context.dims)}random")
