"""Growing evidence: what is measured, chunk by chunk, in the seeded order of text blocks."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import cycle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustness.ablation.ablation import Ablation
from robustness.ablation.interventions import FixedAblation, Intact, Intervention, PerBlockAblation
from robustness.measurement.compared import ComparedMeasurement
from robustness.measurement.measure import FULL_PRECISION, ChunkNLL, Measurement
from robustness.runtime.devices import Dtype
from robustness.scoring.sampling import DrawClock, random_dims
from robustness.statistics.figures import PrecisionFigures
from robustness.statistics.loop import Columns, Evidence, Judge, Statistic

Nats = NDArray[np.float64]
"""Nats per text block of a chunk."""

COMPARED_CHUNKS = 2
"""Chunks that are always measured in float32, and in reduced precision too before that is used."""


class _Growth:
    """Chunk after chunk: the intact model, what interventions change, and the precision of both.

    ``names`` are those of the interventions' columns, ``total`` is by default the corpus.
    """

    def __init__(
        self,
        measurement: Measurement,
        judge: Judge = None,
        names: Sequence[str] = (),
        total: int | None = None,
    ) -> None:
        self._measurement = measurement
        self._judge = judge
        self._names = names
        self._first: list[tuple[int, Sequence[Intervention]]] = []
        self.evidence = Evidence(total=total or measurement.layout.n_blocks)

    def dtype(self) -> Dtype:
        """The precision that the next chunk is measured in."""
        lower = self._measurement.dtype
        if self._judge is None or lower == FULL_PRECISION or len(self._first) < COMPARED_CHUNKS:
            return FULL_PRECISION
        precision = self.evidence.precision or self._compared(self._judge, lower)
        self.evidence = replace(self.evidence, precision=precision)
        return lower if precision.dtype == lower else FULL_PRECISION

    def _compared(self, judge: Statistic[Any], lower: Dtype) -> PrecisionFigures:
        """What the judge says of the first chunks in both precisions."""
        reduced = Evidence(total=0)
        for index, interventions in self._first:
            reduced = reduced.grown(**self._measured(index, interventions, lower)[1])
        costs = judge.costs(reduced.columns, self.evidence.columns)
        near = any(cost.needs_float32 for cost in costs)
        return PrecisionFigures(dtype=FULL_PRECISION if near else lower, costs=costs)

    def _measured(
        self, index: int, interventions: Sequence[Intervention], dtype: Dtype
    ) -> tuple[ChunkNLL, Columns]:
        intact, *others = self._measurement.chunk(index, Intact(), *interventions, dtype=dtype)
        columns = {"nll": intact.nll_nats, "tokens": intact.tokens}
        for name, other in zip(self._names, others, strict=True):
            columns[name] = other.nll_nats - intact.nll_nats
        return intact, columns

    def read(self, index: int, *interventions: Intervention) -> ChunkNLL:
        """Measure the next chunk; what it says of the intact model."""
        intact, columns = self._measured(index, interventions, self.dtype())
        self._first = [*self._first, (index, interventions)][:COMPARED_CHUNKS]
        self.evidence = self.evidence.grown(**columns)
        return intact


def intervention_evidence(
    measurement: Measurement,
    interventions: Sequence[Intervention],
    judge: Judge = None,
    *,
    most_blocks: int | None = None,
) -> Iterator[Evidence]:
    """Interventions beside the intact model, one item per chunk until the corpus is used up.

    Their columns are ``delta``, ``delta1`` and so on. The first ``most_blocks`` text blocks count
    as the whole corpus, where these are fewer.
    """
    names = ["delta", *(f"delta{number}" for number in range(1, len(interventions)))]
    n_blocks = measurement.layout.n_blocks
    total = min(n_blocks, most_blocks or n_blocks)
    growth = _Growth(measurement, judge, names[: len(interventions)], total)
    for index in range(measurement.n_chunks):
        growth.read(index, *interventions)
        yield growth.evidence.once
        if growth.evidence.whole:
            return


def layer_evidence(measurement: Measurement, ablation: Ablation) -> Iterator[Evidence]:
    """An ablation in one layer at a time beside the intact model, by layer; always in float32."""
    growth = _Growth(measurement)
    for index in range(measurement.n_chunks):
        intact = growth.read(index)
        layers = enumerate(measurement.layer_chunk(index, ablation))
        deltas = {f"delta{number}": layer.nll_nats - intact.nll_nats for number, layer in layers}
        growth.evidence = growth.evidence.grown(**deltas)
        yield growth.evidence


def prediction_evidence(measurement: Measurement, intervention: Intervention) -> Iterator[Evidence]:
    """Scored positions per text block at which another token is the most probable (``changed``).

    One item per chunk; always in float32.
    """
    growth = _Growth(measurement)
    for index in range(measurement.n_chunks):
        growth.read(index)
        changed = measurement.changed_predictions(index, intervention)
        growth.evidence = growth.evidence.grown(changed=changed)
        yield growth.evidence


def comparison_evidence(
    measurement: Measurement, nll_then: Callable[[int], Nats], *, most_blocks: int | None = None
) -> Iterator[Evidence]:
    """The model beside a reference, whose NLLs of a chunk's text blocks ``nll_then`` gives.

    ``delta`` is by how much the model's NLL is larger. If the measurement has a reference there are
    ``changed`` (scored positions with another prediction), ``kl`` (summed divergence, nats) and
    ``lost`` (of that, by an estimate) as well. Items and ``most_blocks`` as above; always float32.
    """
    n_blocks = measurement.layout.n_blocks
    growth = _Growth(measurement, total=min(n_blocks, most_blocks or n_blocks))
    for index in range(measurement.n_chunks):
        then = nll_then(index)
        intact = growth.read(index)
        grown = growth.evidence.grown(delta=intact.nll_nats[: len(then)] - then)
        if isinstance(measurement, ComparedMeasurement):
            far = measurement.compared(index)
            grown = grown.grown(changed=far.changed, kl=far.kl_nats, lost=far.lost_nats)
        growth.evidence = grown
        yield growth.evidence.once
        if growth.evidence.whole:
            return


def effect_evidence(
    measurement: Measurement,
    ablation: Ablation,
    delta_then: Callable[[int], Nats],
    *,
    most_blocks: int | None = None,
) -> Iterator[Evidence]:
    """What an ablation adds to the model's NLL (``delta``) and to a reference's (``then``)."""
    n_blocks = measurement.layout.n_blocks
    total = min(n_blocks, most_blocks or n_blocks)
    growth = _Growth(measurement, names=("delta",), total=total)
    for index in range(measurement.n_chunks):
        growth.read(index, FixedAblation(ablation=ablation))
        growth.evidence = growth.evidence.grown(then=delta_then(index))
        yield growth.evidence.once
        if growth.evidence.whole:
            return


def control_evidence(
    measurement: Measurement,
    judge: Judge = None,
    *,
    candidates: Sequence[int],
    size: int,
    template: Ablation,
    joint: Ablation | None = None,
) -> Iterator[Evidence]:
    """Random ablations, one item per chunk, pass after pass with new draws, without end.

    ``size`` dimensions of the candidates are ablated as in the template (the column ``delta``; the
    number of the draw is in ``draw``), and beside them fixed ones, if given (``joint``).
    """
    clock = DrawClock()
    fixed = [FixedAblation(ablation=joint)] if joint else []
    growth = _Growth(measurement, judge, ("delta", "joint")[: 1 + len(fixed)])
    for index in cycle(range(measurement.n_chunks)):
        (intact,) = measurement.chunk(index, Intact(), dtype=growth.dtype())
        draws = clock.assign(intact.tokens.tolist())
        dims = [random_dims(candidates, size, seed=measurement.seed, draw=draw) for draw in draws]
        growth.read(index, PerBlockAblation(dims=tuple(dims), template=template), *fixed)
        grown = growth.evidence.grown(draw=np.array(draws))
        growth.evidence = replace(grown, draws=clock.complete)
        yield growth.evidence
