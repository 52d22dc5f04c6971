"""What turns (checkpoint, task, ablation) into stored predictions."""

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robustness.ablation.ablation import MEAN_BLOCKS, Ablation
from robustness.ablation.interventions import Intact, Intervention, stored_means
from robustness.checkpoint.task_heads import TaskKind
from robustness.errors import MeasurementError
from robustness.runtime.libraries import library_versions
from robustness.scoring.sampling import block_order
from robustness.scoring.scoring_plan import CHUNK_BLOCKS
from robustness.store.context import Context
from robustness.store.store import Record, canonical_json, digest
from robustness.tasks.data import TaskData

if TYPE_CHECKING:
    from robustness.ablation.edits import Sum
    from robustness.ablation.hooks import Means
    from robustness.checkpoint.checkpoint import Checkpoint
    from robustness.measurement.predictor import Predictor, Row

TASK_METHOD = 1
"""Version of how tasks are measured (docs/PROTOCOL.md); part of every prediction's identity."""


class TaskMeasurement:
    """One checkpoint on one task: predictions per chunk of examples, each made once.

    Labels and metrics are not part of a prediction's identity: other ones measure nothing anew.
    Predictions are always made in float32.

    Args:
        checkpoint: resolved for the task.
        data: the examples.
        kind: what the model is asked.
        anatomy_record: where it can be ablated, in plain JSON types.
        max_length: tokens of an example at most.
        seed: of the order of examples.
        device: ``cpu``, ``cuda[:n]`` or ``mps``.
        context: of the run.
        chunk_examples: that are predicted, and stored, together.
    """

    def __init__(
        self,
        *,
        checkpoint: "Checkpoint",
        data: TaskData,
        kind: TaskKind,
        anatomy_record: Mapping[str, Any],
        max_length: int,
        seed: int,
        device: str,
        context: Context,
        chunk_examples: int = CHUNK_BLOCKS,
    ) -> None:
        self.checkpoint = checkpoint
        self.data = data
        self.kind = kind
        self.seed = seed
        self.chunk_examples = chunk_examples
        self._anatomy_record = anatomy_record
        self._max_length = min(max_length, checkpoint.max_positions or max_length)
        self._device = device
        self._threads = context.threads
        identity = {
            "task_method": TASK_METHOD,
            **checkpoint.identity,
            "texts": data.texts_fingerprint,
            "kind": kind,
            "max_length": self._max_length,
            "chunk_examples": chunk_examples,
            "seed": seed,
            "dtype": "float32",
            "device": device.split(":")[0],
            "versions": library_versions(),
        }
        self.store = context.store(identity)
        self._tokenized: tuple[int, list[list[Row]]] | None = None  # of the last chunk

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
        for intervention in interventions:  # before a chunk is locked: nobody waits holding a lock
            if self.store.read(self._key(index, intervention)) is None:
                self._means(intervention.needs_means)
        by_key = {
            self._key(index, intervention)["id"]: intervention for intervention in interventions
        }
        records = self.store.obtain(
            [self._key(index, intervention) for intervention in interventions],
            lambda key: self._predict(index, by_key[key["id"]]),
        )
        return [
            self._checked(record, intervention)
            for record, intervention in zip(records, interventions, strict=True)
        ]

    def _key(self, index: int, intervention: Intervention) -> dict[str, Any]:
        found = intervention.key()
        key = found if found is None else {**found, "sites": self._sites}
        return {"examples": index, "id": canonical_json(key)}

    @cached_property
    def _sites(self) -> str:
        return digest(dict(self._anatomy_record))

    def _checked(
        self, record: Mapping[str, Any], intervention: Intervention
    ) -> NDArray[np.float64]:
        outputs = np.array(record["outputs"], dtype=np.float64)
        if not np.isfinite(outputs).all():
            state = "intact" if isinstance(intervention, Intact) else "ablated"
            raise MeasurementError(
                f"the {state} model's answers to {self.data.name} are not finite numbers: its "
                "weights or activations overflow or hold NaN"
            )
        return outputs

    def _predict(self, index: int, intervention: Intervention) -> Record:
        if self._tokenized is None or self._tokenized[0] != index:
            self._tokenized = (index, self._rows(self.examples(index)))
        rows = self._tokenized[1]
        means = self._means(intervention.needs_means)
        outputs = self._predictor.predict(rows, intervention, means)
        self.checkpoint.require_unchanged()
        return {"outputs": outputs.tolist()}

    def _rows(self, examples: Sequence[int] | NDArray[np.int64]) -> "list[list[Row]]":
        from robustness.measurement.predictor import tokenized

        texts = [self.data.texts[int(example)] for example in examples]
        return tokenized(texts, self._tokenizer, kind=self.kind, max_length=self._max_length)

    @cached_property
    def _tokenizer(self) -> Any:
        return self.checkpoint.load_tokenizer()

    @cached_property
    def _predictor(self) -> "Predictor":
        from robustness.anatomy.stacks import Anatomy
        from robustness.measurement.predictor import Predictor

        return Predictor(
            load=partial(self.checkpoint.load_model, device=self._device),
            kind=self.kind,
            anatomy=Anatomy.from_dict(self._anatomy_record),
            device=self._device,
            threads=self._threads,
        )

    def _means(self, ablation: Ablation | None) -> "Means | None":
        """The intact model's mean features over the first examples, from the store if known."""
        return stored_means(
            self.store,
            ablation,
            identity={"examples": MEAN_BLOCKS, "sites": self._sites},
            sums=self._feature_sums,
        )

    def _feature_sums(self, ablation: Ablation) -> "Mapping[int, Sum]":
        sums = self._predictor.feature_sums(self._rows(self.order[:MEAN_BLOCKS]), ablation)
        self.checkpoint.require_unchanged()
        return sums
