"""Which transformers class a config.json asks for, and how such a model is scored.

Decided by transformers' own tables of classes, never by one of ours. The tables are plain
dictionaries of names; what a class can do beyond them is read off its config.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from robustness.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping

Scoring = Literal["masked", "causal"]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A language-model class of transformers and what its head predicts.

    Attributes:
        name: Name of the class in ``transformers``.
        scoring: ``masked`` (predicts masked tokens) or ``causal`` (predicts the next token).
        declared: The class that config.json names, None where it names none.
    """

    name: str
    scoring: Scoring
    declared: str | None


def candidates(config: Any, *, what: str) -> tuple[Architecture, ...]:
    """The classes to try, best first; the first whose head is in the files is the right one.

    Args:
        config: A transformers config object.
        what: The checkpoint's reference, for messages.

    Raises:
        CheckpointError: The checkpoint is no language model that can be vetted.
    """
    from transformers.models.auto import modeling_auto as auto

    causal: Mapping[str, str] = auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    masked: Mapping[str, str] = auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    seq2seq = {
        *auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.values(),
        *auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES.values(),
    }
    model_type = config.model_type
    declared_names = getattr(config, "architectures", None) or []
    declared = str(declared_names[0]) if declared_names else None
    if declared is not None and not declared.isidentifier():
        raise CheckpointError(f"{what} names the impossible class {declared!r} in config.json.")

    by_scoring: tuple[tuple[Scoring, Mapping[str, str]], ...] = (
        ("masked", masked),
        ("causal", causal),
    )
    if declared in seq2seq or (declared is None and getattr(config, "is_encoder_decoder", False)):
        raise CheckpointError(
            f"{what} is a {declared or model_type}: sequence-to-sequence checkpoints are not "
            "supported yet."
        )
    if declared is None:
        found = [
            Architecture(name=names[model_type], scoring=scoring, declared=None)
            for scoring, names in by_scoring
            if model_type in names
        ]
        if not found:
            raise CheckpointError(_no_head(what, f"model of type {model_type!r}"))
        return tuple(found)
    for scoring, names in by_scoring:
        if declared in names.values():
            _refuse_bidirectional(config, declared, scoring, model_type in masked, what)
            return (Architecture(name=declared, scoring=scoring, declared=declared),)
    # Pre-training classes carry a masked-LM head beside another one (BERT's next sentence).
    if (
        declared == auto.MODEL_FOR_PRETRAINING_MAPPING_NAMES.get(model_type)
        and model_type in masked
    ):
        return (Architecture(name=masked[model_type], scoring="masked", declared=declared),)
    import transformers

    if not hasattr(transformers, declared):
        raise CheckpointError(
            f"{what} is a {declared}, which transformers {transformers.__version__} does not "
            "contain: update transformers, or correct 'architectures' in config.json."
        )
    if declared in auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES.values():
        raise CheckpointError(
            f"{what} is a {declared}: multimodal checkpoints are not supported yet."
        )
    raise CheckpointError(_no_head(what, declared))


def model_class(name: str) -> Any:
    """The transformers class of that name."""
    import transformers

    return getattr(transformers, name)


def is_permutation_model(cls: Any) -> bool:
    """Whether a class predicts tokens in an order that is given to it (XLNet).

    Scored like a causal model it would see the token it predicts.
    """
    import inspect

    return "perm_mask" in inspect.signature(cls.forward).parameters


def no_head(what: str, architecture: Architecture, missing: list[str]) -> CheckpointError:
    """The error for files in which weights of the language model are missing."""
    shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
    return CheckpointError(
        f"{what} lacks weights that {architecture.name} needs ({shown}): transformers would fill "
        "them with random numbers, so a perplexity would mean nothing; give a checkpoint that was "
        "saved with its language-model head."
    )


def _no_head(what: str, name: str) -> str:
    return (
        f"{what} is a {name}: it has no language-model head, so it has no perplexity; give the "
        "masked or causal language model that it was made from."
    )


def _refuse_bidirectional(
    config: Any, declared: str, scoring: Scoring, has_masked_class: bool, what: str
) -> None:
    """An encoder loaded as a causal model without is_decoder reads the tokens it predicts."""
    if scoring == "causal" and has_masked_class and getattr(config, "is_decoder", None) is False:
        raise CheckpointError(
            f"{what} is a {declared} whose config.json does not set is_decoder, so it reads in "
            "both directions and its next-token perplexity would mean nothing: set is_decoder to "
            "true, or give the masked language model."
        )
