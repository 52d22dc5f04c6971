"""Growing evidence: measured ΔNLLs, chunk by chunk, in the seeded order of text blocks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from robustness.ablation.interventions import FixedAblation, Intact, Intervention, PerBlockAblation
from robustness.measurement.measure import FULL_PRECISION, Measurement
from robustness.runtime.devices import Dtype
from robustness.scoring.sampling import DrawClock, random_dims
from robustness.statistics.precision import Precision, reduced_precision

if TYPE_CHECKING:
    from robustness.ablation.ablation import Ablation

COMPARED_CHUNKS = 2
"""Chunks that are always measured in float32, and in reduced precision too before that is used."""

Compare: TypeAlias = Callable[
    [Mapping[str, NDArray[Any]], Mapping[str, NDArray[Any]], NDArray[np.int64]],
    tuple[Precision, ...],
]
"""What reduced precision costs: from ΔNLLs by name in it and in float32, and token counts."""


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
        exhausted: whether these are all text blocks of the corpus.
        comparison: of two precisions, once more than one has been used.
    """

    nll_nats: NDArray[np.float64]
    tokens: NDArray[np.int64]
    exhausted: bool
    comparison: Comparison | None = None

    @property
    def mean_nll_nats(self) -> float:
        """ΣNLL / Σtokens; the logarithm of perplexity."""
        return float(self.nll_nats.sum() / self.tokens.sum())


@dataclass(frozen=True, kw_only=True)
class FixedEvidence:
    """One ablation on the text blocks seen so far.

    Attributes:
        intact: the same text blocks with the intact model.
        delta_nll: ablated minus intact, in nats, per text block.
        comparison: of two precisions, once more than one has been used.
    """

    intact: IntactEvidence
    delta_nll: NDArray[np.float64]
    comparison: Comparison | None = None


@dataclass(frozen=True, kw_only=True)
class ControlEvidence:
    """Random ablations on the text blocks seen so far, over as many passes as were needed.

    Attributes:
        intact: text blocks of the first pass.
        tokens: scored tokens per text block of the stream, all passes, shape (n,).
        delta_nll: of the random ablation, likewise.
        joint_delta_nll: of the fixed ablation it is compared with, or ``None``.
        joint_corpus_nats: its ΔNLL over the whole corpus, once that has been measured.
        draw: number of the draw that each text block of the stream belongs to, shape (n,).
        draw_delta_nll: per complete draw, shape (draws,).
        draw_tokens: likewise.
        passes: complete passes over the corpus.
        comparison: of two precisions, once more than one has been used.
    """

    intact: IntactEvidence
    tokens: NDArray[np.int64]
    delta_nll: NDArray[np.float64]
    joint_delta_nll: NDArray[np.float64] | None
    draw: NDArray[np.int64]
    joint_corpus_nats: float | None
    draw_delta_nll: NDArray[np.float64]
    draw_tokens: NDArray[np.int64]
    passes: int
    comparison: Comparison | None = None


class _Column:
    """An array that grows by a chunk at a time."""

    def __init__(self) -> None:
        self._parts: list[NDArray[Any]] = []

    def add(self, values: NDArray[Any]) -> None:
        self._parts.append(values)

    def joined(self) -> NDArray[Any]:
        return np.concatenate(self._parts)


def intact_evidence(
    measurement: Measurement, *, threshold: float | None = None
) -> Iterator[IntactEvidence]:
    """The intact model, one item per chunk until the corpus is used up.

    Args:
        measurement: of the checkpoint.
        threshold: on perplexity, by which reduced precision is judged; without, all is float32.
    """
    nll, tokens = _Column(), _Column()
    comparison: Comparison | None = None
    for index in range(measurement.n_chunks):
        if index == COMPARED_CHUNKS and threshold is not None:
            comparison = _comparison(
                measurement, None, nll.joined(), tokens.joined(), threshold=threshold
            )
        (chunk,) = measurement.chunk(index, Intact(), dtype=_dtype(comparison))
        nll.add(chunk.nll_nats)
        tokens.add(chunk.tokens)
        last = index == measurement.n_chunks - 1
        yield _intact(nll, tokens, exhausted=last, comparison=comparison)


def fixed_evidence(
    measurement: Measurement, intervention: Intervention, *, threshold: float | None = None
) -> Iterator[FixedEvidence]:
    """One intervention beside the intact model, one item per chunk until the corpus is used up.

    Args:
        measurement: of the checkpoint.
        intervention: what is done to the model.
        threshold: on the ratio, by which reduced precision is judged; without, all is float32.
    """
    nll, tokens, delta = _Column(), _Column(), _Column()
    comparison: Comparison | None = None
    for index in range(measurement.n_chunks):
        if index == COMPARED_CHUNKS and threshold is not None:
            comparison = _comparison(
                measurement, intervention, delta.joined(), tokens.joined(), threshold=threshold
            )
        dtype = _dtype(comparison)
        intact, ablated = measurement.chunk(index, Intact(), intervention, dtype=dtype)
        nll.add(intact.nll_nats)
        tokens.add(intact.tokens)
        delta.add(ablated.nll_nats - intact.nll_nats)
        last = index == measurement.n_chunks - 1
        yield FixedEvidence(
            intact=_intact(nll, tokens, exhausted=last, comparison=comparison),
            delta_nll=delta.joined(),
            comparison=comparison,
        )


def _comparison(
    measurement: Measurement,
    intervention: Intervention | None,
    full: NDArray[np.float64],
    tokens: NDArray[np.int64],
    *,
    threshold: float,
) -> Comparison | None:
    """Measure the first chunks in reduced precision, too, if there is one to be used."""
    if measurement.dtype == FULL_PRECISION:
        return None
    reduced = _Column()
    for index in range(COMPARED_CHUNKS):
        interventions = [Intact()] if intervention is None else [Intact(), intervention]
        intact, *ablated = measurement.chunk(index, *interventions, dtype=measurement.dtype)
        reduced.add(ablated[0].nll_nats - intact.nll_nats if ablated else intact.nll_nats)
    found = reduced_precision(reduced.joined(), full, tokens, threshold=threshold)
    return _decided(measurement, (found,))


def _decided(measurement: Measurement, precisions: tuple[Precision, ...]) -> Comparison:
    near = any(each.needs_float32 for each in precisions)
    return Comparison(dtype=FULL_PRECISION if near else measurement.dtype, precisions=precisions)


def _dtype(comparison: Comparison | None) -> Dtype:
    return FULL_PRECISION if comparison is None else comparison.dtype


def control_evidence(
    measurement: Measurement,
    *,
    candidates: Sequence[int],
    size: int,
    like: "Ablation",
    joint: "Ablation | None" = None,
    compare: Compare | None = None,
) -> Iterator[ControlEvidence]:
    """Random ablations, one item per chunk, pass after pass with new draws, without end.

    Args:
        measurement: of the checkpoint.
        candidates: the dimensions to draw from.
        size: dimensions per draw.
        like: where and how they are ablated, its own dimensions aside.
        joint: a fixed ablation to measure on the same text blocks.
        compare: judges reduced precision by ``delta`` and, where there is one, ``joint``; without,
            all is float32.
    """
    clock = DrawClock()
    seen = {name: _Column() for name in ("nll", "tokens", "delta", "joint", "draw")}
    fixed = [FixedAblation(ablation=joint)] if joint else []
    first: list[list[Intervention]] = []
    comparison: Comparison | None = None
    for step in count():
        passes, index = divmod(step, measurement.n_chunks)
        if step == COMPARED_CHUNKS and compare is not None and measurement.dtype != FULL_PRECISION:
            found = _reduced_deltas(measurement, first)
            full = {name: seen[name].joined() for name in found}
            comparison = _decided(measurement, compare(found, full, seen["tokens"].joined()))
        dtype = _dtype(comparison)
        (intact,) = measurement.chunk(index, Intact(), dtype=dtype)
        draws = clock.assign(intact.tokens.tolist())
        dims = [random_dims(candidates, size, seed=measurement.seed, draw=draw) for draw in draws]
        interventions: list[Intervention] = [
            PerBlockAblation(dims=tuple(dims), template=like),
            *fixed,
        ]
        first = [*first, interventions][:COMPARED_CHUNKS]
        control, *joints = measurement.chunk(index, *interventions, dtype=dtype)
        seen["nll"].add(intact.nll_nats)
        seen["tokens"].add(intact.tokens)
        seen["delta"].add(control.nll_nats - intact.nll_nats)
        seen["draw"].add(np.array(draws))
        if joints:
            seen["joint"].add(joints[0].nll_nats - intact.nll_nats)
        yield _control_evidence(
            measurement,
            {name: column.joined() for name, column in seen.items() if joint or name != "joint"},
            complete_draws=clock.complete,
            passes=passes + (index == measurement.n_chunks - 1),
            comparison=comparison,
        )


def _reduced_deltas(
    measurement: Measurement, chunks: Sequence[Sequence[Intervention]]
) -> dict[str, NDArray[np.float64]]:
    """ΔNLLs of the first chunks in reduced precision: ``delta`` and, where asked for, ``joint``."""
    columns = {name: _Column() for name in ("delta", "joint")[: len(chunks[0])]}
    for step, interventions in enumerate(chunks):
        index = step % measurement.n_chunks
        intact, *others = measurement.chunk(
            index, Intact(), *interventions, dtype=measurement.dtype
        )
        for column, other in zip(columns.values(), others, strict=True):
            column.add(other.nll_nats - intact.nll_nats)
    return {name: column.joined() for name, column in columns.items()}


def _control_evidence(
    measurement: Measurement,
    seen: Mapping[str, NDArray[Any]],
    *,
    complete_draws: int,
    passes: int,
    comparison: Comparison | None,
) -> ControlEvidence:
    first_pass = slice(0, measurement.layout.n_blocks)
    complete = seen["draw"] < complete_draws
    draws = seen["draw"][complete]
    joint = seen.get("joint")
    return ControlEvidence(
        intact=IntactEvidence(
            nll_nats=seen["nll"][first_pass],
            tokens=seen["tokens"][first_pass],
            exhausted=passes > 0,
            comparison=comparison,
        ),
        tokens=seen["tokens"],
        delta_nll=seen["delta"],
        joint_delta_nll=joint,
        joint_corpus_nats=None if joint is None or not passes else float(joint[first_pass].sum()),
        draw=seen["draw"],
        draw_delta_nll=_sums(seen["delta"][complete], draws, complete_draws),
        draw_tokens=_sums(seen["tokens"][complete], draws, complete_draws),
        passes=passes,
        comparison=comparison,
    )


def _sums(values: NDArray[Any], groups: NDArray[np.int64], n_groups: int) -> NDArray[Any]:
    """Sum of the values of each group, shape (n_groups,)."""
    sums = np.zeros(n_groups, dtype=values.dtype)
    np.add.at(sums, groups, values)
    return sums


def _intact(
    nll: _Column, tokens: _Column, *, exhausted: bool, comparison: Comparison | None
) -> IntactEvidence:
    return IntactEvidence(
        nll_nats=nll.joined(), tokens=tokens.joined(), exhausted=exhausted, comparison=comparison
    )
