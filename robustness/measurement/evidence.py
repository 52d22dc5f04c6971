"""Growing evidence: what is measured, chunk by chunk, in the seeded order of text blocks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustness.ablation.ablation import Ablation
from robustness.ablation.interventions import (
    FixedAblation,
    Intact,
    Intervention,
    PerBlockAblation,
)
from robustness.measurement.measure import FULL_PRECISION, Measurement
from robustness.runtime.devices import Dtype
from robustness.scoring.sampling import DrawClock, random_dims
from robustness.scoring.scoring_plan import CHUNK_BLOCKS
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
    """The intact model on the text blocks seen so far; shapes (n,).

    Attributes:
        nll_nats: negative log-likelihood per text block.
        tokens: scored tokens per text block.
        whole: whether these are all text blocks of the corpus.
        comparison: of two precisions, once more than one has been used.
    """

    nll_nats: NDArray[np.float64]
    tokens: NDArray[np.int64]
    whole: bool
    comparison: Comparison | None = None

    @property
    def seen(self) -> int:
        """Text blocks."""
        return len(self.tokens)

    @property
    def slack_nats(self) -> tuple[float, ...]:
        """See :class:`robustness.statistics.loop.Evidence`."""
        return _slack(self.comparison)

    @property
    def mean_nll_nats(self) -> float:
        """ΣNLL / Σtokens; the logarithm of perplexity."""
        return float(self.nll_nats.sum() / self.tokens.sum())


@dataclass(frozen=True, kw_only=True)
class InterventionEvidence:
    """Some interventions beside the intact model, on the text blocks seen so far.

    Attributes:
        intact: the same text blocks with the intact model.
        deltas_nll: of each intervention, minus intact, in nats, per text block.
        comparison: of two precisions, once more than one has been used.
    """

    intact: IntactEvidence
    deltas_nll: tuple[NDArray[np.float64], ...]
    comparison: Comparison | None = None

    @property
    def delta_nll(self) -> NDArray[np.float64]:
        """Of the only intervention."""
        (only,) = self.deltas_nll
        return only

    @property
    def seen(self) -> int:
        """Text blocks."""
        return self.intact.seen

    @property
    def whole(self) -> bool:
        """Whether these are all text blocks of the corpus."""
        return self.intact.whole

    @property
    def slack_nats(self) -> tuple[float, ...]:
        """See :class:`robustness.statistics.loop.Evidence`."""
        return _slack(self.comparison)


@dataclass(frozen=True, kw_only=True)
class PredictionEvidence:
    """What an intervention changes in a model's predictions, on the text blocks seen so far.

    Attributes:
        intact: the same text blocks with the intact model.
        changed: scored positions whose most probable token is another, per text block, shape (n,).
    """

    intact: IntactEvidence
    changed: NDArray[np.int64]
    slack_nats: tuple[float, ...] = ()

    @property
    def seen(self) -> int:
        """Text blocks."""
        return self.intact.seen

    @property
    def whole(self) -> bool:
        """Whether these are all text blocks of the corpus."""
        return self.intact.whole


@dataclass(frozen=True, kw_only=True)
class ControlEvidence:
    """Random ablations on the text blocks seen so far, over as many passes as were needed.

    Attributes:
        intact: text blocks of the first pass.
        tokens: scored tokens per text block of the stream, all passes, shape (n,).
        delta_nll: of the random ablation, shape (n,).
        joint_delta_nll: of the fixed ablation it is compared with, or ``None``.
        joint_corpus_nats: its ΔNLL over the whole corpus, once that has been measured.
        draw: number of the draw that each text block of the stream belongs to, shape (n,).
        draw_delta_nll: per complete draw, shape (draws,).
        draw_tokens: scored tokens per complete draw, shape (draws,).
        passes: complete passes over the corpus.
        comparison: of two precisions, once more than one has been used.
    """

    intact: IntactEvidence
    tokens: NDArray[np.int64]
    delta_nll: NDArray[np.float64]
    joint_delta_nll: NDArray[np.float64] | None
    joint_corpus_nats: float | None
    draw: NDArray[np.int64]
    draw_delta_nll: NDArray[np.float64]
    draw_tokens: NDArray[np.int64]
    passes: int
    comparison: Comparison | None = None

    @property
    def seen(self) -> int:
        """Text blocks, over all passes."""
        return len(self.tokens)

    @property
    def whole(self) -> bool:
        """Whether the corpus was read once."""
        return self.passes > 0

    @property
    def slack_nats(self) -> tuple[float, ...]:
        """See :class:`robustness.statistics.loop.Evidence`."""
        return _slack(self.comparison)


def _slack(comparison: Comparison | None) -> tuple[float, ...]:
    return (0.0,) if comparison is None else comparison.slack_nats


class _Columns:
    """Arrays that grow by a chunk at a time, by name."""

    def __init__(self) -> None:
        self._parts: dict[str, list[NDArray[Any]]] = {}

    def add(self, **values: NDArray[Any]) -> None:
        for name, part in values.items():
            self._parts.setdefault(name, []).append(part)

    def __getitem__(self, name: str) -> NDArray[Any]:
        return np.concatenate(self._parts[name])

    def get(self, name: str) -> NDArray[Any] | None:
        return self[name] if name in self._parts else None

    def joined(self, names: Sequence[str]) -> Deltas:
        return {name: self[name] for name in names}


def intact_evidence(
    measurement: Measurement, judge: Judge = None, *, most_blocks: int | None = None
) -> Iterator[IntactEvidence]:
    """The intact model, one item per chunk until the corpus is used up.

    Args:
        measurement: of the checkpoint.
        judge: see :data:`Judge`; its costs are those of ``nll``.
        most_blocks: text blocks that count as the whole corpus, where these are fewer.
    """
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
        measurement: of the checkpoint.
        interventions: what is done to the model.
        judge: see :data:`Judge`; its costs are those of ``delta`` of the only intervention, or of
            ``nll`` where there is none.
        most_blocks: text blocks that count as the whole corpus, where these are fewer.
    """
    columns = _Columns()
    names = [f"delta{number}" for number in range(len(interventions))]
    comparison: Comparison | None = None
    total = min(measurement.layout.n_blocks, most_blocks or measurement.layout.n_blocks)
    for index in range(measurement.n_chunks):
        if index == COMPARED_CHUNKS and judge is not None and _is_reduced(measurement):
            full = {"delta": columns["delta0"]} if names else {"nll": columns["nll"]}
            reduced = _in_reduced_precision(measurement, [interventions] * COMPARED_CHUNKS)
            comparison = _compared(measurement, judge, reduced, full, columns["tokens"])
        dtype = _dtype(comparison)
        intact, *others = measurement.chunk(index, Intact(), *interventions, dtype=dtype)
        columns.add(nll=intact.nll_nats, tokens=intact.tokens)
        for name, other in zip(names, others, strict=True):
            columns.add(**{name: other.nll_nats - intact.nll_nats})
        held = slice(0, total)
        seen = columns["tokens"][held]
        yield InterventionEvidence(
            intact=IntactEvidence(
                nll_nats=columns["nll"][held],
                tokens=seen,
                whole=len(seen) == total,
                comparison=comparison,
            ),
            deltas_nll=tuple(columns[name][held] for name in names),
            comparison=comparison,
        )
        if len(seen) == total:
            return


def layer_evidence(measurement: Measurement, ablation: Ablation) -> Iterator[InterventionEvidence]:
    """An ablation in one layer at a time beside the intact model, by layer; always in float32."""
    columns = _Columns()
    names: list[str] = []
    for index in range(measurement.n_chunks):
        (intact,) = measurement.chunk(index, Intact())
        columns.add(nll=intact.nll_nats, tokens=intact.tokens)
        layers = measurement.layer_chunk(index, ablation)
        names = [f"layer{number}" for number in range(len(layers))]
        for name, layer in zip(names, layers, strict=True):
            columns.add(**{name: layer.nll_nats - intact.nll_nats})
        yield InterventionEvidence(
            intact=IntactEvidence(
                nll_nats=columns["nll"],
                tokens=columns["tokens"],
                whole=index == measurement.n_chunks - 1,
            ),
            deltas_nll=tuple(columns[name] for name in names),
        )


def prediction_evidence(
    measurement: Measurement, intervention: Intervention
) -> Iterator[PredictionEvidence]:
    """Predictions beside the intact model's, one item per chunk; always in float32."""
    columns = _Columns()
    for intact in intact_evidence(measurement):
        index = -(-intact.seen // CHUNK_BLOCKS) - 1
        columns.add(changed=measurement.changed_predictions(index, intervention))
        yield PredictionEvidence(intact=intact, changed=columns["changed"])


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
        measurement: of the checkpoint.
        judge: see :data:`Judge`; its costs are those of ``delta`` and, where asked for, ``joint``.
        candidates: the dimensions to draw from.
        size: dimensions per draw.
        template: where and how they are ablated, its own dimensions aside.
        joint: a fixed ablation to measure on the same text blocks.
    """
    clock, columns = DrawClock(), _Columns()
    fixed = [FixedAblation(ablation=joint)] if joint else []
    names = ("delta", "joint")[: 1 + len(fixed)]
    first: list[list[Intervention]] = []
    comparison: Comparison | None = None
    for step in count():
        passes, index = divmod(step, measurement.n_chunks)
        if step == COMPARED_CHUNKS and judge is not None and _is_reduced(measurement):
            reduced = _in_reduced_precision(measurement, first, names)
            full = columns.joined(names)
            comparison = _compared(measurement, judge, reduced, full, columns["tokens"])
        dtype = _dtype(comparison)
        (intact,) = measurement.chunk(index, Intact(), dtype=dtype)
        draws = clock.assign(intact.tokens.tolist())
        dims = [random_dims(candidates, size, seed=measurement.seed, draw=draw) for draw in draws]
        interventions: list[Intervention] = [
            PerBlockAblation(dims=tuple(dims), template=template),
            *fixed,
        ]
        first = [*first, interventions][:COMPARED_CHUNKS]
        for name, other in zip(
            names, measurement.chunk(index, *interventions, dtype=dtype), strict=True
        ):
            columns.add(**{name: other.nll_nats - intact.nll_nats})
        columns.add(nll=intact.nll_nats, tokens=intact.tokens, draw=np.array(draws))
        done = passes + (index == measurement.n_chunks - 1)
        n_blocks = measurement.layout.n_blocks
        yield _control_evidence(columns, n_blocks, clock.complete, done, comparison)


def _control_evidence(
    columns: _Columns,
    n_blocks: int,
    complete_draws: int,
    passes: int,
    comparison: Comparison | None,
) -> ControlEvidence:
    first_pass = slice(0, n_blocks)
    complete = columns["draw"] < complete_draws
    draws = columns["draw"][complete]
    joint = columns.get("joint")
    return ControlEvidence(
        intact=IntactEvidence(
            nll_nats=columns["nll"][first_pass],
            tokens=columns["tokens"][first_pass],
            whole=passes > 0,
            comparison=comparison,
        ),
        tokens=columns["tokens"],
        delta_nll=columns["delta"],
        joint_delta_nll=joint,
        joint_corpus_nats=None if joint is None or not passes else float(joint[first_pass].sum()),
        draw=columns["draw"],
        draw_delta_nll=_sums(columns["delta"][complete], draws, complete_draws),
        draw_tokens=_sums(columns["tokens"][complete], draws, complete_draws),
        passes=passes,
        comparison=comparison,
    )


def _sums(values: NDArray[Any], groups: NDArray[np.int64], n_groups: int) -> NDArray[Any]:
    """Sum of the values of each group, shape (n_groups,)."""
    sums = np.zeros(n_groups, dtype=values.dtype)
    np.add.at(sums, groups, values)
    return sums


def _is_reduced(measurement: Measurement) -> bool:
    return measurement.dtype != FULL_PRECISION


def _dtype(comparison: Comparison | None) -> Dtype:
    return FULL_PRECISION if comparison is None else comparison.dtype


def _in_reduced_precision(
    measurement: Measurement,
    chunks: Sequence[Sequence[Intervention]],
    names: Sequence[str] = ("delta",),
) -> Deltas:
    """ΔNLLs of the first chunks in reduced precision; the intact NLL where nothing is done."""
    columns = _Columns()
    for step, interventions in enumerate(chunks):
        index = step % measurement.n_chunks
        intact, *others = measurement.chunk(
            index, Intact(), *interventions, dtype=measurement.dtype
        )
        columns.add(nll=intact.nll_nats)
        for name, other in zip(names, others, strict=False):
            columns.add(**{name: other.nll_nats - intact.nll_nats})
    return columns.joined(names if chunks[0] else ("nll",))


def _compared(
    measurement: Measurement,
    judge: Statistic[Any, Any],
    reduced: Deltas,
    full: Deltas,
    tokens: NDArray[np.int64],
) -> Comparison:
    precisions = judge.costs(reduced, full, tokens)
    near = any(each.needs_float32 for each in precisions)
    return Comparison(dtype=FULL_PRECISION if near else measurement.dtype, precisions=precisions)
