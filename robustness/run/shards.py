"""A part of a planned run: what one of several machines vets, and how to know it again."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from robustness import __version__
from robustness.errors import PolicyError
from robustness.run.plan import PlannedCheckpoint, RunPlan
from robustness.runtime.libraries import library_versions
from robustness.store.store import digest

MOST_SHARDS = 10_000


@dataclass(frozen=True, kw_only=True)
class Part:
    """Shard ``index`` of ``count``, from 1 on."""

    index: int
    count: int

    def __str__(self) -> str:
        """As it is asked for: ``1/3``."""
        return f"{self.index}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> "Part":
        """Read ``i/n``, or raise a PolicyError."""
        match = re.fullmatch(r"(\d{1,5})/(\d{1,5})", text, re.ASCII)
        index, count = map(int, match.groups()) if match else (0, 0)
        if not 1 <= index <= count <= MOST_SHARDS:
            raise PolicyError(f"--robustness-shard must be i/n with 1 <= i <= n, not {text!r}")
        return cls(index=index, count=count)


def take(plan: RunPlan, part: Part) -> RunPlan:
    """The part of a plan that one shard vets: every n-th checkpoint.

    With fewer checkpoints than shards, an equal share of the checks instead. The number of
    comparisons, and so alpha, stays that of the whole plan.

    Raises:
        PolicyError: if nothing is left for it.
    """
    names = {
        planned.label: [check.test_name(planned.label) for check in planned.checks]
        for planned in plan.checkpoints
    }
    whole = [name for group in names.values() for name in group]
    if len(plan.checkpoints) >= part.count:
        labels = list(names)[part.index - 1 :: part.count]
        mine = [name for label in labels for name in names[label]]
    else:
        n = len(whole)
        mine = [name for j, name in enumerate(whole) if j * part.count // n == part.index - 1]
    if not mine or part.count > max(len(whole), len(plan.checkpoints)):
        raise PolicyError(
            f"shard {part} has nothing to do: the run has {len(whole)} checks, so use at most "
            f"{len(whole)} shards"
        )
    wanted = set(mine)
    checkpoints = []
    for planned in plan.checkpoints:
        named = zip(planned.checks, names[planned.label], strict=True)
        if checks := tuple(check for check, name in named if name in wanted):
            checkpoints.append(replace(planned, checks=checks))
    facts = {
        "index": part.index,
        "count": part.count,
        "plan": digest(_identity(plan)),
        "expected": mine,
        "all": names,
    }
    return replace(plan, checkpoints=tuple(checkpoints), shard=facts)


def _identity(plan: RunPlan) -> Mapping[str, Any]:
    """What the shards of one run have in common, and those of another have not."""
    return {
        "robustness": __version__,
        "versions": library_versions(),
        "confidence": plan.confidence,
        "comparisons": plan.comparisons,
        "checkpoints": [_of_checkpoint(planned) for planned in plan.checkpoints],
    }


def _of_checkpoint(planned: PlannedCheckpoint) -> Mapping[str, Any]:
    checkpoint = planned.checkpoint
    return {
        "label": planned.label,
        "revision": checkpoint["revision"],
        "hashes": [checkpoint.get(f"{name}_hash") for name in ("weights", "tokenizer", "config")],
        "settings": planned.settings.model_dump(),
        "corpus": planned.corpus,
        "block_size": planned.block_size,
        "text_blocks": planned.text_blocks,
        "checks": [check.to_dict() for check in planned.checks],
        "compared_with": planned.reference and digest(planned.reference.to_dict()),
        "task": planned.task and planned.task.content,
    }
