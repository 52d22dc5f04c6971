"""Profiles without a run."""

from typing import Any

import numpy as np

from robustness.ablation.ablation import Ablation
from robustness.reference.baseline import AblationBaseline, Baseline, CheckpointBaseline, Flagged

CONDITIONS: dict[str, Any] = {
    "corpus": "c0ffee",
    "scoring": "masked",
    "dtype": "float32",
    "block_size": 128,
    "seed": 0,
    "method": 1,
    "rule": {"busters": {"k": 3.0, "min_layer_share": 0.5}},
    "hidden_size": 32,
    "text_blocks": "0123",
}


def entry(
    label: str = "bert",
    *,
    n: int = 64,
    dims: tuple[int, ...] = (7,),
    seed: int = 0,
    perplexity_times: float = 1.0,
    degradation: float = 3.0,
    **changes: Any,
) -> CheckpointBaseline:
    """A checkpoint with planted perplexity and degradation (of every ablation)."""
    generator = np.random.default_rng(seed)
    tokens = generator.integers(10, 30, n)
    nll = tokens * (2.0 + np.log(perplexity_times)) + generator.normal(0, 0.1, n)
    ablated = nll + tokens * np.log(degradation) + generator.normal(0, 0.1, n)
    values: dict[str, Any] = {
        "label": label,
        "reference": f"organisation/{label}",
        "revision": "0123456789abcdef",
        "architecture": "BertForMaskedLM",
        "corpus": "wikitext",
        "text_blocks": n,
        "layers": 2,
        "hidden_size": 32,
        "conditions": CONDITIONS,
        "provenance": {"weights": "beef", "versions": {"torch": "2.13.0"}},
        "outliers": tuple(Flagged(dim=dim, layers=(0, 1)) for dim in dims),
        "tokens": tuple(tokens.tolist()),
        "nll_nats": tuple(nll.tolist()),
        "ablations": tuple(
            AblationBaseline(
                name=f"dim{dim}",
                ablation=Ablation(dims=(dim,)).to_dict(),
                nll_nats=tuple(ablated.tolist()),
            )
            for dim in dims
        ),
        "failed": (),
    }
    return CheckpointBaseline(**{**values, **changes})


def profile(*entries: CheckpointBaseline) -> Baseline:
    return Baseline(
        robustness="0.1.0", created="2026-11-24T12:00:00+00:00", checkpoints=entries or (entry(),)
    )
