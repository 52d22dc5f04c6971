"""Reports of runs that never were."""

from collections.abc import Sequence
from typing import Any

from robustness.report.parts import OutlierDimension, RuleResult
from robustness.report.results import SCHEMA, CheckpointResult, CheckResult, Report, Shard
from robustness.statistics.figures import IntactFigures

HOSTILE = (
    "::error::pwned", " ::error file=a::b", "##[error]x", "##[set-env name=a]b", "a\n::error::b",
    "a\r::warning::b", "\x1b[2J", "\x1b]0;t\x07", "<script>alert(1)</script>", "<b>", "</code>",
    "<!--", "-->", "<details>", "</details>", "&lt;", "&#42;", "`", "``", "`a`", "|", r"\|",
    "a|b|c", "*a*", "**", "__a__", "~~a~~", "[a](javascript:x)", "![a](http://x/y.png)", "<http://x>",
    "http://x.y", "www.x.y", "# a", "- a", "1. a", "> a", "---", "===",
    "\n\n# a", "\n| a |\n|---|",
    "$a$", "@everyone", "\\", "\\\\", "%0A::error::x", "%", "a,b", "title=x", "::", "::]]>",
    "\u202e", "\u2028", "\x00", "\ud800", "  ", " a ", "=", "+",
)  # fmt: skip
"""What Markdown, HTML, terminals and GitHub's runner would act upon."""


def check(outcome: str = "pass", *, measured: float | None = 4.0, **changes: Any) -> CheckResult:
    """A decided check."""
    found: dict[str, Any] = {
        "id": "robustness/test_outliers.py::test_joint_ablation_degrades[it-dim7]",
        "check": "joint_ablation_degrades",
        "dims": (7,),
        "outcome": outcome,
        "statement": "ablating dimension 7 multiplies perplexity by at least 1.5",
        "measured": measured,
        "interval": None if measured is None else (3.0, float("inf")),
        "threshold": 1.5,
        "passes": "above",
        "seen": 32,
        "tokens": 600,
        **changes,
    }
    if found["threshold"] is None:
        found["passes"] = None
    return CheckResult(**found)


def intact(perplexity: float | None = 20.7, **changes: Any) -> IntactFigures:
    """The intact model of a checkpoint."""
    found: dict[str, Any] = {
        "nats_per_token": 3.03,
        "chance_nats_per_token": 10.3,
        "text_blocks": 32,
        "tokens": 608,
        **changes,
    }
    return IntactFigures(perplexity=perplexity, **found)


def outlier(dim: int = 7, **changes: Any) -> OutlierDimension:
    """A dimension that was found in both layers."""
    found: dict[str, Any] = {
        "layers": (0, 1),
        "z_scale": (4.0, 5.0),
        "z_bias": (9.0, -8.0),
        "statistics": {},
        "details": {},
        **changes,
    }
    return OutlierDimension(dim=dim, **found)


def rule(name: str, dims: tuple[int, ...] = (7,), **changes: Any) -> RuleResult:
    """What a rule found."""
    found: dict[str, Any] = {
        "description": f"{name}: in some way",
        "expected_by_chance": None,
        "outliers": (),
        "details": {},
        **changes,
    }
    return RuleResult(rule=name, dims=dims, **found)


def checkpoint(
    label: str = "it", *, checks: Sequence[CheckResult] | None = None, **changes: Any
) -> CheckpointResult:
    """A checkpoint of a run."""
    found: dict[str, Any] = {
        "label": label,
        "reference": f"organisation/{label}",
        "revision": "0123456789abcdef",
        "architecture": "BertForMaskedLM",
        "stack": "only",
        "vocabulary": 30522,
        "layers": 2,
        "hidden_size": 32,
        "parameters": 19408,
        "site": "output",
        "mode": "zero",
        "ablated_layers": "all",
        "scoring": "masked",
        "dtype": "float32",
        "masking": "all",
        "bos": "auto",
        "context": None,
        "generator": None,
        "generator_revision": None,
        "device": "cpu",
        "expectation": "paper",
        "change": "conversion",
        "seed": 0,
        "block_size": 128,
        "exhaustive": False,
        "corpus": "text.txt (20,000 words)",
        "corpus_text_blocks": 156,
        "notes": (),
        "quantity": "perplexity",
        "intact": intact(),
        "rule": "busters",
        "expected_by_chance": 1e-5,
        "outliers": (outlier(),),
        "rules": (),
        "agreement": (),
        "sites": None,
        "compared_with": None,
        "task": None,
        "checks": (check(),) if checks is None else tuple(checks),
        **changes,
    }
    return CheckpointResult(**_strictly(found))


def run(*checkpoints: CheckpointResult, **changes: Any) -> Report:
    """A run of these checkpoints."""
    failed = any(point.refused for point in checkpoints) or bool(changes.get("problems"))
    found: dict[str, Any] = {
        "schema": SCHEMA,
        "robustness": "0.1.0",
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "command": "pytest --model=it",
        "started": "2026-01-02T03:04:05+00:00",
        "duration_s": 75.2,
        "confidence": 0.99,
        "comparisons": 4,
        "alpha": 0.0025,
        "policy": None,
        "compared_with": None,
        "partial": False,
        "problems": (),
        "exit_status": int(failed),
        "passed": not failed,
        "shard": None,
        "merged": None,
        "checkpoints": checkpoints,
        **changes,
    }
    return Report(**_strictly(found))


def _strictly(found: dict[str, Any]) -> dict[str, Any]:
    """Sequences as a report holds them."""
    return {name: tuple(x) if isinstance(x, list) else x for name, x in found.items()}


def shard(index: int = 1, count: int = 1) -> Shard:
    """A part of a run."""
    name = "test_joint_ablation_degrades[it-dim7]"
    return Shard(index=index, count=count, plan="0" * 64, expected=(name,), all={"it": (name,)})


def shard_report() -> Report:
    """The only shard of a run."""
    return run(checkpoint(), shard=shard(), passed=False)
