"""A checkpoint as its checks see it."""

from collections.abc import Iterable
from typing import Protocol

from robustness.ablation.ablation import Ablation
from robustness.checkpoint.checkpoint import Checkpoint
from robustness.checks.limits import Terms
from robustness.measurement.measure import Measurement
from robustness.measurement.planned_task import PlannedTask
from robustness.measurement.predictions import TaskMeasurement
from robustness.outliers.model_profile import ModelProfile
from robustness.outliers.outlier_dimensions import OutlierDimensions
from robustness.reference.baseline import CheckpointBaseline
from robustness.scoring.quantity import Quantity
from robustness.statistics.loop import Watch
from robustness.statistics.verdict import Unit


class Subject(Protocol):
    """What is asked of a checkpoint rests on this; :class:`robustness.vetting.Vetting` is one."""

    checkpoint: Checkpoint

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
    def baseline_entry(self) -> CheckpointBaseline:
        """What the checkpoint is compared with."""

    def outliers(self) -> OutlierDimensions:
        """The outlier dimensions."""

    def non_finite_tensors(self) -> tuple[str, ...]:
        """Names of the checkpoint's tensors that hold NaN or infinity."""

    def ablation(
        self,
        dims: tuple[int, ...],
        *,
        site: str | None = None,
        mode: str | None = None,
        layers: Iterable[int] | None = None,
    ) -> Ablation:
        """An ablation that the model knows, the policy's where nothing else is said."""

    def alpha(self, confidence: float | None, alpha: float | None) -> float:
        """Error probability of one verdict."""

    def watch(self, statement: str, unit: Unit = "text blocks") -> Watch:
        """Tells whoever waits how far a decision has come."""
