"""The plan of a run: every checkpoint, what was found in it, and the checks it gets.

Made once, before any test runs; plain data, so that every worker process holds the same one.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustness import __version__
from robustness.checks.checks import Check, planned_checks
from robustness.checks.expected import with_expectations
from robustness.corpus.corpus import load_corpus
from robustness.errors import NoLanguageModel, PlanError, PolicyError
from robustness.outliers.model_profile import ModelProfile
from robustness.policy.policy import Policy, Settings
from robustness.reference.baseline import CheckpointBaseline
from robustness.run.planned_task import PlannedTask, plan_task
from robustness.runtime.devices import Dtype, device_count
from robustness.runtime.libraries import library_versions
from robustness.statistics.verdict import alpha_for
from robustness.store.store import digest
from robustness.vetting import Vetting

if TYPE_CHECKING:
    from robustness.checkpoint.checkpoint import Checkpoint


MOSTLY_KNOWN = 0.05
"""Share of unknown tokens from which a corpus is unlikely to suit a model."""


@dataclass(frozen=True, kw_only=True)
class PlannedCheckpoint:
    """One checkpoint of a run.

    Attributes:
        label: its short name in test ids, unique in the run.
        checkpoint: resolved, in plain JSON types.
        settings: the policy's settings for it.
        model_profile: anatomy and outlier dimensions.
        corpus: description of the text.
        block_size: tokens of a text block at most, specials included.
        text_blocks: text blocks in the corpus.
        notes: what the user should know about the checkpoint or the corpus.
        checks: in the order of the suite.
        dtype: the precision that may be used besides float32.
        baseline: the profile that it is compared with.
        generator: the masked language model that replaces a discriminator's tokens, resolved.
        task: what it is asked beside, or instead of, being a language model.
    """

    label: str
    checkpoint: Mapping[str, Any]
    settings: Settings
    model_profile: ModelProfile
    corpus: str
    block_size: int
    text_blocks: int
    notes: tuple[str, ...]
    checks: tuple[Check, ...]
    dtype: Dtype = "float32"
    baseline: CheckpointBaseline | None = None
    generator: Mapping[str, Any] | None = None
    task: PlannedTask | None = None

    @property
    def has_perplexity(self) -> bool:
        """Whether it is a language model; otherwise there are no text blocks."""
        return bool(self.checkpoint["scoring"] != "task")

    def load(self) -> "Checkpoint":
        """The checkpoint itself; nothing is resolved again."""
        from robustness.checkpoint.checkpoint import Checkpoint

        return Checkpoint.from_dict(self.checkpoint)

    def load_generator(self) -> "Checkpoint | None":
        """The generator itself, if one is named; nothing is resolved again."""
        from robustness.checkpoint.checkpoint import Checkpoint

        return None if self.generator is None else Checkpoint.from_dict(self.generator)


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """Everything that is known before the first test.

    Attributes:
        checkpoints: in the order they were named.
        confidence: with which all verdicts of the run together are right.
        comparisons: statistical comparisons in the full plan (m).
        store_root: folder of the store.
        policy_source: file that the policy came from; ``None`` for defaults.
        baseline_source: file of the profile that the checkpoints are compared with.
        newer_than: seconds since the epoch; what the store has from before is not used.
        shard: which part of a plan this is, and what the whole is; ``None`` for a whole.
    """

    checkpoints: tuple[PlannedCheckpoint, ...]
    confidence: float
    comparisons: int
    store_root: Path
    policy_source: str | None
    baseline_source: str | None = None
    newer_than: float | None = None
    shard: Mapping[str, Any] | None = None

    @property
    def alpha(self) -> float:
        """Error probability of one comparison, (1 - confidence) / m."""
        return alpha_for(self.confidence, self.comparisons)

    def named(self, label: str) -> PlannedCheckpoint:
        """The checkpoint with this label."""
        return next(planned for planned in self.checkpoints if planned.label == label)

    def expecting(self, today: date) -> "RunPlan":
        """The plan with the failures that its checkpoints' policy expects."""
        checkpoints = tuple(
            replace(
                planned, checks=with_expectations(planned.checks, planned.settings, today=today)
            )
            for planned in self.checkpoints
        )
        return replace(self, checkpoints=checkpoints)

    def to_json(self) -> str:
        """One text that holds the plan, with its checksum."""
        return _sealed(
            {
                "checkpoints": [
                    {
                        "label": planned.label,
                        "checkpoint": dict(planned.checkpoint),
                        "settings": planned.settings.model_dump(),
                        "model_profile": planned.model_profile.to_dict(),
                        "corpus": planned.corpus,
                        "block_size": planned.block_size,
                        "text_blocks": planned.text_blocks,
                        "notes": list(planned.notes),
                        "checks": [check.to_dict() for check in planned.checks],
                        "dtype": planned.dtype,
                        "baseline": planned.baseline and planned.baseline.to_dict(),
                        "generator": None if planned.generator is None else dict(planned.generator),
                        "task": planned.task and planned.task.to_dict(),
                    }
                    for planned in self.checkpoints
                ],
                "confidence": self.confidence,
                "comparisons": self.comparisons,
                "store_root": str(self.store_root),
                "policy_source": self.policy_source,
                "baseline_source": self.baseline_source,
                "newer_than": self.newer_than,
                "shard": self.shard,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> "RunPlan":
        """The inverse of :meth:`to_json`.

        Raises:
            PlanError: if it is not exactly what that has written, with this version.
        """
        data = _unsealed(text)
        return cls(
            checkpoints=tuple(
                PlannedCheckpoint(
                    label=planned["label"],
                    checkpoint=planned["checkpoint"],
                    settings=Settings.model_validate(planned["settings"]),
                    model_profile=ModelProfile.from_dict(planned["model_profile"]),
                    corpus=planned["corpus"],
                    block_size=planned["block_size"],
                    text_blocks=planned["text_blocks"],
                    notes=tuple(planned["notes"]),
                    checks=tuple(map(Check.from_dict, planned["checks"])),
                    dtype=planned["dtype"],
                    baseline=planned["baseline"]
                    and CheckpointBaseline.from_dict(planned["baseline"]),
                    generator=planned["generator"],
                    task=planned["task"] and PlannedTask.from_dict(planned["task"]),
                )
                for planned in data["checkpoints"]
            ),
            confidence=data["confidence"],
            comparisons=data["comparisons"],
            store_root=Path(data["store_root"]),
            policy_source=data["policy_source"],
            baseline_source=data["baseline_source"],
            newer_than=data["newer_than"],
            shard=data["shard"],
        )


def _sealed(plan: Mapping[str, Any]) -> str:
    return json.dumps({"robustness": __version__, "plan": plan, "sha256": digest(plan)})


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


def make_plan(
    references: Sequence[str],
    policy: Policy,
    *,
    store_root: Path,
    newer_than: float | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> RunPlan:
    """Resolve and examine every checkpoint, read its corpus, and plan its checks.

    Args:
        references: checkpoints as the user named them.
        policy: thresholds and settings.
        store_root: folder of the store.
        newer_than: seconds since the epoch; what the store has from before is not used.
        progress: called with a line before every step that may take a while.

    Raises:
        RobustnessError: one sentence on the first thing that is wrong.
    """
    from robustness.checkpoint.reference import unique_labels

    labels = unique_labels(references)
    policy.require_overrides_match(references, labels)
    checkpoints = tuple(
        _planned(reference, label, policy, store_root, newer_than, progress)
        for reference, label in zip(references, labels, strict=True)
    )
    comparisons = sum(check.statistical for planned in checkpoints for check in planned.checks)
    return RunPlan(
        checkpoints=checkpoints,
        confidence=policy.confidence,
        comparisons=max(1, comparisons),
        store_root=store_root,
        policy_source=policy.source,
        newer_than=newer_than,
    )


def _planned(
    reference: str,
    label: str,
    policy: Policy,
    store_root: Path,
    newer_than: float | None,
    progress: Callable[[str], None],
) -> PlannedCheckpoint:
    from robustness.checkpoint.resolving import resolve

    settings = policy.settings(reference, label)
    _require_device(settings.device)
    # First what is quickly found to be wrong: a checkpoint can take minutes to hash or to convert.
    # With a task, only the checkpoint tells whether there is a perplexity to measure.
    corpus = None
    if settings.task.data is None:
        progress(f"{label}: reading corpus {settings.corpus}")
        corpus = load_corpus(settings.corpus, layout=settings.layout)
    progress(f"{label}: resolving the checkpoint")
    try:
        checkpoint = resolve(reference, cache=store_root, progress=progress)
    except NoLanguageModel:
        if settings.task.data is None:
            raise
        kind = settings.task.kind
        checkpoint = resolve(reference, cache=store_root, progress=progress, task=kind)
    settings.scoring_options.require_suits(checkpoint.scoring, label=label)
    vetting = Vetting(
        checkpoint=checkpoint,
        settings=settings,
        store_root=store_root,
        corpus=corpus,
        newer_than=newer_than,
        progress=lambda line: progress(f"{label}: {line}"),
    )
    has_perplexity = checkpoint.scoring != "task"
    if has_perplexity and corpus is None:
        progress(f"{label}: reading corpus {settings.corpus}")
        vetting.corpus  # noqa: B018 (what is wrong with it comes before the rules)
    progress(f"{label}: looking for outlier dimensions")
    model_profile = vetting.model_profile
    vetting.require_site()
    task = None
    if settings.task.data is not None:
        progress(f"{label}: reading task {settings.task.data}")
        task = plan_task(
            checkpoint, settings, model_profile, store_root=store_root, newer_than=newer_than
        )
    planned = PlannedCheckpoint(
        label=label,
        checkpoint=checkpoint.to_dict(),
        settings=settings,
        model_profile=model_profile,
        corpus="none",
        block_size=0,
        text_blocks=0,
        notes=tuple(_task_notes(vetting, task)),
        checks=planned_checks(
            settings, model_profile, task=task is not None, language_model=has_perplexity
        ),
        task=task,
    )
    if not has_perplexity:
        return planned
    progress(f"{label}: cutting the corpus into text blocks")
    layout = vetting.measurement.layout
    return replace(
        planned,
        corpus=vetting.corpus.description,
        block_size=vetting.measurement.block_size,
        text_blocks=layout.n_blocks,
        notes=(*_notes(vetting), *planned.notes),
        dtype=vetting.measurement.dtype,
        generator=None if vetting.generator is None else vetting.generator.to_dict(),
    )


def _task_notes(vetting: Vetting, task: PlannedTask | None) -> list[str]:
    """What the user should know about what a task does and does not show."""
    notes = []
    if vetting.checkpoint.scoring == "task":
        notes = [vetting.checkpoint.note] if vetting.checkpoint.note else []
        notes.append(
            "it has no language-model head, so there is no perplexity: its weights, its outlier "
            "dimensions and its task are checked"
        )
    if task is not None and vetting.settings.dtype != "float32":
        notes.append("tasks are measured in float32, whatever the dtype")
    return notes


def _notes(vetting: Vetting) -> list[str]:
    """What the user should know before reading the numbers."""
    measurement, wanted = vetting.measurement, vetting.settings.block_size
    notes = [vetting.checkpoint.note] if vetting.checkpoint.note else []
    if measurement.layout.split_examples:
        split = measurement.layout.split_examples
        notes.append(f"{split} examples are longer than a text block and were split")
    unknown = measurement.layout.unknown_tokens / measurement.layout.n_tokens
    if unknown > MOSTLY_KNOWN:
        notes.append(
            f"{unknown:.0%} of the corpus' tokens are unknown to the tokenizer: name a corpus of "
            "the kind that the model was trained on"
        )
    begins_with = measurement.layout.begins_with
    if vetting.settings.bos != "auto" or begins_with is None:
        first = f"begin with {begins_with}" if begins_with else "begin without a special token"
        why = "as the tokenizer has it" if vetting.settings.bos == "auto" else "as asked for (bos)"
        notes.append(f"text blocks {first}, {why}; outliers can depend on that")
    if measurement.block_size < wanted:
        notes.append(
            f"text blocks have {measurement.block_size} tokens, not {wanted}: the model has no "
            "positions for more"
        )
    if measurement.unwritable:
        notes.append(f"nothing is kept for another run: {measurement.unwritable}")
    return notes


def _require_device(device: str) -> None:
    """Find out before the run that the model could not be moved to its device.

    Raises:
        PolicyError: if this machine has no such device.
    """
    if device == "cpu":
        return
    kind, _, index = device.partition(":")
    count = device_count(kind)
    if int(index or 0) >= count:
        raise PolicyError(
            f"device {device} is not available here: torch {library_versions()['torch']} "
            f"sees {count} {kind} devices; choose another with --robustness-device"
        )
