"""How text blocks run: forward passes under interventions, in whole or layer by layer."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from robustness.ablation.hooks import Means
from robustness.ablation.interventions import Intact, Intervention
from robustness.ablation.resume import kept, resumed
from robustness.measurement.loaded_model import LoadedModel
from robustness.runtime.devices import Dtype
from robustness.scoring.block import ScoredBlock
from robustness.scoring.discriminator import Discriminator
from robustness.scoring.distributions import Distributions
from robustness.scoring.examples import Guess
from robustness.scoring.forward import LOGITS_BYTES, Scorer

if TYPE_CHECKING:
    from robustness.checkpoint.architecture import Scoring
    from robustness.scoring.block import PlannedChunk

T = TypeVar("T")

INTACT = Intact()


@dataclass(kw_only=True, eq=False, repr=False)
class Execution(LoadedModel[ScoredBlock]):
    """A model that scores text blocks; ``pad_id`` is any token id."""

    reserved_bytes = 2 * LOGITS_BYTES
    row_and_remedy = ("text block", "block size")

    scoring: "Scoring"
    pad_id: int
    _scorers: dict[Dtype, Scorer | Discriminator] = field(default_factory=dict, init=False)

    def run(
        self,
        chunk: "PlannedChunk",
        interventions: Sequence[Intervention],
        most_tokens: int,
        dtype: Dtype,
        means: Means | None = None,
    ) -> tuple[list[NDArray[np.float64]], int]:
        """NLLs under each intervention, all in batches of the same size, and that size in tokens.

        ``most_tokens`` is the largest batch to try at first. Interventions may need ``means``, the
        mean features of the intact model.

        Raises:
            MeasurementError: if memory does not even suffice for one text block at a time.
        """
        scorer = self._scorer(dtype)

        def nll_nats(intervention: Intervention, most: int) -> NDArray[np.float64]:
            by_row = self._over(chunk, scorer.nll_nats, most, intervention, means)
            return chunk.summed([by_row[row] for row in range(len(chunk.rows))])

        return self._within_memory(
            chunk.rows, most_tokens, lambda most: [nll_nats(each, most) for each in interventions]
        )

    def changed_predictions(
        self, chunk: "PlannedChunk", intervention: Intervention, means: Means | None = None
    ) -> NDArray[np.int64]:
        """Scored positions of each text block at which an intervention changes what is predicted.

        Both models run in the same batches, in float32; shape (n_blocks,).
        """
        scorer = self._scorer("float32")

        def changed(most: int) -> NDArray[np.int64]:
            intact, other = (
                self._over(chunk, scorer.predictions, most, each, means)
                for each in (Intact(), intervention)
            )
            counts = np.zeros(chunk.n_blocks, dtype=np.int64)
            for row, owner in enumerate(chunk.owner):
                counts[owner] += int((intact[row] != other[row]).sum())
            return counts

        return self._within_memory(chunk.rows, self.most_tokens, changed)[0]

    def with_distributions(
        self, chunk: "PlannedChunk", seed: int
    ) -> tuple[NDArray[np.float64], Distributions, int]:
        """The intact model's NLLs, distributions in short, and the size of batches, in one pass.

        The ``seed`` is that of the samples of what is left out.
        """
        scorer = self._scorer("float32")

        def run(most: int) -> dict[int, tuple[float, Distributions]]:
            return self._over(chunk, lambda rows: scorer.with_distributions(rows, seed), most)

        by_row, most = self._within_memory(chunk.rows, self.most_tokens, run)
        rows = [by_row[row] for row in range(len(chunk.rows))]
        return (
            chunk.summed([nll for nll, _ in rows]),
            Distributions.joined([d for _, d in rows]),
            most,
        )

    def compared(
        self, chunk: "PlannedChunk", reference: Distributions
    ) -> tuple[list[NDArray[np.float64]], int]:
        """How the intact model differs from a reference, by row, and the size of batches.

        Of each row an array (n, 4); see :meth:`robustness.scoring.forward.Scorer.compared`.
        """
        scorer = self._scorer("float32")
        then = reference.rows([len(row.positions) for row in chunk.rows])

        def run(most: int) -> dict[int, NDArray[np.float64]]:
            return self._by_row(
                chunk.rows,
                chunk.owner,
                Intact(),
                most,
                None,
                lambda batch: scorer.compared(
                    [chunk.rows[row] for row in batch], [then[row] for row in batch]
                ),
            )

        by_row, most = self._within_memory(chunk.rows, self.most_tokens, run)
        return [by_row[row] for row in range(len(chunk.rows))], most

    def _over(
        self,
        chunk: "PlannedChunk",
        run: Callable[[list[ScoredBlock]], Iterable[T]],
        most_tokens: int,
        intervention: Intervention = INTACT,
        means: Means | None = None,
    ) -> dict[int, T]:
        """What is made of a chunk's rows under an intervention, batch by batch."""
        rows = chunk.rows
        return self._by_row(
            rows,
            chunk.owner,
            intervention,
            most_tokens,
            means,
            lambda batch: run([rows[row] for row in batch]),
        )

    def layer_by_layer(
        self, chunk: "PlannedChunk", interventions: Sequence[Intervention], means: Means | None
    ) -> NDArray[np.float64]:
        """NLLs under one intervention for each layer alone, in float32, shape (layers, n_blocks).

        Each run starts from what the intact model handed the layer, where that is possible.
        """
        scorer, stack = self._scorer("float32"), self.anatomy.stack
        nll = np.zeros((len(interventions), chunk.n_blocks))
        for batch in self._sharing(self._micro_batches(chunk.rows, self.most_tokens)):
            rows = [chunk.rows[row] for row in batch]
            about = chunk.owner[batch].tolist()
            with kept(scorer.model, stack) as kept_layers:
                scorer.nll_nats(rows)
            whole = kept_layers.passes != 1 or not stack.resumable
            for layer, intervention in enumerate(interventions):
                start = nullcontext() if whole else resumed(scorer.model, stack, kept_layers, layer)
                with start, self._applied(intervention, about, means):
                    np.add.at(nll[layer], about, scorer.nll_nats(rows))
        return nll

    def guesses(
        self, rows: Sequence[ScoredBlock], intervention: Intervention, means: Means | None = None
    ) -> list[Guess]:
        """What the model says at every scored position of the rows, one after the other.

        The rows run one by one, in float32.
        """
        scorer = self._scorer("float32")
        assert isinstance(scorer, Scorer)
        guesses = []
        with self._applied(intervention, range(len(rows)), means):
            for row in rows:
                p = torch.softmax(scorer.logits(row).cpu().double(), dim=-1)  # (n, V)
                best, tokens = p.max(dim=-1)
                wanted = p.gather(1, torch.from_numpy(row.targets)[:, None])[:, 0]
                for token, likely, target in zip(
                    tokens.tolist(), best.tolist(), wanted.tolist(), strict=True
                ):
                    guesses.append(Guess(token=token, p=likely, p_target=target))
        return guesses

    def _run_alone(self, row: ScoredBlock) -> None:
        self._scorer("float32").nll_nats([row])

    def _scorer(self, dtype: Dtype) -> Scorer | Discriminator:
        if dtype not in self._scorers:
            kind = Discriminator if self.scoring == "replaced-token" else Scorer
            self._scorers[dtype] = kind(self._model, pad_id=self.pad_id, dtype=dtype)
        return self._scorers[dtype]
