"""A task in a run's plan: plain data that travels to every worker."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from robustness.anatomy.recorded import recorded_anatomy
from robustness.anatomy.stacks import StackChoice
from robustness.checkpoint.reading import PLAIN, ReadOptions
from robustness.checkpoint.task_heads import KindChoice, TaskKind
from robustness.errors import TaskError
from robustness.measurement.predictions import TaskMeasurement
from robustness.outliers.model_profile import ModelProfile
from robustness.runtime.libraries import library_versions
from robustness.scoring.scoring_plan import CHUNK_BLOCKS
from robustness.store.context import Context
from robustness.store.documents import PlainRecord
from robustness.store.store import Record, digest
from robustness.tasks.data import TaskData, load_task
from robustness.tasks.metrics import Floats, chosen_metric
from robustness.tasks.settings import Metric, MetricChoice, TaskSettings

if TYPE_CHECKING:
    from robustness.checkpoint.checkpoint import Checkpoint


@dataclass(frozen=True, kw_only=True)
class PlannedTask(PlainRecord):
    """What a checkpoint is asked beside, or instead of, being a language model.

    Attributes:
        reference: names the data, as ``name`` does in reports.
        kind: what the model is asked.
        metric: the score.
        words: how many an example has on average.
        classes: names of a classifier's outputs.
        checkpoint: resolved for the task, in plain JSON types: it may be another class of the
            same files.
        anatomy_record: where that class can be ablated.
        content: identifies texts and labels.
    """

    reference: str
    name: str
    kind: TaskKind
    metric: Metric
    examples: int
    words: float
    classes: tuple[str, ...]
    checkpoint: Mapping[str, Any]
    anatomy_record: Mapping[str, Any]
    content: str

    @cached_property
    def data(self) -> TaskData:
        """The examples.

        Raises:
            TaskError: if they are no longer those of the plan.
        """
        data = load_task(self.reference)
        if _content(data) != self.content:
            raise TaskError(f"the examples of {self.name} changed while the run went on")
        return data

    @property
    def labels(self) -> Floats:
        """Class numbers or values of the examples, shape (n,)."""
        return labels_of(self.data, self.kind, self.classes)

    def measurement(
        self,
        context: Context,
        *,
        max_length: int,
        seed: int,
        device: str,
        chunk_examples: int = CHUNK_BLOCKS,
    ) -> TaskMeasurement:
        """Predictions, each made once; ``chunk_examples`` of them are made and stored together."""
        from robustness.checkpoint.checkpoint import Checkpoint

        return TaskMeasurement(
            checkpoint=Checkpoint.from_dict(self.checkpoint),
            data=self.data,
            kind=self.kind,
            anatomy_record=self.anatomy_record,
            max_length=max_length,
            seed=seed,
            device=device,
            context=context,
            chunk_examples=chunk_examples,
        )


def labels_of(data: TaskData, kind: TaskKind, classes: tuple[str, ...]) -> Floats:
    """Class numbers or values of the examples, shape (n,); a TaskError if the head has no such."""
    if kind == "classification":
        return np.array(data.classes(dict(enumerate(classes))), dtype=np.float64)
    return np.array(data.values(), dtype=np.float64)


def plan_task(
    checkpoint: "Checkpoint",
    task: TaskSettings,
    model_profile: ModelProfile,
    context: Context,
    *,
    stack: StackChoice = "auto",
    options: ReadOptions = PLAIN,
) -> PlannedTask:
    """Resolve a checkpoint for the policy's task, and see whether they suit each other.

    Raises:
        TaskError: if the policy names no task, or none that suits the checkpoint.
        CheckpointError: if weights that answer the task are missing.
    """
    from robustness.checkpoint.resolving import resolve

    if task.data is None:
        raise TaskError(
            f"{checkpoint.label} has no task: name one with --robustness-task, or as data under "
            "[task] in the policy"
        )
    data, headed = load_task(task.data), checkpoint
    if checkpoint.scoring != "task":
        headed = resolve(checkpoint.reference, cache=context.root, task=task.kind, options=options)
    head = _head(headed, task.kind, context)
    kind, classes = head["kind"], tuple(head["classes"])
    metric = _suited_metric(data, task.metric, kind, classes, checkpoint)
    words = sum(len(text.split()) for texts in data.texts for text in texts)
    return PlannedTask(
        reference=task.data,
        name=data.name,
        kind=kind,
        metric=metric,
        examples=data.n_examples,
        words=words / data.n_examples,
        classes=classes,
        checkpoint=headed.to_dict(),
        anatomy_record=_anatomy_record(headed, checkpoint, model_profile, context, stack),
        content=_content(data),
    )


def _suited_metric(
    data: TaskData,
    choice: MetricChoice,
    kind: TaskKind,
    classes: tuple[str, ...],
    checkpoint: "Checkpoint",
) -> Metric:
    """The score, where data and checkpoint suit each other."""
    if kind == "similarity" and not data.pairs:
        raise TaskError(
            f"{checkpoint.label} is a {checkpoint.architecture}: it has no classification head, "
            f"and a similarity needs two texts, where {data.name} has one: give a checkpoint that "
            "was fine-tuned for it"
        )
    metric = chosen_metric(choice, kind, usual=data.metric, n_classes=len(classes), what=data.name)
    labels = labels_of(data, kind, classes)
    if bool(np.all(labels == labels[0])):
        raise TaskError(f"{data.name}: all examples have the same label, so no score says anything")
    return metric


def _anatomy_record(
    headed: "Checkpoint",
    checkpoint: "Checkpoint",
    model_profile: ModelProfile,
    context: Context,
    stack: StackChoice,
) -> Mapping[str, Any]:
    """Where the class of model that answers the task can be ablated: in the layers vetted."""
    if headed.architecture == checkpoint.architecture:
        return model_profile.anatomy_record
    anatomy = recorded_anatomy(headed, stack, context)
    layers, hidden_size = anatomy["layers"], anatomy["hidden_size"]
    if (layers, hidden_size) != (model_profile.layers, model_profile.hidden_size):
        raise TaskError(
            f"{checkpoint.label} has {layers} layers of {hidden_size} features as "
            f"{headed.architecture}, and {model_profile.layers} of {model_profile.hidden_size} as "
            f"{checkpoint.architecture}: its task cannot be vetted"
        )
    record: Mapping[str, Any] = anatomy["anatomy"]
    return record


def _content(data: TaskData) -> str:
    return digest([data.texts_fingerprint, list(data.labels)])


def _head(checkpoint: "Checkpoint", choice: KindChoice, context: Context) -> Record:
    """What the head answers, and the names of its outputs, remembered: no library is imported."""
    store = context.store({"task_head": 1, **checkpoint.identity, "versions": library_versions()})
    (record,) = store.obtain([{"kind": choice}], lambda _: _read_head(checkpoint, choice))
    return record


def _read_head(checkpoint: "Checkpoint", choice: KindChoice) -> Record:
    from robustness.checkpoint.task_heads import task_kind

    config = checkpoint.load_config()
    kind = task_kind(config, choice, what=checkpoint.reference)
    names = config.id2label if kind == "classification" else {}
    return {"kind": kind, "classes": [str(names[number]) for number in sorted(names)]}
