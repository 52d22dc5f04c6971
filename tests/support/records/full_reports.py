"""Reports in which everything there is to show is there, with numbers that tests choose."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from robustness.report.parts import Agreement, Example, Guess, Piece, Sites
from robustness.report.results import CheckpointResult, CheckResult, Report
from robustness.statistics.details import Details
from robustness.statistics.figures import DrawFigures, HistoryEntry, LayerFigure, TextFigures
from tests.support.records import run_reports

LAYERS, HIDDEN_SIZE, DIM = 6, 40, 7
LAYER_RATIOS = (1.1, 1.2, 5.0, 1.0, math.inf, 1.3)
HOSTILE = "</script><img src=x onerror=pwned()><b>&amp;\u202e\x1b[31m%{x}"


def check(name: str = "ablation_degrades", outcome: str = "pass", **changes: Any) -> CheckResult:
    """One decided check."""
    found: dict[str, Any] = {
        "id": f"robustness/test_outliers.py::test_{name}[bert]",
        "check": name,
        "dims": (DIM,),
        "measured": 3.0,
        "interval": (2.0, 4.5),
        "threshold": 1.05,
        "seen": 64,
        "tokens": 1216,
        "statement": "ablating dimension 7 multiplies perplexity by at least 1.05",
        **changes,
    }
    found.setdefault("history", history(found["measured"], found["interval"]))
    return run_reports.check(outcome, **found)


def history(
    measured: float | None, interval: tuple[float, float] | None
) -> tuple[HistoryEntry, ...]:
    """Decisions after 16 to 64 text blocks that end in the verdict's."""
    if interval is None or measured is None or not math.isfinite(measured):
        return ()
    low, high = interval
    return (
        HistoryEntry(seen=16, measured=measured * 1.3),
        HistoryEntry(seen=32, measured=measured * 1.2, interval=(low / 2, high * 2)),
        HistoryEntry(seen=48, measured=measured * 1.1, interval=(low / 1.5, high * 1.5)),
        HistoryEntry(seen=64, measured=measured, interval=interval),
    )


def control(ratios: Sequence[float] = (0.99, 1.0, 1.02, 1.3)) -> CheckResult:
    """The random control with its draws."""
    return check(
        "random_ablation_is_harmless",
        measured=1.01,
        interval=(1.0, 1.05),
        threshold=1.1,
        passes="below",
        details=Details(draws=DrawFigures(draws=len(ratios), mean=1.08, by_draw=tuple(ratios))),
    )


def profile(ratios: Sequence[float]) -> CheckResult:
    """A layer profile."""
    layers = tuple(
        LayerFigure(layer=n, ratio=r, interval=None if math.isinf(r) else (r / 1.2, r * 1.3))
        for n, r in enumerate(ratios)
    )
    return check(
        "layer_profile",
        measured=max(ratios),
        interval=None,
        threshold=None,
        details=Details(layers=layers),
    )


def sites(layers: int = LAYERS, hidden_size: int = HIDDEN_SIZE, seed: int = 0) -> Sites:
    """Random parameters with an outlier in dimension 7 of every layer, and their z-scores."""
    generator = np.random.default_rng(seed)
    scale = generator.normal(1.0, 0.1, (layers, hidden_size))
    bias = generator.normal(0.0, 0.05, (layers, hidden_size))
    outlier = DIM if hidden_size > DIM else 1
    scale[:, outlier], bias[:, outlier] = 3.0, -2.0
    found: dict[str, Any] = {"site": "output norm", "dims": None}
    for name, values in (("scale", scale), ("bias", bias)):
        z = (values - values.mean(1, keepdims=True)) / values.std(1, ddof=1, keepdims=True)
        found[name] = tuple(tuple(float(f"{x:.5g}") for x in row) for row in values)
        found[f"{name}_z"] = tuple(tuple(float(f"{x:.4g}") for x in row) for row in z)
    return Sites(**found)


def example(text: str = "The capital of") -> Example:
    """A masked sentence."""
    target = Piece(
        text=" France",
        target=True,
        intact=Guess(text=" France", p=0.93),
        ablated=Guess(text="the", p=0.08),
        intact_p_target=0.93,
        ablated_p_target=1e-6,
    )
    pieces = (Piece(text=text), target)
    return Example(text_block=5, kind="masked", dims=(DIM,), seed=0, pieces=pieces)


def checkpoint(*, examples: tuple[Example, ...] | None = None, **changes: Any) -> CheckpointResult:
    """A checkpoint in which everything there is to show is there."""
    layers, hidden_size = changes.get("layers", LAYERS), changes.get("hidden_size", HIDDEN_SIZE)
    z = tuple(5.0 + n for n in range(layers))
    shown = (example(),) if examples is None else examples
    found: dict[str, Any] = {
        "label": "bert",
        "ablated_layers": None,
        "layers": layers,
        "hidden_size": hidden_size,
        "parameters": 110_000_000,
        "corpus": "builtin v1 (26,766 words)",
        "corpus_text_blocks": 267,
        "intact": intact(),
        "rule": "busters: scale and bias beyond 3 std",
        "expected_by_chance": 2.5e-9,
        "outliers": (
            run_reports.outlier(
                DIM, layers=tuple(range(layers)), z_scale=z, z_bias=tuple(-x for x in z)
            ),
        ),
        "rules": (
            run_reports.rule("busters", description="busters: scale and bias"),
            run_reports.rule("massive", (DIM, 9), description="massive: large values"),
        ),
        "agreement": (
            Agreement(dim=DIM, rules=("busters", "massive")),
            Agreement(dim=9, rules=("massive",)),
        ),
        "checks": (
            check(),
            check(
                "joint_ablation_degrades",
                measured=math.inf,
                interval=(40.0, math.inf),
                examples=shown,
            ),
            control(),
            profile(LAYER_RATIOS[:layers]),
        ),
        "sites": sites(layers, hidden_size),
        **changes,
    }
    return run_reports.checkpoint(**found)


def intact(**changes: Any) -> Any:
    """The intact model, also per word and byte."""
    text = TextFigures(
        word_perplexity=30.1, byte_perplexity=2.1, bits_per_byte=1.07, words=900, utf8_bytes=5000
    )
    found = {"perplexity": 12.5, "nats_per_token": 2.53, "text": text, "text_blocks": 64}
    return run_reports.intact(**{**found, "tokens": 1216, **changes})


def run(*checkpoints: CheckpointResult, **changes: Any) -> Report:
    """A run of checkpoints; by default of one."""
    found: dict[str, Any] = {
        "command": "pytest --model=organisation/bert --robustness-html=report.html",
        "started": "2026-01-31T12:00:00+00:00",
        "duration_s": 12.5,
        "passed": True,
        "exit_status": 0,
        **changes,
    }
    return run_reports.run(*(checkpoints or (checkpoint(),)), **found)
