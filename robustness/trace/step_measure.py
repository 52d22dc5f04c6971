"""What one checkpoint of a run does on text: perplexity, and what switching dimensions off does.

The numbers are those of the plugin: the same text blocks, masks, draws and store, in float32. What
has been measured of a checkpoint, by this or by a run of pytest, is not measured again.
"""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robustness.ablation.ablation import Ablation
from robustness.ablation.interventions import FixedAblation
from robustness.measurement.evidence import control_evidence, intervention_evidence
from robustness.scoring.sampling import random_candidates
from robustness.scoring.scoring_plan import CHUNK_BLOCKS
from robustness.statistics.decisions import decide_ratio
from robustness.statistics.draw_decisions import decide_median
from robustness.statistics.loop import Evidence, known

if TYPE_CHECKING:
    from robustness.scoring.quantity import Quantity
    from robustness.vetting import Vetting

TEXT_BLOCKS = 64
"""Of a checkpoint, where nothing else is asked for."""
MOST_ALONE = 4
"""Dimensions that are switched off one by one, too; of more, only all together."""

Interval = tuple[float, float]
Progress = Callable[[int, int, float], None]
"""Told after every chunk: text blocks seen, text blocks wanted, perplexity so far."""


@dataclass(frozen=True, kw_only=True)
class Degradation:
    """What switching some dimensions off multiplies perplexity by."""

    dims: tuple[int, ...]  # which
    ratio: float  # exp(ΣΔNLL / Σtokens); may be infinite
    # of the corpus' ratio; ``None`` where it is exact, or there is none yet
    interval: Interval | None


@dataclass(frozen=True, kw_only=True)
class RandomDegradation:
    """What switching as many random dimensions off does."""

    size: int  # dimensions of a draw
    draws: int  # finished ones
    median: float  # of their degradations
    mean: float  # exp(ΣΔNLL / Σtokens) over all of them
    interval: Interval | None  # of the median; ``None`` where there are too few draws for one


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One checkpoint on text."""

    quantity: str  # what the figure is: perplexity, or a discriminator's loss in nats per token
    figure: float  # of the intact model on the text blocks seen
    # of the figure on the whole corpus; ``None`` where it is exact, or none yet
    interval: Interval | None
    text_blocks: int  # seen
    tokens: int  # scored in them
    exact: bool  # whether these are all text blocks of the corpus
    joint: Degradation | None  # without all followed dimensions; ``None`` where there are none
    alone: tuple[Degradation, ...]  # without each of them, where they are several and few
    # without as many others; ``None`` where there are not that many
    random: RandomDegradation | None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; infinity becomes ``"inf"``."""
        fields: dict[str, Any] = _plain(asdict(self))
        return fields


def n_passes(dims: Collection[int]) -> int:
    """Passes over the text: the intact model, the dimensions alone and together, random ones."""
    return 1 + (len(_alone(dims)) + 2 if dims else 0)


def measured(
    vetting: "Vetting",
    dims: tuple[int, ...],
    *,
    never_drawn: Collection[int],
    text_blocks: int | None,
    alpha: float,
    progress: Progress = lambda *_: None,
) -> Measured:
    """Measure a checkpoint on the first text blocks of the seeded order, whole chunks of them.

    Args:
        vetting: the checkpoint, on its corpus.
        dims: that are switched off.
        never_drawn: dimensions that are none of the random ones, beside ``dims``.
        text_blocks: how many, rounded up to chunks; ``None`` for the whole corpus.
        alpha: error probability of each interval.
        progress: see :data:`Progress`.

    Raises:
        MeasurementError: a value is NaN, or infinite although the model is intact.
        UnsupportedSite: the policy's site is none of the model's.
    """
    sets = [dims, *_alone(dims)] if dims else []
    ablations = [vetting.ablate(each).ablation for each in sets]
    fixed = intervention_evidence(
        vetting.measurement, [FixedAblation(ablation=each) for each in ablations]
    )
    random = _random(vetting, dims, ablations, never_drawn)
    n_blocks = vetting.measurement.layout.n_blocks
    n_chunks = math.ceil(min(text_blocks or n_blocks, n_blocks) / CHUNK_BLOCKS)
    wanted = min(n_chunks * CHUNK_BLOCKS, n_blocks)
    for _ in range(n_chunks):
        model = next(fixed)
        drawn = None if random is None else next(random)
        progress(model.seen, wanted, vetting.quantity.figure(model.mean_nll_nats))
    degradations = [
        _degradation(each, delta, model, alpha)
        for each, delta in zip(sets, model.deltas, strict=True)
    ]
    return Measured(
        quantity=vetting.quantity.name,
        figure=vetting.quantity.figure(model.mean_nll_nats),
        interval=_of_figure(model, vetting.quantity, alpha),
        text_blocks=model.seen,
        tokens=int(model["tokens"].sum()),
        exact=model.whole,
        joint=degradations[0] if dims else None,
        alone=tuple(degradations[1:]),
        random=None if drawn is None else _of_draws(drawn, len(dims), alpha),
    )


def _random(
    vetting: "Vetting",
    dims: tuple[int, ...],
    ablations: Sequence[Ablation],
    never_drawn: Collection[int],
) -> Iterator[Evidence] | None:
    """As many random dimensions; nothing where there are not that many."""
    others, hidden_size = set(never_drawn) | set(dims), vetting.model_profile.hidden_size
    if not dims or hidden_size - len(others) < len(dims):
        return None
    return control_evidence(
        vetting.measurement,
        candidates=random_candidates(others, hidden_size=hidden_size, size=len(dims)),
        size=len(dims),
        template=ablations[0],
    )


def _alone(dims: Collection[int]) -> list[tuple[int, ...]]:
    return [(dim,) for dim in dims] if 1 < len(dims) <= MOST_ALONE else []


def _of_figure(evidence: Evidence, quantity: "Quantity", alpha: float) -> Interval | None:
    decision = decide_ratio(
        evidence["nll"], evidence["tokens"], threshold=1.0, alpha=alpha, exhausted=evidence.whole
    )
    finite = known(decision.interval)
    if finite is None or quantity.is_perplexity:
        return finite
    low, high = (math.log(end) if end > 0 else -math.inf for end in finite)
    return low, high


def _degradation(
    dims: Sequence[int], delta_nll: NDArray[np.float64], intact: Evidence, alpha: float
) -> Degradation:
    decision = decide_ratio(
        delta_nll, intact["tokens"], threshold=1.0, alpha=alpha, exhausted=intact.whole
    )
    interval = known(decision.interval)
    return Degradation(dims=tuple(dims), ratio=decision.measured, interval=interval)


def _of_draws(evidence: Evidence, size: int, alpha: float) -> RandomDegradation | None:
    if not evidence.draws:
        return None
    delta, tokens = evidence.per_draw("delta"), evidence.per_draw("tokens")
    decision = decide_median(delta, tokens, threshold=1.0, alpha=alpha)
    return RandomDegradation(
        size=size,
        draws=evidence.draws,
        median=decision.measured,
        mean=decision.mean,
        interval=known(decision.interval),
    )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and math.isinf(value) else value
