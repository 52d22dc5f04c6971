"""Making the plan of a run: every checkpoint resolved, profiled and given its checks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from robustness.anatomy.stacks import READING_NORMS
from robustness.checkpoint.checkpoint import Checkpoint
from robustness.checkpoint.reference import unique_labels
from robustness.checkpoint.resolving import resolve
from robustness.checks.registry import planned_checks
from robustness.corpus.corpus import Corpus, load_corpus
from robustness.errors import NoLanguageModel, PolicyError
from robustness.measurement.planned_task import PlannedTask
from robustness.policy.policy import Policy
from robustness.policy.settings import Settings
from robustness.run.plan import PlannedCheckpoint, RunPlan
from robustness.run.reference_run import SavedProfiles, beside, beside_saved
from robustness.runtime.devices import device_count
from robustness.runtime.libraries import library_versions
from robustness.store.context import Context
from robustness.vetting import Vetting

MOSTLY_KNOWN = 0.05
"""Share of unknown tokens from which a corpus is unlikely to suit a model."""


Against = str | SavedProfiles
"""What candidates are compared with: a checkpoint as it is named, or saved profiles."""


Measured = tuple[PlannedCheckpoint, Vetting]
"""What is planned, and what can be asked meanwhile."""


def make_plan(
    references: Sequence[str], policy: Policy, context: Context, *, against: Against | None = None
) -> RunPlan:
    """Resolve and profile every checkpoint, read its corpus, and plan its checks.

    The context's progress is told a line before every step that may take a while. A RobustnessError
    says in one sentence what is wrong first.
    """
    labels = unique_labels(references)
    policy.require_overrides_match(references, labels)
    planned = _Planning(policy=policy, context=context, against=against)
    checkpoints = tuple(map(planned.candidate, references, labels))
    comparisons = sum(check.comparisons for planned in checkpoints for check in planned.checks)
    return RunPlan(
        checkpoints=checkpoints,
        confidence=policy.confidence,
        comparisons=max(1, comparisons),
        store_root=context.root,
        policy_source=policy.source,
        newer_than=context.newer_than,
        reference_source=str(against.source) if isinstance(against, SavedProfiles) else against,
    )


@dataclass(frozen=True, kw_only=True)
class _Planning:
    """What a run's candidates have in common; a reference is planned once for equal settings."""

    policy: Policy
    context: Context
    against: Against | None
    _references: dict[str, Measured] = field(default_factory=dict)
    _corpora: dict[tuple[str, str], Corpus] = field(default_factory=dict)

    def candidate(self, reference: str, label: str) -> PlannedCheckpoint:
        """A checkpoint with its checks, and with what it is compared with, if anything."""
        settings = self.policy.settings(reference, label)
        if self.against is not None:
            settings = settings.beside_reference()
        planned, vetting = self._checkpoint(reference, label, settings)
        if isinstance(self.against, str):
            other = self._reference(self.against, settings)
            planned = beside(planned, vetting, *other)
        elif self.against is not None:
            planned = beside_saved(planned, vetting, self.against)
        return replace(planned, checks=planned_checks(vetting.plan_context()))

    def _reference(self, named: str, settings: Settings) -> Measured:
        own = {"base": None, "tokenizer": None}  # those are the candidate's
        settings = settings.model_copy(update=own)
        (label,), key = unique_labels([named]), settings.model_dump_json()
        if key not in self._references:
            self._references[key] = self._checkpoint(named, label, settings)
        return self._references[key]

    def _corpus(self, settings: Settings, told: Callable[[str], None]) -> Corpus:
        """The text, read once for equal settings."""
        key = (settings.corpus, settings.layout)
        if key not in self._corpora:
            told(f"reading corpus {settings.corpus}")
            self._corpora[key] = load_corpus(settings.corpus, layout=settings.layout)
        return self._corpora[key]

    def _checkpoint(self, reference: str, label: str, settings: Settings) -> Measured:
        """Anything that is measured, without checks."""

        def told(line: str) -> None:
            self.context.progress(f"{label}: {line}")

        _require_device(settings.device)
        # With a task, only the checkpoint tells whether there is a perplexity to measure.
        corpus = None if settings.task.data is not None else self._corpus(settings, told)
        context = replace(self.context, progress=told)
        vetting = _vetting(reference, label, settings, context, corpus)
        if vetting.has_perplexity and corpus is None:
            vetting.corpus = self._corpus(settings, told)  # what is wrong comes before the rules
        told("looking for outlier dimensions")
        model_profile = vetting.model_profile
        vetting.settings = settings = settings.where_possible(model_profile.sites)
        vetting.require_site()
        task = None
        if settings.task.data is not None:
            told(f"reading task {settings.task.data}")
            task = vetting.planned_task
        planned = PlannedCheckpoint(
            label=label,
            checkpoint=vetting.checkpoint.to_dict(),
            settings=settings,
            model_profile=model_profile,
            corpus="none",
            block_size=0,
            text_blocks=0,
            notes=(*_site_note(vetting), *_task_notes(vetting, task)),
            checks=(),
            task=task,
        )
        if vetting.has_perplexity:
            told("cutting the corpus into text blocks")
            planned = _on_text(planned, vetting)
        return planned, vetting


def _vetting(
    reference: str, label: str, settings: Settings, context: Context, corpus: Corpus | None
) -> Vetting:
    """The checkpoint, resolved: hashing it can take minutes."""
    context.progress("resolving the checkpoint")
    checkpoint = _resolved(reference, settings, context)
    settings.scoring_options.require_suits(checkpoint.scoring, label=label)
    return Vetting(checkpoint=checkpoint, settings=settings, context=context, corpus=corpus)


def _resolved(reference: str, settings: Settings, context: Context) -> Checkpoint:
    how: dict[str, Any] = {
        "cache": context.root,
        "progress": context.progress,
        "options": settings.read_options,
    }
    try:
        return resolve(reference, **how)
    except NoLanguageModel:
        if settings.task.data is None:
            raise
        return resolve(reference, **how, task=settings.task.kind)


def _on_text(planned: PlannedCheckpoint, vetting: Vetting) -> PlannedCheckpoint:
    measurement = vetting.measurement
    return replace(
        planned,
        corpus=vetting.corpus.description,
        block_size=measurement.block_size,
        text_blocks=measurement.layout.n_blocks,
        notes=(*_notes(vetting), *planned.notes),
        dtype=measurement.dtype,
        generator=None if vetting.generator is None else vetting.generator.to_dict(),
    )


def _task_notes(vetting: Vetting, task: PlannedTask | None) -> list[str]:
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


def _site_note(vetting: Vetting) -> list[str]:
    """What rules read, and where dimensions are ablated, if the layers have no output sites."""
    if not vetting.model_profile.anatomy.stack.reading_norms:
        return []
    return [f"{READING_NORMS}, and dimensions are ablated at the site {vetting.settings.site}"]


def _notes(vetting: Vetting) -> list[str]:
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
    if device == "cpu":
        return
    kind, _, index = device.partition(":")
    count = device_count(kind)
    if int(index or 0) >= count:
        raise PolicyError(
            f"device {device} is not available here: torch {library_versions()['torch']} "
            f"sees {count} {kind} devices; choose another with --robustness-device"
        )
