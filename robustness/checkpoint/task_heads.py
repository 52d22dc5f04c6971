"""Which transformers class answers a task, and whether a checkpoint holds all of it.

A classification head that is missing would be filled with random numbers: it is refused, as a
missing language-model head is.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

from robustness.checkpoint.architecture import Architecture, declared_class, headless_class
from robustness.checkpoint.config import load_config
from robustness.checkpoint.tokenization import load_tokenizer, verify_tokenizer
from robustness.checkpoint.verification import (
    Facts,
    embedding_rows,
    usable_positions,
    verify_head,
)
from robustness.checkpoint.weights import TensorInfo
from robustness.errors import TaskError

TaskKind: TypeAlias = Literal["classification", "regression", "similarity"]
"""A label for a text or a pair; a number for one; the similarity of a pair's embeddings."""

KindChoice: TypeAlias = Literal["auto", "classification", "regression", "similarity"]


def task_kind(config: Any, choice: KindChoice, *, what: str) -> TaskKind:
    """What a checkpoint is asked, by its head where the policy leaves it open.

    Raises:
        TaskError: if it has no head of the kind that is asked for.
    """
    declared = declared_class(config, what=what)
    if declared is not None and declared in _classifiers().values():
        if getattr(config, "problem_type", None) == "multi_label_classification":
            raise TaskError(
                f"{what} gives several labels to a text (multi_label_classification), which is not "
                "supported: give a checkpoint for one label or one number"
            )
        kind: TaskKind = "regression" if config.num_labels == 1 else "classification"
        if choice in ("auto", kind, "similarity"):
            return "similarity" if choice == "similarity" else kind
        raise TaskError(
            f"{what} has {config.num_labels} outputs, so its task is {kind}, not {choice}: leave "
            "kind out, or give another checkpoint"
        )
    if choice in ("auto", "similarity"):
        return "similarity"
    raise TaskError(
        f"{what} is a {declared or config.model_type}: it has no classification head, so it cannot "
        f"be asked for {choice}; give a checkpoint that was fine-tuned for the task, or set kind "
        "to similarity"
    )


def task_architecture(config: Any, kind: TaskKind, *, what: str) -> Architecture:
    """The class that answers a task of that kind.

    Raises:
        TaskError: if transformers has none for this checkpoint.
    """
    from transformers.models.auto import modeling_auto as auto

    declared = declared_class(config, what=what)
    if getattr(config, "is_encoder_decoder", False):
        raise TaskError(
            f"{what} has an encoder and a decoder, and no task is supported for both together: "
            "give an encoder or a decoder that was fine-tuned for the task"
        )
    if kind != "similarity":
        assert declared is not None
        decoder = config.model_type not in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
        if decoder and getattr(config, "pad_token_id", None) is None:
            raise TaskError(
                f"{what} is a {declared} whose config.json sets no pad_token_id, without which it "
                "cannot tell where a text ends: set it as in training"
            )
        return Architecture(name=declared, scoring="task", declared=declared)
    encoders: Mapping[str, str] = auto.MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES
    name = declared if declared in encoders.values() else headless_class(config)
    if name is None:
        raise TaskError(
            f"{what} is of type {config.model_type!r}, of which transformers knows no model "
            "without a head, so it has no embeddings to compare"
        )
    return Architecture(name=name, scoring="task", declared=declared)


def verify_task(
    folder: Path,
    tensors: Mapping[str, TensorInfo],
    tokenizer: Path,
    choice: KindChoice,
    *,
    what: str,
    progress: Callable[[str], None] | None = None,
) -> Facts:
    """Find the class that answers a task, and verify that weights and tokenizer are all of it.

    Raises:
        TaskError: if it has no head of that kind.
        CheckpointError: if weights are missing or misshapen, or the tokenizer does not fit.
    """
    config = load_config(folder, what=what)
    kind = task_kind(config, choice, what=what)
    architecture = task_architecture(config, kind, what=what)
    head = verify_head(architecture, config, folder, tensors, what, progress)
    rows = embedding_rows(head.skeleton)
    verify_tokenizer(load_tokenizer(tokenizer, what=what), rows=rows, scoring="task", what=what)
    return Facts(
        architecture=architecture.name,
        scoring="task",
        n_parameters=head.n_parameters,
        vocab_size=rows,
        max_positions=usable_positions(head.skeleton),
        note=head.note,
    )


def _classifiers() -> Mapping[str, str]:
    from transformers.models.auto import modeling_auto as auto

    names: Mapping[str, str] = auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
    return names
