"""What a candidate is held against: numbers of another checkpoint, measured now or saved."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from robustness.ablation.ablation import Ablation
from robustness.ablation.interventions import FixedAblation, Intact
from robustness.errors import BaselineError, UnsupportedSite
from robustness.measurement.measure import Measurement
from robustness.measurement.predictions import TaskMeasurement
from robustness.outliers.model_profile import ModelProfile
from robustness.outliers.outliers import Detection
from robustness.reference.baseline import CheckpointBaseline, Flagged
from robustness.scoring.scoring_plan import CHUNK_BLOCKS

if TYPE_CHECKING:
    from robustness.checkpoint.checkpoint import Checkpoint

Nats = NDArray[np.float64]
"""Nats per text block of a chunk, shape (n,)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference(ABC):
    """A reference on the text blocks of the candidate's corpus, in the same order.

    Attributes:
        label: what it is called.
        is_candidate: whether it is the candidate itself, so that nothing can differ.
        task: its answers to the candidate's task, if there is one.
        checkpoint: itself, unless there is only a saved profile.
    """

    label: str
    is_candidate: bool = False
    task: TaskMeasurement | None = None
    checkpoint: "Checkpoint | None" = None

    @property
    def is_saved(self) -> bool:
        """Whether there are only the numbers of a saved profile."""
        return False

    @property
    @abstractmethod
    def hidden_size(self) -> int:
        """Features of a hidden state."""

    @property
    @abstractmethod
    def outliers(self) -> tuple[Flagged, ...]:
        """The outlier dimensions, ascending."""

    @abstractmethod
    def nll_nats(self, index: int) -> Nats:
        """NLLs of a chunk's text blocks."""

    @abstractmethod
    def effect_nats(self, index: int, ablation: Ablation) -> Nats:
        """What an ablation adds to these."""

    def held(self, ablation: Ablation | None = None) -> int | None:  # noqa: ARG002
        """How many text blocks have numbers, intact or ablated; ``None``: all of the corpus.

        Raises:
            BaselineError: if there are none for this ablation.
        """
        return None


@dataclass(frozen=True, kw_only=True, eq=False)
class MeasuredReference(Reference):
    """A second checkpoint, measured where the store has no numbers of it."""

    measurement: Measurement | None
    profile: ModelProfile

    @property
    def hidden_size(self) -> int:
        return self.profile.hidden_size

    @property
    def outliers(self) -> tuple[Flagged, ...]:
        return flagged(self.profile.detection)

    def nll_nats(self, index: int) -> Nats:
        (intact,) = self._text.chunk(index, Intact())
        return intact.nll_nats

    def effect_nats(self, index: int, ablation: Ablation) -> Nats:
        intact, ablated = self._text.chunk(index, Intact(), FixedAblation(ablation=ablation))
        return np.asarray(ablated.nll_nats - intact.nll_nats)

    @property
    def _text(self) -> Measurement:
        if self.measurement is None:
            raise BaselineError(f"the reference {self.label} has no perplexity")
        return self.measurement

    def held(self, ablation: Ablation | None = None) -> int | None:
        if ablation is not None:
            try:
                self.profile.require(ablation)
            except UnsupportedSite as error:
                raise BaselineError(f"of the reference: {error}") from None
        return None


@dataclass(frozen=True, kw_only=True, eq=False)
class SavedReference(Reference):
    """A saved profile."""

    entry: CheckpointBaseline

    @property
    def is_saved(self) -> bool:
        return True

    @property
    def hidden_size(self) -> int:
        return self.entry.hidden_size

    @property
    def outliers(self) -> tuple[Flagged, ...]:
        return self.entry.outliers

    def nll_nats(self, index: int) -> Nats:
        return _chunk(self.entry.nll_nats, index)

    def effect_nats(self, index: int, ablation: Ablation) -> Nats:
        return _chunk(self.entry.delta_nll(self._named(ablation)), index)

    def held(self, ablation: Ablation | None = None) -> int | None:
        if ablation is None:
            return self.entry.held
        return len(self.entry.ablated(self._named(ablation)).nll_nats)

    def _named(self, ablation: Ablation) -> str:
        name = self.entry.name_of(ablation.to_dict())
        if name is None:
            raise BaselineError(
                "the saved profile holds no such ablation: name the checkpoint itself as the "
                "reference"
            )
        return name


def _chunk(values: Sequence[float] | Nats, index: int) -> Nats:
    start = index * CHUNK_BLOCKS
    return np.asarray(values[start : start + CHUNK_BLOCKS], dtype=np.float64)


def flagged(detection: Detection) -> tuple[Flagged, ...]:
    """The outlier dimensions as a profile holds them."""
    return tuple(
        Flagged(dim=outlier.dim, layers=tuple(outlier.layers)) for outlier in detection.outliers
    )
