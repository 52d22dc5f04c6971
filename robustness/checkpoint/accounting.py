"""Every tensor of a checkpoint's files is used, is known not to matter, is a note, or is an error.

transformers drops what a model has no place for, and unties what the files hold twice, without a
word. Nothing is loaded for that: names and shapes in the headers tell, and values where two tensors
stand for one weight.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, takewhile
from typing import Any

import numpy as np

from robustness.checkpoint.skeleton import NameMap, map_names
from robustness.checkpoint.tensor_values import read_values
from robustness.checkpoint.weights import TensorInfo
from robustness.errors import CheckpointError

# What earlier versions of transformers stored beside the weights and computes anew from the config.
_CACHES = re.compile(
    r"(.*\.)?(position_ids|token_type_ids|(original_)?inv_freq|(cos|sin)_cached|masked_bias|"
    r"causal_mask|relative_position_index|num_batches_tracked|_float_tensor|_extra_state|version)"
)
_NUMBERS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
_WRAPPERS = {
    "_orig_mod": "torch.compile",
    "_fsdp_wrapped_module": "FSDP",
    "_checkpoint_wrapped_module": "activation checkpointing",
    "base_model.model": "PEFT",
    "module": "DataParallel or DDP",
    "model": "a module around the model (PyTorch Lightning)",
}
_ADVICE = {
    r"(.*\.)?(lora_|base_layer|ia3_|hada_|oft_|modules_to_save)": (
        "merge the adapter that they are with merge_and_unload(), and save the result"
    ),
    r"parametrizations|weight_(g|v|orig|mask|u)$": (
        "remove the parametrisation (weight norm, pruning) from the model and save it again"
    ),
    r".*(scale|zero|qweight|g_idx|absmax|quant|packed|SCB|biases$)": (
        "save the weights in floating point, or restore the quantization_config that they were "
        "saved with in config.json"
    ),
    r"": "restore the config.json that they were saved with",
}
"""What to do, by how a name goes on behind that of the module that it belongs to."""


def account(
    skeleton: Any, names: NameMap, tensors: Mapping[str, TensorInfo], *, what: str
) -> list[str]:
    """Account for the tensors that a model does not simply take over, by names and shapes alone.

    Args:
        skeleton: The model without weights.
        names: How its parameters and the tensors correspond.
        tensors: All tensors of the files by their names there.
        what: The checkpoint's reference, for messages.

    Returns:
        Notes on tensors that are not used, and on weights that are not in the files.

    Raises:
        CheckpointError: Names are wrapped, weights are stored as codes, or tensors belong to
            weights of the model and would be dropped.
    """
    if names.missing:
        _refuse_wrapped(skeleton, names, tensors, what)
    buffers = dict(skeleton.named_buffers())
    unused = {
        name: target
        for name, target in names.unused.items()
        if target not in buffers and not _is_cache(tensors[name])
    }
    refuse_parts(skeleton, unused, what=what)
    _refuse_codes(skeleton, names, tensors, what)
    notes = [unused_note(unused, names.stored.values())] if unused else []
    if names.initial:
        notes.append(
            f"{len(names.initial)} weights are not in the files and keep their initial values "
            f"({_examples(names.initial)})"
        )
    return notes


def require_one_value(
    twice: Mapping[str, Sequence[str]], tensors: Mapping[str, TensorInfo], *, what: str
) -> None:
    """Refuse two tensors for one weight that hold different numbers.

    Raises:
        CheckpointError: There are such: nothing says which of them is meant.
    """
    for target, (one, other) in twice.items():
        if not _same(tensors[one], tensors[other]):
            raise CheckpointError(
                f"{what} holds two different tensors for {target} ({one} and {other}), and nothing "
                "says which is meant: save it again with save_pretrained()."
            )


def untied_pairs(
    skeleton: Any, names: NameMap, tensors: Mapping[str, TensorInfo], *, what: str
) -> list[tuple[str, str]]:
    """Pairs of parameters that config.json ties and the files do not; transformers unties them.

    Raises:
        CheckpointError: One weight that cannot be untied stands in the files twice, differently.
    """
    groups: dict[int, list[str]] = {}
    for name, parameter in skeleton.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    untied = []
    for first, *others in groups.values():
        for other in others:
            one, two = names.stored.get(first), names.stored.get(other)
            if one is None or two is None or one == two or _same(tensors[one], tensors[two]):
                continue
            if not {first, other} & skeleton.all_tied_weights_keys.keys():
                require_one_value({first: (one, two)}, tensors, what=what)
            untied.append((other, first))
    return untied


def unused_note(unused: Iterable[str], used: Iterable[str] = ()) -> str:
    """The note on tensors that a model has no place for."""
    unused = list(unused)
    forms = set(map(_without_numbers, used))
    beyond = any(_without_numbers(name) in forms for name in unused)
    where = ", some of them of layers beyond those in config.json" if beyond else ""
    is_one = len(unused) == 1
    return (
        f"{len(unused)} tensor{'' if is_one else 's'} of the files {'is' if is_one else 'are'} not "
        f"used ({_examples(unused)}){where}"
    )


def refuse_parts(skeleton: Any, unused: Mapping[str, str], *, what: str) -> None:
    """Refuse tensors without a place that are a part of weights or layers that the model has.

    Args:
        skeleton: The model without weights.
        unused: Tensors without a place: their names in the model by their names in the files.
        what: The checkpoint's reference, for messages.

    Raises:
        CheckpointError: There are some: without them the numbers would be another model's.
    """
    modules = dict(skeleton.named_modules())
    base = f"{skeleton.base_model_prefix}."
    declared = list(skeleton._keys_to_ignore_on_load_unexpected or ())
    parts: dict[str, str] = {}  # what is behind the name of the module that they belong to
    for name, target in unused.items():
        if any(re.search(pattern, name) for pattern in declared):
            continue
        for start in (target, base + target, target.removeprefix(base)):
            *above, _ = accumulate(start.split("."), "{}.{}".format)
            owner = next((path for path in reversed(above) if path in modules), "")
            if modules[owner]._parameters or re.search(r"\.\d+(\.|$)", owner):
                parts[name] = start.removeprefix(f"{owner}.")
    if parts:
        advice = next(
            text
            for pattern, text in _ADVICE.items()
            if any(re.match(pattern, part) for part in parts.values())
        )
        raise CheckpointError(
            f"{what} holds tensors that belong to weights of {type(skeleton).__name__} and would "
            f"be dropped ({_examples(parts)}), so the numbers would be another model's: {advice}."
        )


def _is_cache(tensor: TensorInfo) -> bool:
    """Whether a tensor is one that any model computes for itself: also a mask over positions."""
    is_mask = len(tensor.shape) == 4 and tensor.shape == (1, 1, tensor.shape[2], tensor.shape[2])
    return is_mask or _CACHES.fullmatch(tensor.name) is not None


def _refuse_codes(
    skeleton: Any, names: NameMap, tensors: Mapping[str, TensorInfo], what: str
) -> None:
    """Refuse integers where the model has real numbers: only a quantizer could read them."""
    state = skeleton.state_dict()
    for target, name in names.stored.items():
        if tensors[name].dtype not in _NUMBERS and state[target].is_floating_point():
            raise CheckpointError(
                f"{what} stores {name} as {tensors[name].dtype}, and config.json has no "
                "quantization_config that says what the codes mean: save it in floating point, or "
                "restore the config.json that it was saved with."
            )


def _same(one: TensorInfo, other: TensorInfo) -> bool:
    """Whether two tensors hold the same numbers."""
    if one.shape != other.shape:
        return False
    return np.array_equal(read_values(one), read_values(other), equal_nan=True)


def _refuse_wrapped(
    skeleton: Any, names: NameMap, tensors: Mapping[str, TensorInfo], what: str
) -> None:
    """Refuse names under which a training library wraps the model, saying whose they are."""
    ends = min(tensors).split("."), max(tensors).split(".")
    shared = [
        one for one, _ in takewhile(lambda parts: parts[0] == parts[1], zip(*ends, strict=False))
    ]
    starts = [*accumulate(shared, "{}.{}".format), *_WRAPPERS]
    patterns = [rf"^{re.escape(start)}\." for start in starts]
    patterns += [rf"(?<![^.]){wrapper}\." for wrapper in _WRAPPERS if wrapper.startswith("_")]
    for pattern in patterns:
        bare = {re.sub(pattern, "", name): tensor for name, tensor in tensors.items()}
        found = map_names(skeleton, bare) if bare.keys() != tensors.keys() else None
        if found is not None and 2 * len(found.missing) < len(names.missing):
            start = next(m[0] for name in tensors if (m := re.search(pattern, name)))
            left = next(
                (who for w, who in _WRAPPERS.items() if w in start), "what wrapped the model"
            )
            where = "the names of its tensors begin with" if pattern[0] == "^" else "names hold"
            raise CheckpointError(
                f"{what} was saved wrapped: {where} {start!r}, which {left} leaves; save the model "
                "inside with save_pretrained()."
            )


def _without_numbers(name: str) -> str:
    return re.sub(r"\d+", "#", name)


def _examples(names: Iterable[str]) -> str:
    """A few names that differ in more than numbers."""
    few = {_without_numbers(name): name for name in sorted(names, reverse=True)}
    shown = sorted(few.values())[:3]
    return ", ".join(shown) if len(few) == len(shown) else f"such as {', '.join(shown)}"
