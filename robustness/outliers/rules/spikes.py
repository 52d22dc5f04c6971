"""Rule ``super-weight``: single weights that make a spike out of a spike."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from robustness.outliers.outliers import Detection, Outlier
from robustness.outliers.rules.common import by_magnitude
from robustness.outliers.rules.summaries import Spikes


class Weight(NamedTuple):
    """Where a weight of an output writer is: it writes a hidden dimension, and reads a column."""

    layer: int
    row: int
    column: int


def spiking(spikes: Spikes, threshold: float) -> tuple[Weight, ...]:
    """One weight per layer in which both the largest input and the largest output are spikes."""
    both = (np.abs(spikes.input) > threshold) & (np.abs(spikes.output) > threshold)
    return tuple(
        Weight(int(layer), int(spikes.row[layer]), int(spikes.column[layer]))
        for layer in np.flatnonzero(both)
    )


def super_weight(rounds: Sequence[Spikes], *, threshold: float = 50.0) -> Detection:
    """Super weights (Yu et al. 2024, arXiv 2411.07191).

    Per layer, the input and the output of the output writer (``down_proj``) that are largest in
    size: where both exceed ``threshold``, the input's feature is the column and the output's the
    row of a super weight. These are taken as 0 and the text is read again, until no new spikes
    appear or the ``rounds``, the intact model's first, are used up. The rows are the outlier
    dimensions. The threshold is absolute, so nothing is defined by chance.
    """
    largest: dict[Weight, tuple[float, float]] = {}
    for spikes in rounds:
        for weight in spiking(spikes, threshold):
            pair = float(spikes.input[weight.layer]), float(spikes.output[weight.layer])
            largest.setdefault(weight, pair)
    rows = sorted({weight.row for weight in largest})
    earlier = {weight for spikes in rounds[:-1] for weight in spiking(spikes, threshold)}
    remain = not earlier.issuperset(spiking(rounds[-1], threshold))
    return Detection(
        rule=(
            f"super-weight: weights whose input and output exceed {threshold:g}, in {len(rounds)} "
            f"reading{'s' * (len(rounds) > 1)} of the text{', spikes remain' * remain}"
        ),
        outliers=tuple(_outlier(row, largest) for row in rows),
        by_chance=None,
        magnitude=by_magnitude(rounds[0].largest.max(axis=0), exclude=rows),
        details={
            "spikes_remain": remain,
            "largest_input": rounds[0].input.tolist(),
            "largest_output": rounds[0].output.tolist(),
        },
    )


def _outlier(row: int, largest: dict[Weight, tuple[float, float]]) -> Outlier:
    own = {weight: pair for weight, pair in largest.items() if weight.row == row}
    layers = sorted({weight.layer for weight in own})
    strongest = {
        layer: max((pair for weight, pair in own.items() if weight.layer == layer), key=_size)
        for layer in layers
    }
    return Outlier(
        dim=row,
        layers=tuple(layers),
        statistics={
            "input": tuple(strongest[layer][0] for layer in layers),
            "output": tuple(strongest[layer][1] for layer in layers),
        },
        details={
            "weights": [
                {**weight._asdict(), "input": pair[0], "output": pair[1]}
                for weight, pair in own.items()
            ]
        },
    )


def _size(pair: tuple[float, float]) -> float:
    return abs(pair[1])
