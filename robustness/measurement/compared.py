"""A model beside another one: what is measured in the same pass as the intact model's NLLs.

A reference keeps its distributions; a candidate is compared with them.
"""

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robustness.ablation.interventions import Intact, Intervention
from robustness.errors import MeasurementError
from robustness.measurement.measure import FULL_PRECISION, ChunkNLL, Measurement, record_of
from robustness.runtime.devices import Dtype
from robustness.store.store import Record, Store, digest

if TYPE_CHECKING:
    from robustness.scoring.distributions import Distributions

DISTRIBUTIONS = 1
"""Version of what is kept of distributions, and of how they are compared."""


@dataclass(frozen=True, kw_only=True)
class ComparedChunk:
    """How a model differs from a reference on a chunk's text blocks.

    Attributes:
        changed: scored positions at which another token is the most probable, shape (n,).
        kl_nats: summed KL divergence from the reference's distributions in short, shape (n,).
        lost_nats: an estimate of what is lost of it with the rest of these, shape (n,).
        by_position: the divergence at every scored position, one text block after the other.
    """

    changed: NDArray[np.float64]
    kl_nats: NDArray[np.float64]
    lost_nats: NDArray[np.float64]
    by_position: NDArray[np.float64]


@dataclass(kw_only=True, eq=False, repr=False)
class _Beside(Measurement):
    """A measurement that has a second record of every chunk of the intact model in float32."""

    _store_beside: Store = field(init=False)

    def __post_init__(self) -> None:
        """Find the place of what is too large to stay in memory."""
        super().__post_init__()
        self._store_beside = self.context.store(self.store.context, in_memory=False)

    @abstractmethod
    def _measure_both(self, index: int) -> tuple[Record, Record]:
        """The record of the intact model, and the one beside it, from one pass."""

    @abstractmethod
    def _key_beside(self, index: int) -> dict[str, Any]:
        """The key of the second one."""

    def _measure_intact(self, index: int, dtype: Dtype) -> Record:
        if dtype != FULL_PRECISION:
            return super()._measure_intact(index, dtype)
        intact, beside = self._measure_both(index)
        self.checkpoint.require_unchanged()
        self._store_beside.write(self._key_beside(index), beside)
        return intact

    def _beside(self, index: int) -> Record:
        """The second record of a chunk, measured if there is none."""
        key, intact_key = self._key_beside(index), self._key(index, Intact())
        if (known := self._store_beside.read(key)) is not None:
            return known

        def measure(_: Intervention) -> Record:
            intact, beside = self._measure_both(index)
            if self.store.read(intact_key) is None:
                self.checkpoint.require_unchanged()
                self.store.write(intact_key, intact)
            return beside

        self._prepare(index)
        (record,) = self._obtained([Intact()], lambda _: key, measure, self._store_beside)
        return record


@dataclass(kw_only=True, eq=False, repr=False)
class ReferenceMeasurement(_Beside):
    """A model with which others are compared, so that its distributions are kept."""

    _last: "tuple[int, Distributions] | None" = field(default=None, init=False)

    def chunk(
        self, index: int, *interventions: Intervention, dtype: Dtype = FULL_PRECISION
    ) -> list[ChunkNLL]:
        """As of any model; what is wrong with it must not seem to be the candidate's."""
        try:
            return super().chunk(index, *interventions, dtype=dtype)
        except MeasurementError as error:
            raise MeasurementError(
                f"the reference {self.checkpoint.label} is broken itself: {error}"
            ) from None

    def distributions(self, index: int) -> "Distributions":
        """What the intact model finds probable at the scored positions of a chunk, in short."""
        from robustness.scoring.distributions import Distributions

        if self._last is None or self._last[0] != index:
            self.chunk(index, Intact())  # a model that predicts nothing is refused
            self._last = (index, Distributions.from_record(self._beside(index)))
        return self._last[1]

    def _key_beside(self, index: int) -> dict[str, Any]:
        return {**self._key(index, Intact()), "distributions": DISTRIBUTIONS}

    def _measure_both(self, index: int) -> tuple[Record, Record]:
        chunk = self.scoring_plan.chunk(index)
        nll, distributions, most = self._execution.with_distributions(chunk, index)
        return record_of(chunk, nll, most_tokens=most), distributions.to_record()


@dataclass(kw_only=True, eq=False, repr=False)
class ComparedMeasurement(_Beside):
    """A model that is compared with a reference wherever it is measured as it is."""

    reference: ReferenceMeasurement

    def compared(self, index: int) -> ComparedChunk:
        """How the model differs from its reference on one chunk."""
        record = self._beside(index)
        return ComparedChunk(**{name: np.array(values) for name, values in record.items()})

    def _prepare(self, index: int) -> None:
        super()._prepare(index)
        self.reference.distributions(index)

    def _key_beside(self, index: int) -> dict[str, Any]:
        other = digest(self.reference.store.context)
        return {**self._key(index, Intact()), "compared": DISTRIBUTIONS, "with": other}

    def _measure_both(self, index: int) -> tuple[Record, Record]:
        chunk, reference = self.scoring_plan.chunk(index), self.reference.distributions(index)
        by_row, most = self._execution.compared(chunk, reference)
        then = chunk.by_row(reference.most_probable)
        nll, changed, kl, lost = (
            chunk.summed([float(row[:, column].sum()) for row in rows])
            for column, rows in (
                (0, by_row),
                (1, [row != other[:, None] for row, other in zip(by_row, then, strict=True)]),
                (2, by_row),
                (3, by_row),
            )
        )
        beside = {
            "changed": changed.tolist(),
            "kl_nats": kl.tolist(),
            "lost_nats": lost.tolist(),
            "by_position": [float(f"{value:.6g}") for row in by_row for value in row[:, 2]],
        }
        return record_of(chunk, nll, most_tokens=most), beside
