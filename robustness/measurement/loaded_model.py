"""What running text and running a task share: a loaded model, its batches, and memory that ends."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from robustness.ablation.edits import Sum
from robustness.ablation.hooks import Means, ablated, ablated_rows, summed
from robustness.ablation.interventions import (
    FixedAblation,
    Intervention,
    PerBlockAblation,
    Quantized,
)
from robustness.ablation.quantization import quantized
from robustness.anatomy.live import dense_layers_of
from robustness.errors import MeasurementError
from robustness.measurement.batching import first_guess, micro_batches
from robustness.runtime.devices import is_out_of_memory
from robustness.runtime.threads import SharedCores

if TYPE_CHECKING:
    from robustness.ablation.ablation import Ablation
    from robustness.anatomy.dense import DenseLayer
    from robustness.anatomy.stacks import Anatomy

T = TypeVar("T")


class Row(Protocol):
    """What a model reads as one row of a batch."""

    @property
    def length(self) -> int:
        """How many tokens it has."""


R = TypeVar("R", bound=Row)


@dataclass(kw_only=True, eq=False, repr=False)
class LoadedModel(ABC, Generic[R]):
    """A model, loaded when it first runs.

    Attributes:
        load_model: loads the model to its device.
        anatomy: where it can be ablated.
        device: ``cpu``, ``cuda[:n]`` or ``mps``.
        threads: a share of the processor's cores; ``None`` leaves the library's choice.
    """

    reserved_bytes: ClassVar[int] = 0
    """Needed whatever a batch is."""

    row_and_remedy: ClassVar[tuple[str, str]]
    """What a row is, and what may be smaller where memory does not suffice for one."""

    load_model: Callable[[], nn.Module]
    anatomy: "Anatomy"
    device: str
    threads: SharedCores | None

    @abstractmethod
    def _run_alone(self, row: R) -> None:
        """One row through the model, for what hooks see."""

    @cached_property
    def most_tokens(self) -> int:
        """Tokens of a batch at most; becomes smaller where memory runs out."""
        hidden_size = self.anatomy.hidden_size
        return first_guess(self.device, hidden_size=hidden_size, reserved=self.reserved_bytes)

    def load(self) -> None:
        """Have the model in memory, should it not be there yet."""
        assert self._model is not None

    def feature_sums(self, rows: Sequence[R], ablation: "Ablation") -> Mapping[int, Sum]:
        """The intact model's summed features at an ablation's places, by layer.

        The rows run one by one, so that there is no padding.
        """
        with summed(self._model, self.anatomy.stack, ablation) as sums:
            for row in self._sharing(rows):
                self._run_alone(row)
        return sums

    @cached_property
    def _model(self) -> nn.Module:
        self._take_threads()
        return self.load_model()

    @cached_property
    def _dense_layers(self) -> "tuple[DenseLayer, ...]":
        return dense_layers_of(self._model, self.anatomy.stack)

    def _within_memory(
        self, rows: Sequence[R], most_tokens: int, run: Callable[[int], T]
    ) -> tuple[T, int]:
        """What runs in batches of so many tokens, of fewer where memory ends, and how many."""
        while True:
            try:
                return run(most_tokens), most_tokens
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if most_tokens <= max(row.length for row in rows):
                    row, remedy = self.row_and_remedy
                    raise MeasurementError(
                        f"memory runs out with a single {row} in a batch: choose a smaller "
                        f"{remedy}, fewer workers, or a larger machine"
                    ) from error
            most_tokens //= 2
            self.most_tokens = min(self.most_tokens, most_tokens)  # for the chunks to come

    def _by_row(
        self,
        rows: Sequence[R],
        owner: NDArray[np.int64],
        intervention: Intervention,
        most_tokens: int,
        means: Means | None,
        run: Callable[[list[int]], Iterable[T]],
    ) -> dict[int, T]:
        """What the rows of each batch give under an intervention, in the order in which they run.

        ``owner`` says of every row which text block or example of the chunk it is about; ``run``
        gets the rows' numbers.
        """
        by_row: dict[int, T] = {}
        for alike in self._sharing(self._micro_batches(rows, most_tokens)):
            for batch in self._separated(alike, owner, intervention):
                with self._applied(intervention, owner[batch].tolist(), means):
                    by_row.update(zip(batch, run(batch), strict=True))
        return by_row

    def _micro_batches(self, rows: Sequence[R], most_tokens: int) -> list[list[int]]:
        return micro_batches([row.length for row in rows], most_tokens=most_tokens)

    def _separated(
        self, rows: list[int], owner: NDArray[np.int64], intervention: Intervention
    ) -> list[list[int]]:
        """Rows apart that must not share a batch.

        They have a scale of their own; or different ablations where the site hides its batch axis.
        """
        if isinstance(intervention, Quantized):
            return [[row] for row in rows]
        if isinstance(intervention, PerBlockAblation):
            sites = self.anatomy.stack.at(intervention.template.site)
            if any(site.batch_axis is None for site in sites):
                about = dict.fromkeys(owner[rows].tolist())
                return [[row for row in rows if owner[row] == each] for each in about]
        return [rows]

    def _applied(
        self, intervention: Intervention, about: Sequence[int], means: Means | None
    ) -> AbstractContextManager[None]:
        """The context in which rows about text blocks or examples of a chunk run as one batch."""
        model, stack = self._model, self.anatomy.stack
        if isinstance(intervention, Quantized):
            return quantized(model, self._dense_layers, intervention.spared)
        if isinstance(intervention, FixedAblation):
            return ablated(model, stack, intervention.ablation, means)
        if not isinstance(intervention, PerBlockAblation):
            return nullcontext()
        dims = [intervention.dims[block] for block in about]
        if len(set(about)) == 1:
            return ablated(model, stack, replace(intervention.template, dims=dims[0]), means)
        return ablated_rows(model, stack, dims, template=intervention.template, means=means)

    def _sharing(self, batches: Iterable[T]) -> Iterator[T]:
        """The batches, each with the threads that other processes leave to this one by then."""
        with nullcontext() if self.threads is None else self.threads.computing():
            for batch in batches:
                self._take_threads()
                yield batch

    def _take_threads(self) -> None:
        number = None if self.threads is None else self.threads()
        if number is not None and number != torch.get_num_threads():
            torch.set_num_threads(number)
