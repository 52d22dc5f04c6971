"""The plan of a run: every checkpoint, what was found in it, and the checks it gets.

Made once, before any test runs; plain data, so that every worker process holds the same one.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from robustness import __version__
from robustness.checkpoint.checkpoint import Checkpoint
from robustness.checks.planned import PlannedCheck, with_expectations
from robustness.errors import PlanError
from robustness.measurement.planned_task import PlannedTask
from robustness.outliers.model_profile import ModelProfile
from robustness.policy.settings import Settings
from robustness.reference.baseline import CheckpointBaseline
from robustness.runtime.devices import Dtype
from robustness.statistics.sequential import alpha_for
from robustness.store.context import Context
from robustness.store.store import digest
from robustness.vetting import Vetting


@dataclass(frozen=True, kw_only=True)
class PlannedCheckpoint:
    """One checkpoint of a run."""

    label: str  # its short name in test ids, unique in the run
    checkpoint: Mapping[str, Any]  # resolved, in plain JSON types
    settings: Settings  # the policy's settings for it
    model_profile: ModelProfile  # anatomy and outlier dimensions
    corpus: str  # description of the text
    block_size: int  # tokens of a text block at most, specials included
    text_blocks: int  # text blocks in the corpus
    notes: tuple[str, ...]  # what the user should know about the checkpoint or the corpus
    checks: tuple[PlannedCheck, ...]  # in the order of the suite
    dtype: Dtype = "float32"  # the precision that may be used besides float32
    # what it is compared with: another checkpoint, or a saved profile
    reference: "PlannedCheckpoint | CheckpointBaseline | None" = None
    # the masked language model that replaces a discriminator's tokens, resolved
    generator: Mapping[str, Any] | None = None
    # what it is asked beside, or instead of, being a language model
    task: PlannedTask | None = None

    @property
    def has_perplexity(self) -> bool:
        """Whether it is a language model; otherwise there are no text blocks."""
        return bool(self.checkpoint["scoring"] != "task")

    def load(self) -> Checkpoint:
        """The checkpoint itself; nothing is resolved again."""
        return Checkpoint.from_dict(self.checkpoint)

    def vetting(
        self,
        context: Context,
        *,
        confidence: float = 0.99,
        device: str | None = None,
        is_reference: bool = False,
    ) -> Vetting:
        """Return the checkpoint as it was planned; nothing is resolved, read or detected again.

        ``device`` is where it runs, if not where the policy says; ``is_reference`` if another is
        compared with it.
        """
        changes = {} if device is None else {"device": device}
        other: Vetting | CheckpointBaseline | None = None
        if isinstance(self.reference, PlannedCheckpoint):
            other = self.reference.vetting(context, device=device, is_reference=True)
        elif self.reference is not None:
            other = self.reference
        return Vetting(
            checkpoint=self.load(),
            settings=self.settings.model_copy(update=changes),
            context=context,
            confidence=confidence,
            model_profile=self.model_profile,
            generator=None if self.generator is None else Checkpoint.from_dict(self.generator),
            compared_with=other,
            is_reference=is_reference,
            task=self.task,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        parts = {name: getattr(self, name) for name in ("model_profile", "reference", "task")}
        return {
            **vars(self),
            "settings": self.settings.model_dump(),
            "checks": [check.to_dict() for check in self.checks],
            **{name: None if part is None else part.to_dict() for name, part in parts.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "PlannedCheckpoint":
        """The inverse of :meth:`to_dict`."""
        reference, task = data["reference"], data["task"]
        if reference is not None:
            kind = cls if "checks" in reference else CheckpointBaseline
            reference = kind.from_dict(reference)
        changes = {
            "settings": Settings.model_validate(data["settings"]),
            "model_profile": ModelProfile.from_dict(data["model_profile"]),
            "notes": tuple(data["notes"]),
            "checks": tuple(map(PlannedCheck.from_dict, data["checks"])),
            "reference": reference,
            "task": None if task is None else PlannedTask.from_dict(task),
        }
        return cls(**{**data, **changes})


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """Everything that is known before the first test."""

    checkpoints: tuple[PlannedCheckpoint, ...]  # in the order they were named
    confidence: float  # with which all verdicts of the run together are right
    comparisons: int  # statistical comparisons in the full plan (m)
    store_root: Path  # folder of the store
    policy_source: str | None  # file that the policy came from; ``None`` for defaults
    reference_source: str | None = None  # what the checkpoints are compared with, as it was named
    # seconds since the epoch; what the store has from before is not used
    newer_than: float | None = None
    # which part of a plan this is, and what the whole is; ``None`` for a whole
    shard: Mapping[str, Any] | None = None

    @property
    def context(self) -> Context:
        """Its store, for whoever only reads numbers."""
        return Context(root=self.store_root, newer_than=self.newer_than)

    @property
    def alpha(self) -> float:
        """Error probability of one comparison, (1 - confidence) / m."""
        return alpha_for(self.confidence, self.comparisons)

    def named(self, label: str) -> PlannedCheckpoint:
        """The checkpoint with this label."""
        return next(planned for planned in self.checkpoints if planned.label == label)

    def expecting(self, today: date) -> "RunPlan":
        """The plan with the failures that its checkpoints' policy expects."""
        checkpoints = []
        for planned in self.checkpoints:
            checks = with_expectations(planned.checks, planned.settings.limits, today=today)
            checkpoints.append(replace(planned, checks=checks))
        return replace(self, checkpoints=tuple(checkpoints))

    def to_json(self) -> str:
        """Return one text that holds the plan, with its checksum."""
        checkpoints = [planned.to_dict() for planned in self.checkpoints]
        plan = {**vars(self), "store_root": str(self.store_root), "checkpoints": checkpoints}
        return json.dumps({"robustness": __version__, "plan": plan, "sha256": digest(plan)})

    @classmethod
    def from_json(cls, text: str) -> "RunPlan":
        """Return the plan that :meth:`to_json` has written, or raise a PlanError."""
        plan = _unsealed(text)
        checkpoints = tuple(map(PlannedCheckpoint.from_dict, plan["checkpoints"]))
        root = Path(plan["store_root"])
        return cls(**{**plan, "store_root": root, "checkpoints": checkpoints})


def _unsealed(text: str) -> Mapping[str, Any]:
    try:
        sealed = json.loads(text)
        plan: Mapping[str, Any] = sealed["plan"]
        version, intact = sealed["robustness"], digest(plan) == sealed["sha256"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise PlanError("what was handed to a worker is no plan of a run") from None
    if version != __version__:
        raise PlanError(
            f"the plan of the run was made by pytest-robustness {str(version)[:40]}, and this "
            f"worker has {__version__}: install the same version everywhere"
        )
    if not intact:
        raise PlanError("the plan of the run was changed on its way to a worker")
    return plan
