"""What a checkpoint folder turns out to be: its class, whether it is complete, its measures.

Done on a skeleton and on the names and shapes in the files' headers; weights are only loaded
where names cannot tell.
"""

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

from robustness.checkpoint.accounting import (
    account,
    refuse_parts,
    require_one_value,
    untied_pairs,
    unused_note,
)
from robustness.checkpoint.architecture import (
    Architecture,
    Scoring,
    candidates,
    is_permutation_model,
    model_class,
    model_options,
    no_head,
    no_language_model,
    tells_replaced_tokens,
)
from robustness.checkpoint.config import ignored_note, load_config
from robustness.checkpoint.loading import loading_errors, quiet
from robustness.checkpoint.skeleton import NameMap, build_skeleton, lacks_head, map_names
from robustness.checkpoint.tokenization import load_tokenizer, verify_tokenizer
from robustness.checkpoint.weights import TensorInfo
from robustness.errors import CheckpointError, UnsupportedArchitecture


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What was found out about a checkpoint; plain data, remembered by content."""

    architecture: str
    scoring: Scoring
    n_parameters: int
    vocab_size: int
    max_positions: int | None
    note: str | None


def verify(
    folder: Path,
    tensors: Mapping[str, TensorInfo],
    tokenizer: Path,
    *,
    what: str,
    progress: Callable[[str], None] | None = None,
) -> Facts:
    """Find the class of a checkpoint and verify that weights and tokenizer are all of it.

    Raises:
        CheckpointError: It is no language model, weights are missing or misshapen, or the
            tokenizer is missing or does not fit.
    """
    config = load_config(folder, what=what)
    refused: list[tuple[bool, CheckpointError]] = []
    for architecture in candidates(config, what=what):
        try:
            head = verify_head(architecture, config, folder, tensors, what, progress)
        except CheckpointError as error:
            # Few pre-training classes tell replaced tokens: that one does not is no explanation.
            refused.append((architecture.scoring == "replaced-token", error))
            continue
        skeleton, rows = head.skeleton, embedding_rows(head.skeleton)
        scoring = architecture.scoring
        if is_permutation_model(type(skeleton)):
            scoring = "permutation"
        verify_tokenizer(
            load_tokenizer(tokenizer, what=what), rows=rows, scoring=scoring, what=what
        )
        return Facts(
            architecture=architecture.name,
            scoring=scoring,
            n_parameters=head.n_parameters,
            vocab_size=_head_rows(skeleton) or rows,
            max_positions=usable_positions(skeleton),
            note=head.note,
        )
    raise min(refused, key=itemgetter(0))[1]


def load_verified(
    cls: Any,
    config: Any,
    folder: Path,
    *,
    architecture: Architecture,
    what: str,
    elsewhere: Set[str] = frozenset(),
) -> tuple[Any, list[str]]:
    """Load a model in float32, refusing any weight that is neither from the files nor elsewhere.

    Returns:
        The model, and the names of tensors that it has no place for.

    Raises:
        CheckpointError: Weights are missing (transformers would draw them at random) or misshapen.
    """
    import torch
    from transformers import GenerationConfig

    unused: Any = GenerationConfig  # partly untyped
    with loading_errors(what), quiet():
        model, info = cls.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            generation_config=unused(),  # nothing is generated, so no file is read for it
            output_loading_info=True,
            **model_options(cls),
        )
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    missing = sorted(parameters.intersection(info["missing_keys"]) - elsewhere)
    if missing:
        raise no_head(what, architecture, missing)
    if info["mismatched_keys"]:
        raise _misshapen(what, cls.__name__, sorted(info["mismatched_keys"]))
    model.eval()
    model.requires_grad_(False)
    return model, sorted(info["unexpected_keys"])


def embedding_rows(model: Any) -> int:
    """Rows of the token embedding: the one that the class names, or one of the vocabulary's size.

    Raises:
        UnsupportedArchitecture: There is none.
    """
    import torch

    weight = getattr(model.get_input_embeddings(), "weight", None)
    if weight is not None:
        return int(weight.shape[0])
    size = getattr(model.config, "vocab_size", None)
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding) and module.num_embeddings == size:
            return module.num_embeddings
    raise UnsupportedArchitecture(
        f"{type(model).__name__} names no table of token embeddings, so it cannot be run on "
        "tokens to find its layers: it can be neither scanned nor vetted; give a model of text."
    )


def usable_positions(model: Any) -> int | None:
    """The longest input in tokens, None where nothing limits it.

    RoBERTa and its kin number positions from padding_idx + 1, so that a table of 514 takes 512
    tokens. Such a table is recognised by having a padding row, which positions need for nothing
    else.
    """
    import torch

    config = model.config.get_text_config()
    limit = getattr(config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit < 1:
        return None
    tokens = model.get_input_embeddings()
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding) and module is not tokens:
            offset = module.padding_idx
            if module.num_embeddings == limit and offset is not None:
                return limit - offset - 1
    return limit


@dataclass(frozen=True, kw_only=True)
class VerifiedHead:
    """A class that the files hold all weights of.

    Attributes:
        skeleton: The model without weights.
        n_parameters: Number of parameters in the files, those that are tied there once.
        note: What is unusual about the files.
    """

    skeleton: Any
    n_parameters: int
    note: str | None


def verify_head(
    architecture: Architecture,
    config: Any,
    folder: Path,
    tensors: Mapping[str, TensorInfo],
    what: str,
    progress: Callable[[str], None] | None,
) -> VerifiedHead:
    """Whether the files hold all weights of a class, and what else they hold.

    Raises:
        NoLanguageModel: They hold those of the model within, and nothing of its head.
        CheckpointError: Weights are missing, misshapen or would be dropped.
    """
    cls = model_class(architecture.name)
    skeleton = build_skeleton(cls, config, what=what)
    if architecture.scoring == "replaced-token":
        with loading_errors(f"The config.json of {what}"), quiet():
            if not tells_replaced_tokens(skeleton):
                raise no_language_model(what, architecture.name)
    names = map_names(skeleton, tensors)
    untied: list[tuple[str, str]] = []
    notes: list[str] = []
    is_plain = names is not None and getattr(config, "quantization_config", None) is None
    if names is not None and is_plain:
        notes, untied = _accounted(skeleton, names, tensors, what)
        if lacks_head(skeleton, names):
            raise no_head(what, architecture, list(names.missing), whole=True)
    if names is None or names.missing or not is_plain:
        # Names alone cannot tell: transformers may compute these weights from others.
        if progress is not None:
            progress(f"loading {what} to see whether its weights are complete")
        _, unused = load_verified(cls, config, folder, architecture=architecture, what=what)
        if unused and not is_plain:
            refuse_parts(skeleton, dict(zip(unused, unused, strict=True)), what=what)
            notes = [unused_note(unused)]
    notes += filter(None, [ignored_note(config, folder)])
    n_tied = sum(parameter.numel() for parameter in skeleton.parameters())
    return VerifiedHead(
        skeleton=skeleton,
        n_parameters=n_tied + sum(skeleton.get_parameter(one).numel() for one, _ in untied),
        note="; ".join(notes) or None,
    )


def _accounted(
    skeleton: Any, names: NameMap, tensors: Mapping[str, TensorInfo], what: str
) -> tuple[list[str], list[tuple[str, str]]]:
    """Notes on tensors that need no quantizer, and the pairs among them that are not tied.

    Raises:
        CheckpointError: Some are misshapen, would be dropped, or stand for the same weight.
    """
    notes = account(skeleton, names, tensors, what=what)
    if names.mismatched:
        raise _misshapen(what, type(skeleton).__name__, names.mismatched)
    require_one_value(names.twice, tensors, what=what)
    untied = untied_pairs(skeleton, names, tensors, what=what)
    notes += [
        f"config.json ties {one} to {other}, but the files hold different tensors for them: they "
        "are measured as stored"
        for one, other in untied
    ]
    return notes, untied


def _misshapen(what: str, name: str, mismatched: Any) -> CheckpointError:
    tensor, stored, expected = mismatched[0]
    more = f" (and {len(mismatched) - 1} more)" if len(mismatched) > 1 else ""
    return CheckpointError(
        f"{what} does not match its config.json: {tensor} is {_shape(stored)} in the files, "
        f"{name} needs {_shape(expected)}{more}; restore the config the weights were saved with."
    )


def _shape(shape: Any) -> str:
    return " x ".join(map(str, shape)) or "a single number"


def _head_rows(model: Any) -> int | None:
    head = model.get_output_embeddings()
    weight = getattr(head, "weight", None)
    return None if weight is None else int(weight.shape[0])
