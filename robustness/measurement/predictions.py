"""What turns (checkpoint, task, ablation) into stored predictions."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robustness.ablation.interventions import Intervention
from robustness.checkpoint.task_heads import TaskKind
from robustness.measurement.stored import StoredMeasurement, not_finite
from robustness.runtime.libraries import library_versions
from robustness.scoring.sampling import block_order
from robustness.scoring.scoring_plan import CHUNK_BLOCKS
from robustness.store.store import Record
from robustness.tasks.data import TaskData

if TYPE_CHECKING:
    from robustness.measurement.predictor import Predictor, TextRow

TASK_METHOD = 1
"""Version of how tasks are measured (docs/PROTOCOL.md); part of every prediction's identity."""


@dataclass(kw_only=True, eq=False, repr=False)
class TaskMeasurement(StoredMeasurement):
    """One checkpoint on one task: predictions per chunk of examples, each made once.

    Labels and metrics are not part of a prediction's identity: other ones measure nothing anew.
    Predictions are always made in float32.

    Attributes:
        data: the examples.
        kind: what the model is asked.
        max_length: tokens of an example at most.
        chunk_examples: that are predicted, and stored, together.
    """

    chunk_key = "examples"
    means_key = "examples"

    data: TaskData
    kind: TaskKind
    max_length: int
    chunk_examples: int = CHUNK_BLOCKS

    def __post_init__(self) -> None:
        """Find the predictions' place in the store."""
        self.max_length = min(self.max_length, self.checkpoint.max_positions or self.max_length)
        identity = {
            "task_method": TASK_METHOD,
            **self.checkpoint.identity,
            "texts": self.data.texts_fingerprint,
            "kind": self.kind,
            "max_length": self.max_length,
            "chunk_examples": self.chunk_examples,
            "seed": self.seed,
            "dtype": "float32",
            "device": self.device.split(":")[0],
            "versions": library_versions(),
        }
        self.store = self.context.store(identity)
        self._tokenized: tuple[int, list[list[TextRow]]] | None = None  # of the last chunk

    @property
    def n_examples(self) -> int:
        """Examples of the task."""
        return self.data.n_examples

    @property
    def n_chunks(self) -> int:
        """Chunks of examples; the last may be short."""
        return -(-self.n_examples // self.chunk_examples)

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """Numbers of the examples in the order of measurement, shape (n_examples,)."""
        return block_order(self.n_examples, seed=self.seed, fingerprint=self.data.texts_fingerprint)

    def examples(self, index: int) -> NDArray[np.int64]:
        """Numbers of a chunk's examples."""
        return self.order[index * self.chunk_examples : (index + 1) * self.chunk_examples]

    def chunk(self, index: int, *interventions: Intervention) -> list[NDArray[np.float64]]:
        """Predictions for one chunk under each of the interventions, shapes (n, outputs).

        Raises:
            MeasurementError: if one is not a finite number.
        """
        records = self._obtained(
            interventions,
            partial(self._key, index),
            lambda intervention: self._predict(index, intervention),
        )
        predictions = []
        for record, intervention in zip(records, interventions, strict=True):
            outputs = np.array(record["outputs"], dtype=np.float64)
            if not np.isfinite(outputs).all():
                what = f"answers to {self.data.name} are not finite numbers"
                raise not_finite(intervention, what)
            predictions.append(outputs)
        return predictions

    def _predict(self, index: int, intervention: Intervention) -> Record:
        if self._tokenized is None or self._tokenized[0] != index:
            self._tokenized = (index, self._rows(self.examples(index)))
        outputs = self._execution.predict(
            self._tokenized[1], intervention, self._means(intervention)
        )
        return {"outputs": outputs.tolist()}

    def _first_rows(self, number: int) -> "list[TextRow]":
        return [row for rows in self._rows(self.order[:number]) for row in rows]

    def _rows(self, examples: Iterable[int]) -> "list[list[TextRow]]":
        from robustness.measurement.predictor import tokenized

        texts = [self.data.texts[int(example)] for example in examples]
        return tokenized(texts, self._tokenizer, kind=self.kind, max_length=self.max_length)

    @cached_property
    def _tokenizer(self) -> Any:
        return self.checkpoint.load_tokenizer()

    @cached_property
    def _execution(self) -> "Predictor":
        from robustness.anatomy.stacks import Anatomy
        from robustness.measurement.predictor import Predictor

        return Predictor(
            load_model=partial(self.checkpoint.load_model, device=self.device),
            kind=self.kind,
            anatomy=Anatomy.from_dict(self.anatomy_record),
            device=self.device,
            threads=self.context.threads,
        )
