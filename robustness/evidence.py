"""Growing evidence: measured ΔNLLs, chunk by chunk, in the seeded order of text blocks."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robustness.measure import Fixed, Intact, Measurement, PerBlock
from robustness.sampling import DrawClock, random_dims

if TYPE_CHECKING:
    from robustness.ablation import Ablation


@dataclass(frozen=True, kw_only=True)
class IntactEvidence:
    """The intact model on the text blocks seen so far; shapes (n,).

    Attributes:
        nll_nats: negative log-likelihood per text block.
        tokens: scored tokens per text block.
        exhausted: whether these are all text blocks of the corpus.
    """

    nll_nats: NDArray[np.float64]
    tokens: NDArray[np.int64]
    exhausted: bool

    @property
    def perplexity(self) -> float:
        """exp(ΣNLL / Σtokens)."""
        return float(np.exp(self.nll_nats.sum() / self.tokens.sum()))


@dataclass(frozen=True, kw_only=True)
class FixedEvidence:
    """One ablation on the text blocks seen so far.

    Attributes:
        intact: the same text blocks with the intact model.
        delta_nll: ablated minus intact, in nats, per text block.
    """

    intact: IntactEvidence
    delta_nll: NDArray[np.float64]


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


class _Column:
    """An array that grows by a chunk at a time."""

    def __init__(self) -> None:
        self._parts: list[NDArray[Any]] = []

    def add(self, values: NDArray[Any]) -> None:
        self._parts.append(values)

    def joined(self) -> NDArray[Any]:
        return np.concatenate(self._parts)


def intact_evidence(measurement: Measurement) -> Iterator[IntactEvidence]:
    """The intact model, one item per chunk until the corpus is used up."""
    nll, tokens = _Column(), _Column()
    for index in range(measurement.n_chunks):
        (chunk,) = measurement.chunk(index, Intact())
        nll.add(chunk.nll_nats)
        tokens.add(chunk.tokens)
        yield _intact(nll, tokens, exhausted=index == measurement.n_chunks - 1)


def fixed_evidence(measurement: Measurement, ablation: "Ablation") -> Iterator[FixedEvidence]:
    """A fixed ablation beside the intact model, one item per chunk until the corpus is used up."""
    nll, tokens, delta = _Column(), _Column(), _Column()
    for index in range(measurement.n_chunks):
        intact, ablated = measurement.chunk(index, Intact(), Fixed(ablation=ablation))
        nll.add(intact.nll_nats)
        tokens.add(intact.tokens)
        delta.add(ablated.nll_nats - intact.nll_nats)
        yield FixedEvidence(
            intact=_intact(nll, tokens, exhausted=index == measurement.n_chunks - 1),
            delta_nll=delta.joined(),
        )


def control_evidence(
    measurement: Measurement,
    *,
    candidates: Sequence[int],
    size: int,
    like: "Ablation",
    joint: "Ablation | None" = None,
) -> Iterator[ControlEvidence]:
    """Random ablations, one item per chunk, pass after pass with new draws, without end.

    Args:
        measurement: of the checkpoint.
        candidates: the dimensions to draw from.
        size: dimensions per draw.
        like: where and how they are ablated, its own dimensions aside.
        joint: a fixed ablation to measure on the same text blocks.
    """
    clock = DrawClock()
    seen = {name: _Column() for name in ("nll", "tokens", "delta", "joint", "draw")}
    fixed = [Fixed(ablation=joint)] if joint else []
    for step in count():
        passes, index = divmod(step, measurement.n_chunks)
        (intact,) = measurement.chunk(index, Intact())
        draws = clock.assign(intact.tokens.tolist())
        dims = [random_dims(candidates, size, seed=measurement.seed, draw=draw) for draw in draws]
        control, *joints = measurement.chunk(index, PerBlock(dims=tuple(dims), like=like), *fixed)
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
        )


def _control_evidence(
    measurement: Measurement,
    seen: Mapping[str, NDArray[Any]],
    *,
    complete_draws: int,
    passes: int,
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
        ),
        tokens=seen["tokens"],
        delta_nll=seen["delta"],
        joint_delta_nll=joint,
        joint_corpus_nats=None if joint is None or not passes else float(joint[first_pass].sum()),
        draw=seen["draw"],
        draw_delta_nll=_sums(seen["delta"][complete], draws, complete_draws),
        draw_tokens=_sums(seen["tokens"][complete], draws, complete_draws),
        passes=passes,
    )


def _sums(values: NDArray[Any], groups: NDArray[np.int64], n_groups: int) -> NDArray[Any]:
    """Sum of the values of each group, shape (n_groups,)."""
    sums = np.zeros(n_groups, dtype=values.dtype)
    np.add.at(sums, groups, values)
    return sums


def _intact(nll: _Column, tokens: _Column, *, exhausted: bool) -> IntactEvidence:
    return IntactEvidence(nll_nats=nll.joined(), tokens=tokens.joined(), exhausted=exhausted)
