"""How text blocks run: the loaded model, its precision, its batches, and what if memory ends."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from robustness.ablation.edits import Sum
from robustness.ablation.hooks import Means, summed
from robustness.ablation.interventions import Intact, Intervention, PerBlockAblation, Quantized
from robustness.ablation.quantization import quantized
from robustness.ablation.resume import kept, resumed
from robustness.anatomy.live import dense_layers_of
from robustness.errors import MeasurementError
from robustness.measurement.batching import first_guess, is_out_of_memory, micro_batches
from robustness.runtime.devices import Dtype
from robustness.runtime.threads import LibraryChoice, Threads
from robustness.scoring.discriminator import Discriminator
from robustness.scoring.examples import Guess
from robustness.scoring.forward import LOGITS_BYTES, Scorer

if TYPE_CHECKING:
    from robustness.ablation.ablation import Ablation
    from robustness.anatomy.dense import DenseLayer
    from robustness.anatomy.stacks import Anatomy
    from robustness.checkpoint.architecture import Scoring
    from robustness.scoring.block import PlannedChunk, ScoredBlock

Batch = TypeVar("Batch")
T = TypeVar("T")


class Execution:
    """A model, loaded when it first runs.

    Args:
        load: loads the model to its device.
        scoring: how the checkpoint is scored.
        anatomy: where it can be ablated.
        pad_id: any token id; padding is masked out.
        device: ``cpu``, ``cuda[:n]`` or ``mps``.
        threads: a share of the processor's cores; ``None`` leaves the library's choice.
    """

    def __init__(
        self,
        *,
        load: Callable[[], nn.Module],
        scoring: "Scoring",
        anatomy: "Anatomy",
        pad_id: int,
        device: str,
        threads: Threads | None,
    ) -> None:
        self._load = load
        self._scoring = scoring
        self._anatomy = anatomy
        self._pad_id = pad_id
        self._device = device
        self._threads = threads or LibraryChoice()
        self._scorers: dict[Dtype, Scorer | Discriminator] = {}

    @cached_property
    def most_tokens(self) -> int:
        """Tokens of a batch at most; becomes smaller where memory runs out."""
        hidden_size = self._anatomy.hidden_size
        return first_guess(self._device, hidden_size=hidden_size, reserved=2 * LOGITS_BYTES)

    def load(self) -> None:
        """Have the model in memory, should it not be there yet."""
        assert self._model is not None

    def run(
        self,
        chunk: "PlannedChunk",
        interventions: Sequence[Intervention],
        most_tokens: int,
        dtype: Dtype,
        means: Means | None = None,
    ) -> tuple[list[NDArray[np.float64]], int]:
        """NLLs under each intervention, all in batches of the same size, and that size in tokens.

        Args:
            chunk: what is asked about its text blocks.
            interventions: what is done to the model.
            most_tokens: of a batch, at first.
            dtype: of the model's matrix products.
            means: mean features of the intact model, for interventions that need them.

        Raises:
            MeasurementError: if memory does not even suffice for one text block at a time.
        """
        return self._within_memory(
            chunk,
            most_tokens,
            lambda most: [self._pass(chunk, each, most, dtype, means) for each in interventions],
        )

    def changed_predictions(
        self, chunk: "PlannedChunk", intervention: Intervention, means: Means | None = None
    ) -> NDArray[np.int64]:
        """Scored positions of each text block at which an intervention changes what is predicted.

        Both models run in the same batches, in float32; shape (n_blocks,).
        """

        def changed(most_tokens: int) -> NDArray[np.int64]:
            intact, other = (
                self._predictions(chunk, each, most_tokens, means)
                for each in (Intact(), intervention)
            )
            counts = np.zeros(chunk.n_blocks, dtype=np.int64)
            for owner, before, after in zip(chunk.owner, intact, other, strict=True):
                counts[owner] += int((before != after).sum())
            return counts

        return self._within_memory(chunk, self.most_tokens, changed)[0]

    def _within_memory(
        self, chunk: "PlannedChunk", most_tokens: int, run: Callable[[int], T]
    ) -> tuple[T, int]:
        """What runs in batches of so many tokens, of fewer where memory ends, and how many."""
        while True:
            try:
                return run(most_tokens), most_tokens
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if most_tokens <= max(row.length for row in chunk.rows):
                    raise MeasurementError(
                        "memory runs out with a single text block in a batch: choose a smaller "
                        "block size, fewer workers, or a larger machine"
                    ) from error
            most_tokens //= 2
            self.most_tokens = min(self.most_tokens, most_tokens)  # for the chunks to come

    def _pass(
        self,
        chunk: "PlannedChunk",
        intervention: Intervention,
        most_tokens: int,
        dtype: Dtype,
        means: Means | None,
    ) -> NDArray[np.float64]:
        nll, scorer = np.zeros(chunk.n_blocks), self._scorer(dtype)
        for batch in self._batches(chunk, intervention, most_tokens, means):
            rows = [chunk.rows[row] for row in batch]
            np.add.at(nll, chunk.owner[batch], scorer.nll_nats(rows))
        return nll

    def _predictions(
        self,
        chunk: "PlannedChunk",
        intervention: Intervention,
        most_tokens: int,
        means: Means | None,
    ) -> list[NDArray[np.int64]]:
        """What the model predicts at the scored positions of every row."""
        scorer = self._scorer("float32")
        predicted: dict[int, NDArray[np.int64]] = {}
        for batch in self._batches(chunk, intervention, most_tokens, means):
            rows = scorer.predictions([chunk.rows[row] for row in batch])
            predicted.update(zip(batch, rows, strict=True))
        return [predicted[row] for row in range(len(chunk.rows))]

    def _batches(
        self,
        chunk: "PlannedChunk",
        intervention: Intervention,
        most_tokens: int,
        means: Means | None,
    ) -> Iterator[list[int]]:
        """Rows that run together, each time while the intervention is made."""
        lengths = [row.length for row in chunk.rows]
        for rows in self._sharing(micro_batches(lengths, most_tokens=most_tokens)):
            for batch in separated(rows, chunk.owner, intervention, self._anatomy):
                with self._applied(intervention, chunk.owner[batch].tolist(), means):
                    yield batch

    def _applied(
        self, intervention: Intervention, rows: Sequence[int], means: Means | None
    ) -> AbstractContextManager[None]:
        if isinstance(intervention, Quantized):
            return quantized(self._model, self._dense_layers, intervention.spared)
        return intervention.applied(self._model, self._anatomy, rows, means)

    @cached_property
    def _dense_layers(self) -> "tuple[DenseLayer, ...]":
        return dense_layers_of(self._model, self._anatomy.stack)

    def layer_by_layer(
        self, chunk: "PlannedChunk", each: Sequence[Intervention], means: Means | None
    ) -> NDArray[np.float64]:
        """NLLs under one intervention for each layer alone, in float32, shape (layers, n_blocks).

        Each run starts from what the intact model handed the layer, where that is possible.
        """
        scorer, stack = self._scorer("float32"), self._anatomy.stack
        nll = np.zeros((len(each), chunk.n_blocks))
        lengths = [row.length for row in chunk.rows]
        batches = micro_batches(lengths, most_tokens=self.most_tokens)
        for batch in self._sharing(batches):
            rows = [chunk.rows[row] for row in batch]
            about = chunk.owner[batch].tolist()
            with kept(scorer.model, stack) as known:
                scorer.nll_nats(rows)
            whole = known.passes != 1 or not stack.resumable
            for layer, intervention in enumerate(each):
                start = nullcontext() if whole else resumed(scorer.model, stack, known, layer)
                with start, intervention.applied(scorer.model, self._anatomy, about, means):
                    np.add.at(nll[layer], about, scorer.nll_nats(rows))
        return nll

    def guesses(
        self, rows: "Sequence[ScoredBlock]", intervention: Intervention, means: Means | None = None
    ) -> list[Guess]:
        """What the model says at every scored position of the rows, one after the other.

        The rows run one by one, in float32.
        """
        scorer = self._scorer("float32")
        assert isinstance(scorer, Scorer)
        found = []
        with intervention.applied(scorer.model, self._anatomy, range(len(rows)), means):
            for row in rows:
                p = torch.softmax(scorer.logits(row).cpu().double(), dim=-1)  # (n, V)
                best, tokens = p.max(dim=-1)
                wanted = p.gather(1, torch.from_numpy(row.targets)[:, None])[:, 0]
                for token, likely, target in zip(
                    tokens.tolist(), best.tolist(), wanted.tolist(), strict=True
                ):
                    found.append(Guess(token=token, p=likely, p_target=target))
        return found

    def feature_sums(
        self, rows: "Sequence[ScoredBlock]", ablation: "Ablation"
    ) -> Mapping[int, Sum]:
        """The intact model's summed features at an ablation's places, by layer.

        The rows run one by one, so that there is no padding.
        """
        scorer = self._scorer("float32")
        with summed(scorer.model, self._anatomy.stack, ablation) as sums:
            for row in self._sharing(rows):
                scorer.nll_nats([row])
        return sums

    @cached_property
    def _model(self) -> nn.Module:
        take_threads(self._threads)
        return self._load()

    def _sharing(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        return sharing(batches, self._threads)

    def _scorer(self, dtype: Dtype) -> Scorer | Discriminator:
        if dtype not in self._scorers:
            kind = Discriminator if self._scoring == "replaced-token" else Scorer
            self._scorers[dtype] = kind(self._model, pad_id=self._pad_id, dtype=dtype)
        return self._scorers[dtype]


def take_threads(threads: Threads) -> None:
    """Let torch use the threads that other processes leave to this one now."""
    number = threads()
    if number is not None and number != torch.get_num_threads():
        torch.set_num_threads(number)


def sharing(batches: Iterable[Batch], threads: Threads) -> Iterator[Batch]:
    """The batches, each with the threads that other processes leave to this one by then."""
    with threads.computing():
        for batch in batches:
            take_threads(threads)
            yield batch


def separated(
    rows: list[int], owner: NDArray[np.int64], intervention: Intervention, anatomy: "Anatomy"
) -> list[list[int]]:
    """Rows apart that must not share a batch.

    They have different ablations, and the site hides its batch axis; or a scale of their own.

    Args:
        rows: of one batch.
        owner: of every row, what it is about.
        intervention: what is done to the model.
        anatomy: where.
    """
    if isinstance(intervention, Quantized):
        return [[row] for row in rows]
    if isinstance(intervention, PerBlockAblation):
        sites = anatomy.stack.at(intervention.template.site)
        if any(site.batch_axis is None for site in sites):
            about = dict.fromkeys(owner[rows].tolist())
            return [[row for row in rows if owner[row] == block] for block in about]
    return [rows]
