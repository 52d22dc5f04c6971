"""What a planned run will cost, before anything is loaded: an order of magnitude, said as one."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from robustness.run.plan import PlannedCheckpoint, RunPlan
from robustness.scoring.sampling import MASKED_SHARE, TOKENS_PER_DRAW

FIRST_LOOK_BLOCKS, FIRST_LOOK_DRAWS, FACTOR_DRAWS = 32, 64, 128
"""Before these, nothing is decided (STATISTICS.md: text blocks, draws, draws for the factor)."""

BESIDE_WEIGHTS_BYTES = 1.0e9
"""Of a process: libraries, the activations of a micro-batch, a slice of logits."""

_FACTOR = "test_outliers_matter_more_than_chance"
_RANDOM = "test_random_ablation_is_harmless"
_QUANTIZED = "test_quantization_is_harmless"
_NOT_TEXT_BLOCKS = (
    "test_outliers_are_present",
    "test_task_is_learned",
    "test_task_score_drops",
    "test_random_ablation_keeps_task_score",
    "test_outliers_matter_more_for_task",
)
"""Checks that measure nothing, or examples of a task."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The cost of vetting one checkpoint, if nothing of it is in the store.

    Attributes:
        least_blocks: text blocks through the model if every verdict comes at the first look.
        most_blocks: if none comes before its end.
        flops_per_block: floating-point operations of one of them, 2 per parameter and token.
        memory_bytes: of one process.
        least_examples: of the task, likewise.
        most_examples: likewise.
        flops_per_example: likewise.
    """

    least_blocks: int
    most_blocks: int
    flops_per_block: float
    memory_bytes: float
    least_examples: int = 0
    most_examples: int = 0
    flops_per_example: float = 0.0

    def seconds(self, flops_per_s: float) -> tuple[float, float]:
        """At least and at most, at this speed."""
        least = self.least_blocks * self.flops_per_block
        most = self.most_blocks * self.flops_per_block
        return (
            (least + self.least_examples * self.flops_per_example) / flops_per_s,
            (most + self.most_examples * self.flops_per_example) / flops_per_s,
        )


def estimate(planned: PlannedCheckpoint) -> Estimate:
    """The cost of a checkpoint's planned checks."""
    parameters, uses = float(planned.checkpoint["n_parameters"]), _uses(planned)
    found = Estimate(
        least_blocks=0,
        most_blocks=0,
        flops_per_block=2 * parameters * uses * planned.block_size,
        memory_bytes=4 * parameters + BESIDE_WEIGHTS_BYTES,
    )
    if planned.has_perplexity:
        least, most = _text_blocks(planned)
        found = replace(found, least_blocks=least, most_blocks=most)
    if planned.task is not None:
        from robustness.run.task_cost import examples_measured, tokens_per_example

        task, settings = planned.task, planned.settings
        least, most = examples_measured(task, settings, planned.checks)
        tokens = tokens_per_example(task, settings)
        found = replace(
            found,
            least_examples=least,
            most_examples=most,
            flops_per_example=2 * float(task.checkpoint["n_parameters"]) * uses * tokens,
        )
    return found


def _uses(planned: PlannedCheckpoint) -> float:
    """How often a pass uses a parameter: once, unless layers share their weights."""
    stacks = planned.model_profile.anatomy_record.get("stacks", ())
    sites = [site for stack in stacks for site in stack["layers"]]
    layers = {(site["layer_module"], site["layer"]) for site in sites}
    return len(layers) / len({module for module, _ in layers}) if layers else 1.0


def _text_blocks(planned: PlannedCheckpoint) -> tuple[int, int]:
    """Text blocks through the model, at least and at most."""
    n, settings = planned.text_blocks, planned.settings
    fixed: set[tuple[int, ...]] = set()
    draws = quantized = 0
    for check in planned.checks:
        if check.not_applicable is not None or check.test in _NOT_TEXT_BLOCKS:
            continue
        if check.test == _RANDOM:
            draws = max(draws, FIRST_LOOK_DRAWS)
        elif check.test == _QUANTIZED:
            quantized = 1 + bool(check.dims)  # all of it, and all but the outlier dimensions
        elif check.test == _FACTOR:
            draws = max(draws, FACTOR_DRAWS)
            fixed.add(check.dims)
        else:
            fixed.add(check.dims)  # none: the intact model
    fixed.add(())
    per_draw = _blocks_per_draw(planned)
    first = n if settings.exhaustive else min(n, FIRST_LOOK_BLOCKS)
    control = draws * per_draw
    if draws and settings.exhaustive:
        control = max(control, n)
    most_draws = settings.checks.random_ablation_is_harmless.max_draws if draws else 0
    passes = len(fixed) + quantized
    return passes * first + control, passes * n + max(control, most_draws * per_draw)


def _blocks_per_draw(planned: PlannedCheckpoint) -> int:
    """Text blocks until a random draw has scored enough tokens."""
    share = 1.0 if planned.checkpoint["scoring"] == "causal" else MASKED_SHARE
    return -(-TOKENS_PER_DRAW // max(1, round(share * planned.block_size)))


def processor_speed() -> float:
    """Floating-point operations per second that this processor reaches in matrix products."""
    generator = np.random.default_rng(0)
    a = generator.random((512, 768), dtype=np.float32)
    b = generator.random((768, 3072), dtype=np.float32)
    a @ b  # the first call starts threads
    best = min(_timed(a, b) for _ in range(5))
    return 2 * 512 * 768 * 3072 / best


def _timed(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    started = time.perf_counter()
    a @ b
    return time.perf_counter() - started


def describe(plan: RunPlan, flops_per_s: float) -> Mapping[str, list[str]]:
    """Per checkpoint: its checks with their dimensions, and what they will cost."""
    return {
        planned.label: [*_checks(planned), *_cost(planned, flops_per_s)]
        for planned in plan.checkpoints
    }


def _checks(planned: PlannedCheckpoint) -> list[str]:
    lines = []
    for check in planned.checks:
        line = check.test_name(planned.label)
        if check.not_applicable is not None:
            line += f": not applicable, {check.not_applicable}"
        elif check.test in (_RANDOM, "test_random_ablation_keeps_task_score"):
            line += f": {len(check.dims)} random, many times"
        elif check.dims:
            line += f": dimension{'s' * (len(check.dims) > 1)} {', '.join(map(str, check.dims))}"
        if check.expected_failure is not None:
            line += f" ({check.expected_failure})"
        lines.append(line)
    return lines


def _cost(planned: PlannedCheckpoint, flops_per_s: float) -> list[str]:
    found = estimate(planned)
    parts = []
    if planned.has_perplexity:
        parts.append(
            f"{found.least_blocks:,} to {found.most_blocks:,} text blocks of "
            f"{planned.block_size} tokens"
        )
    if planned.task is not None:
        parts.append(f"{found.least_examples:,} to {found.most_examples:,} examples")
    work = f"estimate: {' and '.join(parts)} through the model, fewer where the store holds numbers"
    if planned.settings.device == "cpu":
        low, high = (_duration(seconds) for seconds in found.seconds(flops_per_s))
        work += (
            f"; about {low} to {high} on this processor (it reaches {flops_per_s / 1e9:.0f} "
            "GFLOP/s in matrix products)"
        )
    memory = f"about {found.memory_bytes / 1e9:.1f} GB of memory; workers share the weights"
    return [f"{work}; {memory}"]


def _duration(seconds: float) -> str:
    for size, unit in ((3600.0, "h"), (60.0, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
