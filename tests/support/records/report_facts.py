"""Facts of runs with numbers that tests choose, in the types of the JSON report."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from robustness.report.facts import SCHEMA

Facts = dict[str, Any]
LAYERS, HIDDEN_SIZE, DIM = 6, 40, 7
LAYER_RATIOS: tuple[float | str, ...] = (1.1, 1.2, 5.0, 1.0, "inf", 1.3)
HOSTILE = "</script><img src=x onerror=pwned()><b>&amp;\u202e\x1b[31m%{x}"


def check(
    test: str = "test_ablation_degrades",
    *,
    dims: Sequence[int] = (DIM,),
    ratio: float | str | None = 3.0,
    interval: Sequence[float | str] | None = (2.0, 4.5),
    threshold: float | None = 1.05,
    passes: str | None = "above",
    verdict: str = "pass",
    **more: Any,
) -> Facts:
    """One decided check."""
    return {
        "id": f"robustness/test_outliers.py::{test}[bert]",
        "check": test,
        "dims": list(dims),
        "ratio": ratio,
        "interval": None if interval is None else list(interval),
        "threshold": threshold,
        "passes": passes,
        "text_blocks": 64,
        "tokens": 1216,
        "exact": False,
        "verdict": verdict,
        "expected_failure": None,
        "statement": "ablating dimension 7 multiplies perplexity by at least 1.05",
        "reason": "",
        "details": {},
        "course": course(ratio, interval),
        **more,
    }


def course(ratio: float | str | None, interval: Sequence[float | str] | None) -> list[Facts] | None:
    """Looks at 16 to 64 text blocks that end in what was decided."""
    if interval is None or ratio is None or not math.isfinite(float(ratio)):
        return None
    low, high = map(float, interval)
    return [
        {"text_blocks": 16, "ratio": float(ratio) * 1.3, "interval": None},
        {"text_blocks": 32, "ratio": float(ratio) * 1.2, "interval": [low / 2, high * 2]},
        {"text_blocks": 48, "ratio": float(ratio) * 1.1, "interval": [low / 1.5, high * 1.5]},
        {"text_blocks": 64, "ratio": ratio, "interval": [low, high]},
    ]


def control(ratios: Sequence[float] = (0.99, 1.0, 1.02, 1.3)) -> Facts:
    """The random control with its draws."""
    return check(
        "test_random_ablation_is_harmless",
        ratio=1.01,
        interval=(1.0, 1.05),
        threshold=1.1,
        passes="below",
        details={"draws": len(ratios), "draw_ratios": list(ratios), "mean_ratio": 1.08},
    )


def profile(ratios: Sequence[float | str]) -> Facts:
    """A layer profile."""
    layers = [
        {"layer": n, "ratio": r, "interval": None if isinstance(r, str) else [r / 1.2, r * 1.3]}
        for n, r in enumerate(ratios)
    ]
    return check(
        "test_layer_profile",
        ratio=max(ratios, key=float),
        interval=None,
        threshold=None,
        passes=None,
        details={"layer_profile": layers},
    )


def sites(layers: int = LAYERS, hidden_size: int = HIDDEN_SIZE, seed: int = 0) -> Facts:
    """Random parameters with an outlier in dimension 7 of every layer, and their z-scores."""
    generator = np.random.default_rng(seed)
    scale = generator.normal(1.0, 0.1, (layers, hidden_size))
    bias = generator.normal(0.0, 0.05, (layers, hidden_size))
    outlier = DIM if hidden_size > DIM else 1
    scale[:, outlier], bias[:, outlier] = 3.0, -2.0
    found: Facts = {"site": "output norm"}
    for name, values in (("scale", scale), ("bias", bias)):
        z = (values - values.mean(1, keepdims=True)) / values.std(1, ddof=1, keepdims=True)
        found[name] = [[float(f"{x:.5g}") for x in row] for row in values]
        found[f"{name}_z"] = [[float(f"{x:.4g}") for x in row] for row in z]
    return found


def example(text: str = "The capital of") -> Facts:
    """A masked sentence."""
    return {
        "text_block": 5,
        "kind": "masked",
        "dims": [DIM],
        "pieces": [
            {"text": text},
            {
                "text": " France",
                "target": True,
                "intact": {"text": " France", "p": 0.93},
                "ablated": {"text": "the", "p": 0.08},
                "intact_p_target": 0.93,
                "ablated_p_target": 1e-6,
            },
        ],
    }


def checkpoint(**changes: Any) -> Facts:
    """A checkpoint in which everything there is to show is there."""
    layers, hidden_size = changes.get("layers", LAYERS), changes.get("hidden_size", HIDDEN_SIZE)
    z = [5.0 + n for n in range(layers)]
    outlier = {"dim": DIM, "layers": list(range(layers)), "z_scale": z, "z_bias": [-x for x in z]}
    rules = [
        {"rule": "busters", "description": "busters: scale and bias", "dims": [DIM]},
        {"rule": "massive", "description": "massive: large values", "dims": [DIM, 9]},
    ]
    return {
        "label": "bert",
        "reference": "organisation/bert",
        "revision": "0123456789abcdef",
        "architecture": "BertForMaskedLM",
        "stack": "only",
        "site": "output",
        "mode": "zero",
        "ablated_layers": None,
        "layers": layers,
        "hidden_size": hidden_size,
        "parameters": 110_000_000,
        "vocabulary": 30522,
        "scoring": "masked",
        "dtype": "float32",
        "masking": "all",
        "bos": "auto",
        "context": None,
        "generator": None,
        "device": "cpu",
        "expectation": "paper",
        "seed": 0,
        "block_size": 128,
        "exhaustive": False,
        "corpus": "builtin v1 (26,766 words)",
        "corpus_text_blocks": 267,
        "notes": [],
        "quantity": "perplexity",
        "perplexity": 12.5,
        "nats_per_token": 2.53,
        "chance_nats_per_token": 10.3,
        "word_perplexity": 30.1,
        "byte_perplexity": 2.1,
        "bits_per_byte": 1.07,
        "perplexity_text_blocks": 64,
        "perplexity_tokens": 1216,
        "rule": "busters: scale and bias beyond 3 std",
        "expected_by_chance": 2.5e-9,
        "outliers": [outlier],
        "rules": rules,
        "agreement": [
            {"dim": DIM, "rules": ["busters", "massive"]},
            {"dim": 9, "rules": ["massive"]},
        ],
        "baseline": None,
        "checks": [
            check(),
            check("test_joint_ablation_degrades", ratio="inf", interval=(40.0, "inf")),
            control(),
            profile(LAYER_RATIOS[:layers]),
        ],
        "sites": sites(layers, hidden_size),
        "examples": [example()],
        **changes,
    }


def run(*checkpoints: Mapping[str, Any], **changes: Any) -> Facts:
    """A run of checkpoints; by default of one."""
    return {
        "schema": SCHEMA,
        "robustness": "0.1.0",
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "command": "pytest --model=organisation/bert --robustness-html=report.html",
        "started": "2026-01-31T12:00:00+00:00",
        "duration_s": 12.5,
        "confidence": 0.99,
        "comparisons": 4,
        "alpha": 0.0025,
        "policy": None,
        "baseline": None,
        "partial": False,
        "problems": [],
        "exit_status": 0,
        "shard": None,
        "passed": True,
        "checkpoints": list(checkpoints or (checkpoint(),)),
        **changes,
    }
