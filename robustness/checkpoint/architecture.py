"""Which transformers class a config.json asks for, and how such a model is scored.

Decided by transformers' own tables of classes, never by one of ours. The tables are plain
dictionaries of names; what a class can do beyond them is read off its config.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from robustness.errors import CheckpointError, NoLanguageModel
from robustness.runtime.libraries import load_libraries

if TYPE_CHECKING:
    from collections.abc import Mapping

Scoring = Literal["masked", "causal", "permutation", "seq2seq", "replaced-token", "task"]
"""What a model was trained for: to predict masked tokens, the next token, tokens in an order that
it is given (XLNet), the other half of a corrupted text (BART, T5), or which tokens were replaced
(ELECTRA's discriminator). ``task``: it has no language-model head, and is only asked about a
downstream task."""


_OR_TASK = ", or vet it through a task that it was made for (--robustness-task)"


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A language-model class of transformers and what its head predicts.

    Attributes:
        name: Name of the class in ``transformers``.
        scoring: What the model was trained for.
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

    masked: Mapping[str, str] = auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    # The first table that holds a class decides: BART stands among the masked models, too.
    tables: tuple[tuple[Scoring, Mapping[str, str]], ...] = (
        ("seq2seq", auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES),
        ("masked", masked),
        ("causal", auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
    )
    pretraining = auto.MODEL_FOR_PRETRAINING_MAPPING_NAMES.get(config.model_type)
    declared = declared_class(config, what=what)
    if declared is None:
        return _undeclared(config, tables, pretraining, what)
    whole = bool(getattr(config, "is_encoder_decoder", False))
    for scoring, names in tables:
        # What turns speech into text stands in the first table, also with a decoder alone.
        if declared in names.values() and (whole or scoring != "seq2seq"):
            _refuse_other_inputs(declared, what, scoring)
            if getattr(config, "causal", False) and declared in tables[-1][1].values():
                scoring = "causal"  # one class for both, and config.json decides
            _refuse_bidirectional(config, declared, scoring, config.model_type in masked, what)
            return (Architecture(name=declared, scoring=scoring, declared=declared),)
    _require_known(declared, what)
    return _beside_the_tables(config, declared, masked, pretraining, what)


def _beside_the_tables(
    config: Any, declared: str, masked: "Mapping[str, str]", pretraining: str | None, what: str
) -> tuple[Architecture, ...]:
    """A class that is named for no way of scoring: multimodal, or for pre-training."""
    from transformers.models.auto import modeling_auto as auto

    multimodal_class = auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES.get(config.model_type)
    asked: list[tuple[Scoring, str | None]]
    if declared == multimodal_class and not getattr(config, "is_encoder_decoder", False):
        asked = [("causal", declared)]
    elif declared == pretraining:
        # It tells replaced tokens from others (ELECTRA), or carries a masked-LM head beside
        # another one (BERT's next sentence).
        asked = [("replaced-token", declared), ("masked", masked.get(config.model_type))]
    else:
        _refuse_other_inputs(declared, what)
        raise no_language_model(what, declared)
    _refuse_other_inputs(declared, what, asked[0][0])
    return tuple(
        Architecture(name=name, scoring=scoring, declared=declared)
        for scoring, name in asked
        if name is not None
    )


def _undeclared(
    config: Any,
    tables: "tuple[tuple[Scoring, Mapping[str, str]], ...]",
    pretraining: str | None,
    what: str,
) -> tuple[Architecture, ...]:
    """All classes of a model type, where config.json does not name one."""
    model_type = config.model_type
    whole = bool(getattr(config, "is_encoder_decoder", False))
    architectures = [
        Architecture(name=names[model_type], scoring=scoring, declared=None)
        for scoring, names in tables
        if model_type in names and whole == (scoring == "seq2seq")
    ]
    if pretraining is not None and not any(pretraining in names.values() for _, names in tables):
        _refuse_other_inputs(pretraining, what)
        architectures.append(
            Architecture(name=pretraining, scoring="replaced-token", declared=None)
        )
    if not architectures:
        raise no_language_model(what, f"model of type {model_type!r}")
    return tuple(architectures)


def declared_class(config: Any, *, what: str) -> str | None:
    """The class that config.json names, None where it names none.

    Raises:
        CheckpointError: No class can be called that.
    """
    names = getattr(config, "architectures", None) or []
    declared = str(names[0]) if names else None
    if declared is not None and not declared.isidentifier():
        raise CheckpointError(f"{what} names the impossible class {declared!r} in config.json.")
    return declared


def headless_class(config: Any) -> str | None:
    """The class of a model type without any head, None where transformers has none."""
    from transformers.models.auto import modeling_auto as auto

    names = auto.MODEL_MAPPING_NAMES.get(config.model_type)
    return names if isinstance(names, str) else next(iter(names or ()), None)


def classes_with_layers(config: Any, *, what: str) -> list[str]:
    """The classes on which a checkpoint's layers can be traced, whatever it is asked; best first.

    Raises:
        CheckpointError: It does not read text, or transformers does not contain it.
    """
    try:
        return [candidates(config, what=what)[0].name]
    except NoLanguageModel:
        names = [declared_class(config, what=what), headless_class(config)]
        if found := [name for name in dict.fromkeys(names) if name is not None]:
            return found
        raise


def model_class(name: str) -> Any:
    """The transformers class of that name."""
    load_libraries()
    import transformers

    return getattr(transformers, name)


def model_options(cls: Any) -> dict[str, bool]:
    """What a class is built with beside its config: without a pooler where that can be left out.

    Nothing that is measured here reads it, and many checkpoints lack it.
    """
    import inspect

    parameters = inspect.signature(cls.__init__).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in parameters else {}


def is_permutation_model(cls: Any) -> bool:
    """Whether a class predicts tokens in an order that is given to it (XLNet).

    Scored like a causal model it would see the token it predicts.
    """
    import inspect

    return "perm_mask" in inspect.signature(cls.forward).parameters


def tells_replaced_tokens(model: Any) -> bool:
    """Whether a model gives one logit per token instead of one per token and word."""
    import torch

    ids = torch.arange(8)[None]  # (1, T); fewer are too few where layers pool them
    with torch.no_grad():
        logits = getattr(model(input_ids=ids), "logits", None)
    return isinstance(logits, torch.Tensor) and logits.shape == ids.shape


def no_head(
    what: str, architecture: Architecture, missing: list[str], *, whole: bool = False
) -> CheckpointError:
    """The error for files in which weights of the model are missing, or its whole head."""
    shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
    lacks = (
        f"{what} lacks weights that {architecture.name} needs ({shown}): transformers would fill "
        "them with random numbers"
    )
    if architecture.scoring == "task":
        return CheckpointError(
            f"{lacks}, so its answers would mean nothing; give a checkpoint that was fine-tuned "
            "for the task and saved whole."
        )
    damaged = architecture.declared is not None and not whole
    kind = CheckpointError if damaged else NoLanguageModel
    return kind(
        f"{lacks}, so a perplexity would mean nothing; give a checkpoint that was saved with its "
        f"language-model head{'' if damaged else _OR_TASK}."
    )


def _require_known(declared: str, what: str) -> None:
    import transformers

    if not hasattr(transformers, declared):
        raise CheckpointError(
            f"{what} is a {declared}, which transformers {transformers.__version__} does not "
            "contain: update transformers, or correct 'architectures' in config.json."
        )


def _refuse_other_inputs(declared: str, what: str, scoring: Scoring | None = None) -> None:
    """A model that reads more than text, or none, by what its class says of its input.

    Those that predict the next token may do so without an image: running them will tell. What
    predicts masked tokens reads them, even if its class can be made to read others.
    """
    modalities = getattr(model_class(declared), "input_modalities", "text")
    read = {modalities} if isinstance(modalities, str) else set(modalities)
    enough = (scoring == "causal" and "text" in read) or (
        scoring == "masked" and "text" not in read
    )
    if enough or not read - {"text"}:
        return
    others = " and ".join(sorted(read - {"text"}))
    if "text" in read:
        raise CheckpointError(
            f"{what} is a {declared}, which reads text and {others}: multimodal checkpoints are "
            "only vetted where they predict the next token of a text alone; give its language "
            "model, saved as a causal or masked model."
        )
    raise CheckpointError(
        f"{what} is a {declared}, which reads {others} and no text: only language models have a "
        "perplexity; give one of text."
    )


def no_language_model(what: str, name: str) -> CheckpointError:
    """The error for a class without a language-model head."""
    return NoLanguageModel(
        f"{what} is a {name}: it has no language-model head, so it has no perplexity; give the "
        f"masked, causal or sequence-to-sequence language model that it was made from{_OR_TASK}."
    )


def _refuse_bidirectional(
    config: Any, declared: str, scoring: Scoring, has_masked_class: bool, what: str
) -> None:
    """An encoder loaded as a causal model without is_decoder reads the tokens it predicts."""
    if scoring == "causal" and has_masked_class and getattr(config, "is_decoder", None) is False:
        raise NoLanguageModel(
            f"{what} is a {declared} whose config.json does not set is_decoder, so it reads in "
            "both directions and its next-token perplexity would mean nothing: set is_decoder to "
            "true, or give the masked language model."
        )
