"""Growing evidence: what is measured, chunk by chunk, in the seeded order of text blocks."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import cycle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustness.ablation.ablation import Ablation
from robustness.ablation.interventions import FixedAblation, Intact, Intervention, PerBlockAblation
from robustness.measurement.measure import FULL_PRECISION, ChunkNLL, Measurement
from robustness.runtime.devices import Dtype
from robustness.scoring.sampling import DrawClock, random_dims
from robustness.statistics.loop import Deltas, Statistic
from robustness.statistics.precision import Precision

COMPARED_CHUNKS = 2
"""Chunks that are always measured in float32, and in reduced precision too before that is used."""

Judge = Statistic[Any, Any] | None
"""Judges by its ``costs`` whether reduced precision may be used; without one, all is float32."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Which precision text blocks behind the first two chunks are measured in, and why.

    Attributes:
        dtype: that precision.
        precisions: what the reduced one costs each mean that the check is about.
    """

    dtype: Dtype
    precisions: tuple[Precision, ...]

    @property
    def slack_nats(self) -> tuple[float, ...]:
        """By how much each mean's interval has to be widened, per text block."""
        reduced = self.dtype != FULL_PRECISION
        return tuple(each.slack_nats if reduced else 0.0 for each in self.precisions)


@dataclass(frozen=True, kw_only=True)
class IntactEvidence:
    """The intact model on the text blocks seen so far.

    Attributes:
        nll_nats: summed negative log-likelihood of each, shape (n,).
        tokens: how many tokens of each were scored, shape (n,).
        whole: whether these are all text blocks of the corpus.
        comparison: what two precisions differ by, once both have been used.
    """

    nll_nats: NDArray[np.float64]
    tokens: NDArray[np.int64]
    whole: bool
    comparison: Comparison | None = None

    @property
    def seen(self) -> int:
        """How many text blocks were read."""
        return len(self.tokens)

    @property
    def slack_nats(self) -> tuple[float, ...]:
        """See :class:`robustness.statistics.loop.Evidence`."""
        return (0.0,) if self.comparison is None else self.comparison.slack_nats

    @property
    def mean_nll_nats(self) -> float:
        """ΣNLL / Σtokens; the logarithm of perplexity."""
        return float(self.nll_nats.sum() / self.tokens.sum())


@dataclass(frozen=True, kw_only=True)
class BesideIntact:
    """What was measured beside the intact model, on the same text blocks."""

    intact: IntactEvidence

    @property
    def seen(self) -> int:
        """How many text blocks were read."""
        return self.intact.seen

    @property
    def whole(self) -> bool:
        """Whether these are all text blocks of the corpus."""
        return self.intact.whole

    @property
    def comparison(self) -> Comparison | None:
        """What two precisions differ by, once both have been used."""
        return self.intact.comparison

    @property
    def slack_nats(self) -> tuple[float, ...]:
        """See :class:`robustness.statistics.loop.Evidence`."""
        return self.intact.slack_nats


@dataclass(frozen=True, kw_only=True)
class InterventionEvidence(BesideIntact):
    """Some interventions beside the intact model, on the text blocks seen so far.

    Attributes:
        deltas_nll: for each intervention its NLL minus the intact one, in nats, shape (n,).
    """

    deltas_nll: tuple[NDArray[np.float64], ...]

    @property
    def delta_nll(self) -> NDArray[np.float64]:
        """What the only intervention changes."""
        (only,) = self.deltas_nll
        return only


@dataclass(frozen=True, kw_only=True)
class PredictionEvidence(BesideIntact):
    """What an intervention changes in a model's predictions, on the text blocks seen so far.

    Attributes:
        changed: scored positions whose most probable token is another, per text block, shape (n,).
    """

    changed: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class ControlEvidence(BesideIntact):
    """Random ablations on the text blocks seen so far, over as many passes as were needed.

    ``intact`` holds the text blocks of the first pass.

    Attributes:
        tokens: scored tokens per text block of all passes, shape (n,).
        delta_nll: what the random ablation adds to its NLL, shape (n,).
        joint_delta_nll: what the fixed ablation does that it is compared with, if any.
        draw: number of the draw that each text block belongs to, shape (n,).
        complete_draws: draws that have been measured on all their text blocks.
    """

    tokens: NDArray[np.int64]
    delta_nll: NDArray[np.float64]
    joint_delta_nll: NDArray[np.float64] | None
    draw: NDArray[np.int64]
    complete_draws: int

    @property
    def seen(self) -> int:
        """How many text blocks were read, over all passes."""
        return len(self.tokens)

    @property
    def joint_corpus_nats(self) -> float | None:
        """The fixed ablation's ΔNLL over the whole corpus, once that has been measured."""
        if self.joint_delta_nll is None or not self.whole:
            return None
        return float(self.joint_delta_nll[: self.intact.seen].sum())

    @cached_property
    def draw_delta_nll(self) -> NDArray[np.float64]:
        """Per complete draw, shape (draws,)."""
        return self._per_draw(self.delta_nll)

    @cached_property
    def draw_tokens(self) -> NDArray[np.int64]:
        """Scored tokens per complete draw, shape (draws,)."""
        return self._per_draw(self.tokens)

    def _per_draw(self, values: NDArray[Any]) -> NDArray[Any]:
        complete = self.draw < self.complete_draws
        sums = np.zeros(self.complete_draws, dtype=values.dtype)
        np.add.at(sums, self.draw[complete], values[complete])
        return sums


@dataclass(kw_only=True)
class _Growth:
    """Chunk after chunk: the intact model, what interventions change, and the precision of both.

    ``names`` are those of the interventions' columns.
    """

    measurement: Measurement
    judge: Judge = None
    names: Sequence[str] = ()
    comparison: Comparison | None = None
    _first: list[tuple[int, Sequence[Intervention]]] = field(default_factory=list, init=False)
    _columns: dict[str, list[NDArray[Any]]] = field(
        default_factory=lambda: defaultdict(list), init=False
    )

    def dtype(self) -> Dtype:
        """The precision that the next chunk is measured in."""
        due = len(self._first) == COMPARED_CHUNKS and self.comparison is None
        if due and self.judge is not None and self.measurement.dtype != FULL_PRECISION:
            self.comparison = self._compared(self.judge)
        return FULL_PRECISION if self.comparison is None else self.comparison.dtype

    def _compared(self, judge: Statistic[Any, Any]) -> Comparison:
        """What the judge says of the first chunks in both precisions."""
        lower = self.measurement.dtype
        chunks = [self._measured(index, others, lower)[1] for index, others in self._first]
        reduced = {name: np.concatenate([each[name] for each in chunks]) for name in chunks[0]}
        full = {name: self[name] for name in reduced}
        precisions = judge.costs(reduced, full, self["tokens"])
        near = any(each.needs_float32 for each in precisions)
        return Comparison(dtype=FULL_PRECISION if near else lower, precisions=precisions)

    def _measured(
        self, index: int, interventions: Sequence[Intervention], dtype: Dtype
    ) -> tuple[ChunkNLL, Deltas]:
        intact, *others = self.measurement.chunk(index, Intact(), *interventions, dtype=dtype)
        deltas = {"nll": intact.nll_nats}
        for name, other in zip(self.names, others, strict=True):
            deltas[name] = other.nll_nats - intact.nll_nats
        return intact, deltas

    def read(self, index: int, *interventions: Intervention) -> ChunkNLL:
        """Measure the next chunk; what it says of the intact model."""
        intact, deltas = self._measured(index, interventions, self.dtype())
        self._first = [*self._first, (index, interventions)][:COMPARED_CHUNKS]
        self.add(tokens=intact.tokens, **deltas)
        return intact

    def add(self, **values: NDArray[Any]) -> None:
        for name, part in values.items():
            self._columns[name].append(part)

    def __getitem__(self, name: str) -> NDArray[Any]:
        return np.concatenate(self._columns[name])

    def intact(self, *, total: int | None = None) -> IntactEvidence:
        """The intact model on the first ``total`` text blocks at most: by default, the corpus."""
        total = total or self.measurement.layout.n_blocks
        tokens = self["tokens"][:total]
        return IntactEvidence(
            nll_nats=self["nll"][:total],
            tokens=tokens,
            whole=len(tokens) == total,
            comparison=self.comparison,
        )


def intact_evidence(
    measurement: Measurement, judge: Judge = None, *, most_blocks: int | None = None
) -> Iterator[IntactEvidence]:
    """The intact model, one item per chunk; see :func:`intervention_evidence`."""
    for evidence in intervention_evidence(measurement, (), judge, most_blocks=most_blocks):
        yield evidence.intact


def intervention_evidence(
    measurement: Measurement,
    interventions: Sequence[Intervention],
    judge: Judge = None,
    *,
    most_blocks: int | None = None,
) -> Iterator[InterventionEvidence]:
    """Interventions beside the intact model, one item per chunk until the corpus is used up.

    Args:
        measurement: numbers of the checkpoint.
        interventions: what is done to the model.
        judge: see :data:`Judge`; its costs are those of ``delta``, the first intervention's, or of
            ``nll`` where there is none.
        most_blocks: text blocks that count as the whole corpus, where these are fewer.
    """
    names = ["delta", *(f"delta{number}" for number in range(1, len(interventions)))]
    growth = _Growth(measurement=measurement, judge=judge, names=names[: len(interventions)])
    total = min(measurement.layout.n_blocks, most_blocks or measurement.layout.n_blocks)
    for index in range(measurement.n_chunks):
        growth.read(index, *interventions)
        intact = growth.intact(total=total)
        deltas = tuple(growth[name][:total] for name in growth.names)
        yield InterventionEvidence(intact=intact, deltas_nll=deltas)
        if intact.whole:
            return


def layer_evidence(measurement: Measurement, ablation: Ablation) -> Iterator[InterventionEvidence]:
    """An ablation in one layer at a time beside the intact model, by layer; always in float32."""
    growth = _Growth(measurement=measurement)
    for index in range(measurement.n_chunks):
        intact = growth.read(index)
        layers = measurement.layer_chunk(index, ablation)
        deltas = {str(n): layer.nll_nats - intact.nll_nats for n, layer in enumerate(layers)}
        growth.add(**deltas)
        yield InterventionEvidence(
            intact=growth.intact(), deltas_nll=tuple(growth[name] for name in deltas)
        )


def prediction_evidence(
    measurement: Measurement, intervention: Intervention
) -> Iterator[PredictionEvidence]:
    """Predictions beside the intact model's, one item per chunk; always in float32."""
    growth = _Growth(measurement=measurement)
    for index in range(measurement.n_chunks):
        growth.read(index)
        growth.add(changed=measurement.changed_predictions(index, intervention))
        yield PredictionEvidence(intact=growth.intact(), changed=growth["changed"])


def control_evidence(
    measurement: Measurement,
    judge: Judge = None,
    *,
    candidates: Sequence[int],
    size: int,
    template: Ablation,
    joint: Ablation | None = None,
) -> Iterator[ControlEvidence]:
    """Random ablations, one item per chunk, pass after pass with new draws, without end.

    Args:
        measurement: numbers of the checkpoint.
        judge: see :data:`Judge`; its costs are those of ``delta`` and, where asked for, ``joint``.
        candidates: the dimensions to draw from.
        size: dimensions per draw.
        template: where and how they are ablated, its own dimensions aside.
        joint: a fixed ablation to measure on the same text blocks.
    """
    clock = DrawClock()
    fixed = [FixedAblation(ablation=joint)] if joint else []
    names = ("delta", "joint")[: 1 + len(fixed)]
    growth = _Growth(measurement=measurement, judge=judge, names=names)
    for index in cycle(range(measurement.n_chunks)):
        (intact,) = measurement.chunk(index, Intact(), dtype=growth.dtype())
        draws = clock.assign(intact.tokens.tolist())
        dims = [random_dims(candidates, size, seed=measurement.seed, draw=draw) for draw in draws]
        growth.read(index, PerBlockAblation(dims=tuple(dims), template=template), *fixed)
        growth.add(draw=np.array(draws))
        yield ControlEvidence(
            intact=growth.intact(),
            tokens=growth["tokens"],
            delta_nll=growth["delta"],
            joint_delta_nll=growth["joint"] if joint else None,
            draw=growth["draw"],
            complete_draws=clock.complete,
        )
