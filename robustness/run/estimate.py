"""What a planned run will cost, before anything is loaded: an order of magnitude, said as one."""

import timeit
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from robustness.checks.check import Cost, Source
from robustness.checks.control import RandomAblationIsHarmless
from robustness.checks.registry import CHECKS
from robustness.checks.tasks.control import EXAMPLES_PER_DRAW, RandomAblationKeepsTaskScore
from robustness.measurement.planned_task import PlannedTask
from robustness.run.plan import PlannedCheckpoint, RunPlan
from robustness.scoring.sampling import MASKED_SHARE, TOKENS_PER_DRAW
from robustness.tasks.decisions import FIRST_BOOTSTRAP, FIRST_LOOK, FIRST_LOOK_AT_DRAWS
from robustness.tasks.metrics import MEANS

FIRST_LOOK_BLOCKS = 32
"""Text blocks before which nothing is decided (STATISTICS.md)."""

_TOKENS_PER_WORD = 4 / 3
_SPECIAL_TOKENS = 3

BESIDE_WEIGHTS_BYTES = 1.0e9
"""Of a process: libraries, the activations of a micro-batch, a slice of logits."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The cost of vetting one checkpoint, if nothing of it is in the store."""

    least_blocks: int  # text blocks through the model if every verdict comes at the first look
    most_blocks: int  # if none comes before its end
    flops_per_block: float  # floating-point operations of one of them, 2 per parameter and token
    memory_bytes: float  # of one process
    least_examples: int = 0  # the same three of the task
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
    result = Estimate(
        least_blocks=0,
        most_blocks=0,
        flops_per_block=2 * parameters * uses * planned.block_size,
        memory_bytes=4 * parameters + BESIDE_WEIGHTS_BYTES,
    )
    if planned.has_perplexity:
        least, most = _text_blocks(planned)
        result = replace(result, least_blocks=least, most_blocks=most)
    if planned.task is not None:
        task = planned.task
        least, most = _examples(planned, task)
        by_words = task.words * _TOKENS_PER_WORD + _SPECIAL_TOKENS
        tokens = min(planned.settings.task.max_length, by_words)
        result = replace(
            result,
            least_examples=least,
            most_examples=most,
            flops_per_example=2 * float(task.checkpoint["n_parameters"]) * uses * tokens,
        )
    return result


def _uses(planned: PlannedCheckpoint) -> float:
    """How often a pass uses a parameter: once, unless layers share their weights."""
    stacks = planned.model_profile.anatomy_record.get("stacks", ())
    sites = [site for stack in stacks for site in stack["layers"]]
    layers = {(site["layer_module"], site["layer"]) for site in sites}
    return len(layers) / len({module for module, _ in layers}) if layers else 1.0


def _text_blocks(planned: PlannedCheckpoint) -> tuple[int, int]:
    """Text blocks through the model, at least and at most."""
    n, settings = planned.text_blocks, planned.settings
    costs = costs_of(planned, "files", "text", "reference")
    ablations = {(), *(dims for cost in costs for dims in cost.ablations)}  # (): the intact model
    draws = max((cost.draws for cost in costs), default=0)
    share = 1.0 if planned.checkpoint["scoring"] == "causal" else MASKED_SHARE
    per_draw = -(-TOKENS_PER_DRAW // max(1, round(share * planned.block_size)))
    first = n if settings.exhaustive else min(n, FIRST_LOOK_BLOCKS)
    control = draws * per_draw
    if draws and settings.exhaustive:
        control = max(control, n)
    limits = RandomAblationIsHarmless().limits_in(settings.terms)
    most_draws = limits.max_draws if draws else 0
    passes = len(ablations) + sum(cost.passes for cost in costs)
    return passes * first + control, passes * n + max(control, most_draws * per_draw)


def costs_of(planned: PlannedCheckpoint, *sources: Source) -> list[Cost]:
    """What the checks of a checkpoint measure that rest on these."""
    return [
        CHECKS[check.check].cost(check)
        for check in planned.checks
        if check.not_applicable is None and CHECKS[check.check].source in sources
    ]


def _examples(planned: PlannedCheckpoint, task: PlannedTask) -> tuple[int, int]:
    """Examples through the model if every verdict comes at the first look, and if none does."""
    n, is_mean = task.examples, task.metric in MEANS
    per_draw = 1 if is_mean else EXAMPLES_PER_DRAW
    usual = FIRST_LOOK if is_mean else FIRST_BOOTSTRAP
    first = n if planned.settings.exhaustive else min(n, usual)
    costs = costs_of(planned, "task")
    draws = max((cost.draws for cost in costs), default=0)
    if draws and is_mean:
        draws = max(draws, FIRST_LOOK_AT_DRAWS)
    control = draws * per_draw
    ablated: dict[tuple[int, ...], int] = {(): max(first, min(n, control))}
    for cost in costs:
        beside = min(n, cost.draws * per_draw)
        for dims in cost.ablations:
            ablated[dims] = max(first, cost.recorded, beside, ablated.get(dims, 0))
    limits = RandomAblationKeepsTaskScore().limits_in(planned.settings.terms)
    least = sum(min(n, examples) for examples in ablated.values()) + control
    most = limits.max_examples if draws else 0
    return least, len(ablated) * n + max(control, most)


def processor_speed() -> float:
    """Return floating-point operations per second that matrix products reach here."""
    generator = np.random.default_rng(0)
    a = generator.random((512, 768), dtype=np.float32)
    b = generator.random((768, 3072), dtype=np.float32)
    a @ b  # the first call starts threads
    best = min(timeit.repeat(lambda: a @ b, number=1, repeat=5))
    return 2 * 512 * 768 * 3072 / best


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
        elif CHECKS[check.check].random:
            line += f": {len(check.dims)} random, many times"
        elif check.dims:
            line += f": dimension{'s' * (len(check.dims) > 1)} {', '.join(map(str, check.dims))}"
        if check.expected_failure is not None:
            line += f" ({check.expected_failure})"
        lines.append(line)
    return lines


def _cost(planned: PlannedCheckpoint, flops_per_s: float) -> list[str]:
    cost = estimate(planned)
    parts = []
    if planned.has_perplexity:
        parts.append(
            f"{cost.least_blocks:,} to {cost.most_blocks:,} text blocks of "
            f"{planned.block_size} tokens"
        )
    if planned.task is not None:
        parts.append(f"{cost.least_examples:,} to {cost.most_examples:,} examples")
    work = f"estimate: {' and '.join(parts)} through the model, fewer where the store holds numbers"
    if planned.settings.device == "cpu":
        low, high = (_duration(seconds) for seconds in cost.seconds(flops_per_s))
        work += (
            f"; about {low} to {high} on this processor (it reaches {flops_per_s / 1e9:.0f} "
            "GFLOP/s in matrix products)"
        )
    memory = f"about {cost.memory_bytes / 1e9:.1f} GB of memory; workers share the weights"
    return [f"{work}; {memory}"]


def _duration(seconds: float) -> str:
    units = ((3600.0, "h"), (60.0, "min"), (1.0, "s"))
    size, unit = next((pair for pair in units if seconds >= pair[0]), units[-1])
    return f"{seconds / size:.1f} {unit}"
