"""What reports say, under names that no schema decides: for ``same_results.py``.

A schema of a report has one function here that reads it. Sentences, times, paths and versions are
left out.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

Leaf = bool | int | float | str
Flat = dict[str, Leaf]
Report = Mapping[str, Any]

OF_A_RUN = ("confidence", "comparisons", "alpha", "partial", "exit_status", "passed")
OF_A_SHARD = ("index", "count", "expected")
OF_A_CHECKPOINT = (
    *("revision", "architecture", "stack", "site", "mode", "layers", "hidden_size", "parameters"),
    *("vocabulary", "scoring", "dtype", "masking", "bos", "context", "profile", "seed"),
    *("block_size", "exhaustive", "corpus_text_blocks", "quantity", "perplexity"),
    *("nats_per_token", "chance_nats_per_token", "word_perplexity", "byte_perplexity"),
    *("bits_per_byte", "words", "utf8_bytes", "perplexity_text_blocks", "perplexity_tokens"),
    "expected_by_chance",
)
OF_A_CHECK = (
    *("dims", "ratio", "interval", "threshold", "passes", "text_blocks", "tokens", "exact"),
    *("verdict", "course"),
)
FIGURES = ("perplexity", "nats_per_token", "chance_nats_per_token")
PER_TEXT = ("word_perplexity", "byte_perplexity", "bits_per_byte", "words", "utf8_bytes")
OF_A_TASK = ("kind", "metric", "architecture", "examples", "score", "score_examples")


def flat_1(report: Report) -> Flat:
    """A run's report of schema 1: ``checkpoint/test[id]/what`` to value, and the like."""
    found = leaves({name: report.get(name) for name in OF_A_RUN}, "run")
    shard = report.get("shard")  # as some others, not of what was merged
    found |= leaves(shard and {name: shard[name] for name in OF_A_SHARD}, "run/shard")
    for checkpoint in report["checkpoints"]:
        label = checkpoint["label"]
        found |= leaves({name: checkpoint[name] for name in OF_A_CHECKPOINT}, label)
        found |= leaves(checkpoint["outliers"], f"{label}/outliers")
        for rule in checkpoint["rules"]:
            place = f"{label}/rule {rule['rule']}"
            found |= leaves({k: rule[k] for k in ("dims", "expected_by_chance")}, place)
            found |= leaves(rule["outliers"], f"{place}/outliers")
            found |= numbers(rule["details"], f"{place}/details")
        found |= leaves(checkpoint["agreement"], f"{label}/agreement")
        found |= numbers(checkpoint["sites"], f"{label}/sites")
        found |= numbers(checkpoint["baseline"], f"{label}/baseline")
        found |= leaves(checkpoint["examples"], f"{label}/examples")
        task = checkpoint["task"]
        found |= leaves(task and {name: task[name] for name in OF_A_TASK}, f"{label}/task")
        for check in checkpoint["checks"]:
            place = f"{label}/{check['id'].rpartition('::')[2]}"
            found |= leaves({name: check[name] for name in OF_A_CHECK}, place)
            found |= numbers(_renamed(check["details"]), f"{place}/details")
            found |= leaves(check["details"].get("dtype"), f"{place}/details/dtype")
    return found


def _renamed(details: Report) -> Report:
    """Details without what stands with the run or the checkpoint, too, and names that say it."""
    names = {"baseline_perplexity": "then", "baseline_ratio": "then", "ratio_now": "now"}
    elsewhere = ("alpha", "expected_by_chance")
    return {names.get(k, k): value for k, value in details.items() if k not in elsewhere}


def flat_2(report: Report) -> Flat:
    """A run's report of schema 2, under the names of :func:`flat_1`."""
    checkpoints = [_checkpoint_1(checkpoint) for checkpoint in report["checkpoints"]]
    return flat_1({**report, "checkpoints": checkpoints})


def flat_3(report: Report) -> Flat:
    """A run's report of schema 3, likewise: what was the baseline is what is compared with."""

    def check(values: Report) -> Report:
        details = values["details"]
        renamed = {"baseline": details["reference"]} if "reference" in details else {}
        return {**values, "details": {**details, **renamed}}

    checkpoints = [
        {**each, "baseline": each["compared_with"], "checks": list(map(check, each["checks"]))}
        for each in report["checkpoints"]
    ]
    return flat_2({**report, "baseline": report["compared_with"], "checkpoints": checkpoints})


def _checkpoint_1(checkpoint: Report) -> Report:
    intact = checkpoint["intact"] or {}
    return {
        **checkpoint,
        "profile": checkpoint["expectation"],
        **{name: intact.get(name) for name in FIGURES},
        **{name: (intact.get("text") or {}).get(name) for name in PER_TEXT},
        "perplexity_text_blocks": intact.get("text_blocks", 0),
        "perplexity_tokens": intact.get("tokens", 0),
        "examples": next((c["examples"] for c in checkpoint["checks"] if c["examples"]), []),
        "checks": [_check_1(check) for check in checkpoint["checks"]],
    }


def _check_1(check: Report) -> Report:
    entries = [
        {"text_blocks": entry["seen"], "ratio": entry["measured"], **_some(entry, "interval draws")}
        for entry in check["history"]
    ]
    return {
        **check,
        "verdict": check["outcome"],
        "ratio": check["measured"],
        "text_blocks": check["seen"],
        "course": entries or None,
        "details": _details_1(check["details"], of_task=check["unit"] == "examples"),
    }


def _details_1(details: Report, *, of_task: bool) -> Report:
    found: dict[str, Any] = _some(details, "blind_share")
    if intact := details.get("intact"):
        found |= {f"intact_{name}": intact[name] for name in ("perplexity", "nats_per_token")}
        found |= {f"intact_{name}": intact[name] for name in ("text", "text_blocks", "tokens")}
        found |= _some(intact, "chance_nats_per_token")
    if precision := details.get("precision"):
        found |= {"dtype": precision["dtype"], "reduced_precision": precision["costs"]}
    if draws := details.get("draws"):
        harm = "drop" if of_task else "ratio"
        worst = [{"dims": draw["dims"], harm: draw["measured"]} for draw in draws["worst"]]
        if of_task:
            found |= {"task_draws": draws["draws"], "mean_drop": draws["mean"]}
            found |= {"largest_drops": worst}
        else:
            found |= {"draws": draws["draws"], "mean_ratio": draws["mean"], "worst_draws": worst}
            found |= {"quantiles": draws["quantiles"], "draw_ratios": draws["by_draw"]}
    if factor := details.get("factor"):
        unit = "drop" if of_task else "nats_per_block"
        found |= {f"{name}_{unit}": factor[name] for name in ("joint", "control")}
    if layers := details.get("layers"):
        found |= {"layer_profile": layers}
    found |= {f"int8_{name}": value for name, value in (details.get("int8") or {}).items()}
    found |= details.get("task") or {}
    if baseline := details.get("baseline"):
        found |= {"baseline_text_blocks": baseline["text_blocks"]}
        found |= {"then": baseline["then"], "now": baseline["now"]}
    return found | (details.get("outliers") or {})


def _some(values: Report, names: str) -> dict[str, Any]:
    return {name: values[name] for name in names.split() if name in values}


def trace_1(report: Report) -> Flat:
    """A trace of schema 1: ``trace/checkpoint/what``, ``trace/dimension/what``."""
    found = numbers(report["measurement"], "trace/measurement")
    for step in report["steps"]:
        kept = {name: step[name] for name in ("revision", "step", "dims", "measured")}
        found |= leaves(kept, f"trace/{step['label']}")
    for course in report["dimensions"]:
        found |= leaves(course, f"trace/dimension {course['dim']}")
    return found


READERS: Mapping[tuple[str, int], Callable[[Report], Flat]] = {
    ("run", 1): flat_1,
    ("run", 2): flat_2,
    ("run", 3): flat_3,
    ("trace", 1): trace_1,
}


def leaves(value: Any, place: str) -> Flat:
    """What is inside of JSON, by path; nothing of what is null, and infinities as numbers."""
    if isinstance(value, dict | list):
        items: Iterable[tuple[Any, Any]] = (
            value.items() if isinstance(value, dict) else enumerate(value)
        )
        return {k: v for name, item in items for k, v in leaves(item, f"{place}/{name}").items()}
    if value is None:
        return {}
    return {place: float(value) if value in ("inf", "-inf", "nan") else value}


def numbers(value: Any, place: str) -> Flat:
    """The same without text, which may be sentences."""
    return {name: leaf for name, leaf in leaves(value, place).items() if not isinstance(leaf, str)}
