"""What measuring text and measuring tasks share: records in the store, each made once."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from robustness.ablation.ablation import MEAN_BLOCKS, Ablation
from robustness.ablation.interventions import (
    Intact,
    Intervention,
    Quantized,
    needs_means,
    stored_means,
)
from robustness.errors import MeasurementError
from robustness.store.context import Context
from robustness.store.store import Record, Store, canonical_json, digest

if TYPE_CHECKING:
    from robustness.ablation.edits import Sum
    from robustness.ablation.hooks import Means
    from robustness.checkpoint.checkpoint import Checkpoint
    from robustness.measurement.loaded_model import LoadedModel, Row

Key = Mapping[str, Any]


@dataclass(kw_only=True, eq=False, repr=False)
class StoredMeasurement(ABC):
    """A checkpoint under interventions, chunk by chunk of text blocks or examples.

    The model and its libraries are loaded when the first number is missing from the store, and not
    before.

    Attributes:
        checkpoint: what is measured.
        anatomy_record: where it can be ablated, in plain JSON types.
        seed: decides the order of measurement.
        device: ``cpu``, ``cuda[:n]`` or ``mps``.
        context: the run's store and threads.
    """

    chunk_key: ClassVar[str]
    """The name of a chunk's number in the keys of its records."""

    means_key: ClassVar[str]
    """The name, in the key of mean features, of how much they are the means of."""

    checkpoint: "Checkpoint"
    anatomy_record: Mapping[str, Any]
    seed: int
    device: str
    context: Context
    store: Store = field(init=False)

    @property
    @abstractmethod
    def _execution(self) -> "LoadedModel[Any]":
        """What runs."""

    @abstractmethod
    def _first_rows(self, number: int) -> "Sequence[Row]":
        """What the model reads of the first text blocks or examples."""

    @cached_property
    def _sites(self) -> str:
        """Identifies the places that an ablation acts on: tracing may find others one day."""
        return digest(dict(self.anatomy_record))

    def _key(self, index: int, intervention: Intervention) -> dict[str, Any]:
        """The key of a chunk's record."""
        return {self.chunk_key: index, "id": self._id(intervention)}

    def _id(self, intervention: Intervention) -> str:
        identity = intervention.key()
        return canonical_json(identity if identity is None else {**identity, "sites": self._sites})

    def _obtained(
        self,
        interventions: Sequence[Intervention],
        key_of: Callable[[Intervention], Key],
        measure: Callable[[Intervention], Record],
        store: Store | None = None,
    ) -> list[Record]:
        """The record under each intervention, made by the first process that asks for it."""
        where, keys = store or self.store, [key_of(each) for each in interventions]
        for key, intervention in zip(keys, interventions, strict=True):
            if where.read(key) is None:  # before anything is locked: nobody waits holding a lock
                self._means(intervention)
        by_key = dict(zip(map(canonical_json, keys), interventions, strict=True))

        def measured(key: Key) -> Record:
            record = measure(by_key[canonical_json(key)])
            self.checkpoint.require_unchanged()
            return record

        return where.obtain(keys, measured)

    def _means(self, intervention: Intervention) -> "Means | None":
        """The intact model's mean features where an intervention puts them, if it does."""
        return stored_means(
            self.store,
            needs_means(intervention),
            identity={self.means_key: MEAN_BLOCKS, "sites": self._sites},
            sums=self._feature_sums,
        )

    def _feature_sums(self, ablation: Ablation) -> "Mapping[int, Sum]":
        sums = self._execution.feature_sums(self._first_rows(MEAN_BLOCKS), ablation)
        self.checkpoint.require_unchanged()
        return sums


def not_finite(intervention: Intervention, what: str) -> MeasurementError:
    """The error that a model's numbers are none, under an intervention."""
    kinds = {Intact: "intact", Quantized: "quantised"}
    return MeasurementError(
        f"the {kinds.get(type(intervention), 'ablated')} model's {what}: its weights or "
        "activations overflow or hold NaN"
    )
