"""Steps of a run with known numbers, without a model: for what is drawn of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from robustness.outliers.outliers import Detection, Outlier
from robustness.outliers.rules.weights import z_scores
from robustness.outliers.scanning import Finding, Scan
from robustness.trace.emergence import Step
from robustness.trace.step_measure import Degradation, Measured, RandomDegradation

LAYERS, WIDTH = 4, 48
RULE = "busters"


def scan(label: str, dims: Sequence[int], *, far: Mapping[int, float], seed: int = 0) -> Scan:
    """A checkpoint whose dimensions stand out by so many tenths.

    Args:
        label: its name.
        dims: that the rule is to have found.
        far: of a dimension, by how much its scale is below and its bias above the others.
        seed: of the others.
    """
    rng = np.random.default_rng(seed)
    scale = 1 + 0.02 * rng.standard_normal((LAYERS, WIDTH))
    bias = 0.02 * rng.standard_normal((LAYERS, WIDTH))
    for dim, distance in far.items():
        for layer in range(LAYERS):
            scale[layer, dim] = 1 - distance * (1 + layer / 10)
            bias[layer, dim] = distance * (1 + layer / 10)
    detection = Detection(
        rule=f"{RULE}: as asked for",
        outliers=tuple(Outlier(dim=dim, layers=tuple(range(LAYERS))) for dim in dims),
        by_chance=0.0,
        magnitude=(),
    )
    return Scan(
        label=label,
        reference=f"run/{label}",
        revision=None,
        notes=(),
        architecture="BertForMaskedLM",
        stack="only",
        kind="norm",
        distinct_sites=LAYERS,
        findings=(Finding(rule=RULE, detection=detection),),
        scale=scale,
        bias=bias,
        z_scale=z_scores(scale),
        z_bias=z_scores(bias),
    )


def measured(figure: float, **more: Any) -> Measured:
    """Of a language model, on 64 text blocks."""
    known: dict[str, Any] = {
        "quantity": "perplexity",
        "figure": figure,
        "interval": (0.9 * figure, 1.1 * figure),
        "text_blocks": 64,
        "tokens": 1216,
        "exact": False,
        "joint": None,
        "alone": (),
        "random": None,
    }
    return Measured(**{**known, **more})


def ablated(joint: float, alone: Mapping[int, float], median: float) -> dict[str, Any]:
    """What switching dimensions off does."""
    return {
        "joint": Degradation(
            dims=tuple(alone), ratio=joint, interval=(max(0.5, joint / 2), 2 * joint)
        ),
        "alone": tuple(
            Degradation(dims=(dim,), ratio=ratio, interval=None) for dim, ratio in alone.items()
        )
        if len(alone) > 1
        else (),
        "random": RandomDegradation(
            size=len(alone), draws=16, median=median, mean=1.1 * median, interval=None
        ),
    }


def emerging() -> list[Step]:
    """Six checkpoints: one dimension emerges, one comes and goes, another emerges late."""
    history: list[tuple[int, list[int], dict[int, float], tuple[float, ...] | None]] = [
        # step, flagged, how far out, then perplexity and what switching off 7 and 30, 7, 30 does
        (0, [], {}, (400.0, 1.001, 1.0, 1.002, 1.0)),
        (1000, [], {7: 0.03}, None),
        (5000, [7, 19], {7: 0.2, 19: 0.2}, (90.0, 1.2, 1.15, 1.01, 1.01)),
        (20_000, [7], {7: 0.3, 30: 0.04}, (20.0, 3.0, 2.5, 1.1, 1.02)),
        (100_000, [7, 30], {7: 0.5, 30: 0.2}, (8.0, 30.0, 9.0, 1.8, 1.03)),
        (200_000, [7, 30], {7: 0.6, 30: 0.3}, (5.0, 80.0, 20.0, 2.5, 1.04)),
    ]
    return [
        Step(
            reference=f"run/checkpoint-{step}",
            step=step,
            scan=scan(f"checkpoint-{step}", dims, far=far, seed=step),
            measured=None
            if numbers is None
            else measured(
                numbers[0], **ablated(numbers[1], {7: numbers[2], 30: numbers[3]}, numbers[4])
            ),
        )
        for step, dims, far, numbers in history
    ]


def furthest_layer(step: Step, of: str, dim: int) -> int:
    """Where a dimension stands furthest out, by a plain loop."""
    distances = []
    for row in getattr(step.scan, of).tolist():
        mean = sum(row) / len(row)
        variance = sum((value - mean) ** 2 for value in row) / (len(row) - 1)
        distances.append(abs(row[dim] - mean) / variance**0.5)
    return distances.index(max(distances))
