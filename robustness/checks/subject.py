"""A checkpoint as its checks see it, and models in some state, which are asked for verdicts."""

from typing import Any, ClassVar, NoReturn, Protocol, TypedDict, TypeVar, Unpack

import numpy as np

from robustness.ablation.ablation import Ablation, Place
from robustness.checkpoint.checkpoint import Checkpoint
from robustness.checks.limits import Terms
from robustness.corpus.text_size import normalised_perplexity
from robustness.measurement.measure import Measurement
from robustness.measurement.planned_task import PlannedTask
from robustness.measurement.predictions import TaskMeasurement
from robustness.outliers.model_profile import ModelProfile
from robustness.outliers.outlier_dimensions import OutlierDimensions, named
from robustness.reference.reference import Reference
from robustness.scoring.quantity import Quantity
from robustness.statistics.decisions import Decision, Side
from robustness.statistics.details import Details
from robustness.statistics.figures import IntactFigures, TextFigures
from robustness.statistics.loop import Decided, Evidence, Grow, Statistic, Watch, decided
from robustness.statistics.sequential import blind_share
from robustness.statistics.verdict import Unit, Verdict, verdict_of
from robustness.store.context import Context

D = TypeVar("D", bound=Decision)


class Level(TypedDict, total=False):
    """How sure a verdict has to be: by its own error probability, or by its confidence."""

    confidence: float | None
    alpha: float | None


class Subject(Protocol):
    """What is asked of a checkpoint rests on this; :class:`robustness.vetting.Vetting` is one."""

    checkpoint: Checkpoint
    context: Context

    @property
    def terms(self) -> Terms:
        """What the policy says of how checks are decided."""

    @property
    def model_profile(self) -> ModelProfile:
        """Anatomy and outlier dimensions."""

    @property
    def quantity(self) -> Quantity:
        """What is measured: perplexity, or a discriminator's loss."""

    @property
    def measurement(self) -> Measurement:
        """Measured numbers, per chunk of text blocks."""

    @property
    def planned_task(self) -> PlannedTask:
        """The downstream task."""

    @property
    def task_measurement(self) -> TaskMeasurement:
        """Predictions, per chunk of examples."""

    @property
    def reference_numbers(self) -> Reference:
        """What the checkpoint is compared with."""

    def outliers(self) -> OutlierDimensions:
        """The outlier dimensions."""

    def non_finite_tensors(self) -> tuple[str, ...]:
        """Names of the checkpoint's tensors that hold NaN or infinity."""

    def ablation(self, dims: tuple[int, ...], **place: Unpack[Place]) -> Ablation:
        """An ablation that the model knows, the policy's where nothing else is said."""

    def alpha(self, confidence: float | None = None, alpha: float | None = None) -> float:
        """Error probability of one verdict."""

    def watch(self, statement: str, unit: Unit = "text blocks") -> Watch:
        """Tells whoever waits how far a decision has come."""


class Model:
    """Something that is asked for verdicts, and is none itself; it measures one kind of unit."""

    questions: ClassVar[str]
    unit: ClassVar[Unit] = "text blocks"

    def __init__(self, subject: Subject) -> None:
        self.subject = subject

    def __bool__(self) -> NoReturn:
        raise TypeError(f"{self!r} is no verdict: ask it {self.questions}")

    def decided(self, statement: str, statistic: Statistic[D], grow: Grow) -> Decided[D]:
        """What growing evidence says, told to whoever waits for the statement."""
        return decided(
            statistic,
            grow,
            exhaustive=self.subject.terms.exhaustive,
            watch=self.subject.watch(statement, self.unit),
        )

    def verdict(
        self,
        end: Decided[D],
        statement: str,
        *,
        passes: Side | None,
        alpha: float | None = None,
        details: dict[str, Any] | None = None,
        **fields: Any,
    ) -> Verdict:
        """The verdict that the last decision amounts to.

        It ``passes`` on one side of the threshold, if there is one. With ``alpha`` it says which
        share of the units may suffer unseen; ``details`` are those that not every verdict has.
        """
        evidence, tokens = end.evidence, 0
        parts = dict(details or {})
        if alpha is not None and end.decision.side == "below" and not end.decision.exact:
            parts["blind_share"] = blind_share(end.decision.seen, alpha)
        if self.unit == "text blocks":
            parts["intact"] = intact_figures(self.subject, evidence)
            parts["precision"] = evidence.precision
            tokens = int(evidence["tokens"].sum())
        more = {"seen": evidence.seen, "tokens": tokens, "history": end.history, "unit": self.unit}
        details_of_all = Details(**parts)
        return verdict_of(
            end.decision, statement, passes=passes, details=details_of_all, **more, **fields
        )


def intact_figures(subject: Subject, evidence: Evidence) -> IntactFigures:
    """What is said of the intact model: a perplexity only where the measured quantity is one."""
    loss, seen = evidence.mean_nll_nats, slice(0, evidence.once.seen)
    plan, is_perplexity = subject.measurement.scoring_plan, subject.quantity.is_perplexity
    text = None
    if is_perplexity and (sizes := plan.sizes) is not None:
        of_seen = {name: int(column[seen].sum()) for name, column in vars(sizes).items()}
        text = TextFigures.model_validate(normalised_perplexity(loss, **of_seen))
    return IntactFigures(
        perplexity=float(np.exp(loss)) if is_perplexity else None,
        nats_per_token=loss,
        chance_nats_per_token=plan.chance_nats,
        text=text,
        text_blocks=seen.stop,
        tokens=int(evidence["tokens"][seen].sum()),
    )


def where(ablation: Ablation) -> str:
    """The ablated dimensions, and where that is not everywhere, where: ``dimension 308``."""
    return f"{named(ablation.dims)}{ablation.where}"


def random_dimensions(size: int) -> str:
    """``2 random dimensions``."""
    return f"{size} random dimension{'s' * (size > 1)}"
