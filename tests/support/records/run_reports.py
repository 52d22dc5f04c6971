"""Facts of runs that never were, as the JSON report holds them."""

from typing import Any

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


def check(
    verdict: str = "pass",
    *,
    ratio: float | str | None = 4.0,
    threshold: float | None = 1.5,
    passes: str | None = "above",
    reason: str = "",
) -> dict[str, Any]:
    """A decided check."""
    return {
        "id": "robustness/test_outliers.py::test_joint_ablation_degrades[it-dim7]",
        "check": "test_joint_ablation_degrades",
        "dims": [7],
        "ratio": ratio,
        "interval": None if ratio is None else [3.0, "inf"],
        "threshold": threshold,
        "passes": None if threshold is None else passes,
        "text_blocks": 32,
        "tokens": 600,
        "exact": False,
        "verdict": verdict,
        "expected_failure": None,
        "statement": "ablating dimension 7 multiplies perplexity by at least 1.5",
        "reason": reason,
        "details": {},
    }


def checkpoint(
    label: str = "it", *, checks: list[dict[str, Any]] | None = None, **changes: Any
) -> dict[str, Any]:
    """A checkpoint of a run."""
    outlier = {"dim": 7, "layers": [0, 1], "z_scale": [4.0, 5.0], "z_bias": [9.0, -8.0]}
    return {
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
        "device": "cpu",
        "expectation": "paper",
        "seed": 0,
        "block_size": 128,
        "exhaustive": False,
        "corpus": "text.txt (20,000 words)",
        "corpus_text_blocks": 156,
        "notes": [],
        "quantity": "perplexity",
        "perplexity": 20.7,
        "nats_per_token": 3.03,
        "perplexity_text_blocks": 32,
        "perplexity_tokens": 608,
        "rule": "busters",
        "expected_by_chance": 1e-5,
        "outliers": [{**outlier, "statistics": {}, "details": {}}],
        "baseline": None,
        "checks": [check()] if checks is None else checks,
        **changes,
    }


def run(*checkpoints: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A run of these checkpoints."""
    verdicts = {check["verdict"] for point in checkpoints for check in point["checks"]}
    failed = not verdicts <= {"pass", "not applicable"} or bool(changes.get("problems"))
    return {
        "schema": 1,
        "robustness": "0.1.0",
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "started": "2026-01-02T03:04:05+00:00",
        "duration_s": 75.2,
        "confidence": 0.99,
        "comparisons": 4,
        "alpha": 0.0025,
        "baseline": None,
        "policy": None,
        "partial": False,
        "problems": [],
        "exit_status": int(failed),
        "shard": None,
        "passed": not failed,
        "command": "pytest --model=it",
        "checkpoints": list(checkpoints),
        **changes,
    }


def shard_facts() -> dict[str, Any]:
    """The only shard of a run."""
    name = "test_joint_ablation_degrades[it-dim7]"
    shard = {"index": 1, "count": 1, "plan": "0" * 64, "expected": [name], "all": {"it": [name]}}
    return {**run(checkpoint()), "shard": shard, "passed": False}
