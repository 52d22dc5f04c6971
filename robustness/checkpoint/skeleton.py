"""A model without weights: runs a forward pass, and knows what its parameters are called in files.

Parameters are overlapping views of two short random vectors (a Hankel matrix, element [i, j] =
vector[i + j]), so that a model of any size takes megabytes, and yet no two features are alike and
no normalisation sees a constant. Buffers are real.
"""

import contextlib
import copy
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from robustness.checkpoint.architecture import model_options
from robustness.checkpoint.loading import loading_errors, quiet, require_memory
from robustness.checkpoint.weights import TensorInfo
from robustness.errors import CheckpointError

_MAX_LAYERS = 10_000  # a config that asks for more is hostile: building it would take hours
_MAX_MODULES = 300_000  # five times as many as the largest mixtures of experts have
_MAX_AXES = 100_000_000  # sum of one parameter's axes; the largest vocabularies have 10^6 rows
_MATRIX_STD = 0.02  # the usual initialisation of linear layers and embeddings
_VECTOR_MEAN = 1.0  # scales of normalisations are vectors, and 1 is their neutral value


def build_skeleton(cls: Any, config: Any, *, what: str) -> Any:
    """Build a model whose parameters take no memory; its values are arbitrary but finite.

    Returns:
        The model in eval mode, weights tied as its config says, no parameter requiring gradients.

    Raises:
        CheckpointError: The config cannot be built, or asks for absurd sizes.
    """
    import accelerate  # type: ignore[import-untyped]

    n_layers = getattr(config, "num_hidden_layers", None)
    if isinstance(n_layers, int) and n_layers > _MAX_LAYERS:
        raise CheckpointError(
            f"{what} asks for {n_layers} layers in config.json: that is no model."
        )
    config = copy.deepcopy(config)
    config._experts_implementation = "eager"  # grouped kernels refuse overlapping weights
    with loading_errors(f"The config.json of {what}"), quiet():
        _require_modest_sizes(cls, config, what)
        with _count_modules(what), accelerate.init_empty_weights(include_buffers=False):
            model = cls(config, **model_options(cls))
        _fill(model)
        model.tie_weights()
    model.eval()
    return model


def _require_modest_sizes(cls: Any, config: Any, what: str) -> None:
    """Refuse absurd parameters, and buffers (positions, causal masks) beyond free memory.

    Found on a model of no memory at all, since buffers will be real. A class that cannot be built
    like that is left to the real thing.
    """
    import torch

    try:
        with _count_modules(what), torch.device("meta"):
            model = cls(config, **model_options(cls))
    except CheckpointError:
        raise
    except Exception:
        return
    tensors = [*model.parameters(), *model.buffers()]
    largest = max((tuple(tensor.shape) for tensor in tensors), key=sum, default=())
    if sum(largest) > _MAX_AXES:
        raise CheckpointError(f"{what} asks for a tensor of {largest} in config.json.")
    n_bytes = sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
    require_memory(n_bytes, what=f"Building {what} as its config.json asks")


@contextlib.contextmanager
def _count_modules(what: str) -> Iterator[None]:
    """Stops building a model that a config asks for absurdly many parts of."""
    from torch.nn.modules.module import register_module_module_registration_hook

    numbers = itertools.count(1)

    def count(*_: object) -> None:
        if next(numbers) > _MAX_MODULES:
            raise CheckpointError(
                f"{what} asks for more than {_MAX_MODULES} modules in config.json: that is no "
                "model."
            )

    hook = register_module_module_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def _fill(model: Any) -> None:
    """Replace every parameter by a view of two shared random vectors."""
    import torch

    parameters = list(model.parameters())
    longest = max((sum(p.shape) for p in parameters), default=0) + len(parameters)
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(longest, generator=generator) * _MATRIX_STD
    vector = matrix + _VECTOR_MEAN
    filled: dict[int, torch.nn.Parameter] = {}
    for module in model.modules():
        for name, old in list(module._parameters.items()):
            if old is None:
                continue
            if id(old) not in filled:
                values = matrix if old.ndim > 1 else vector
                # Another offset for each parameter, so that no two layers are the same.
                view = values.as_strided(old.shape, (1,) * old.ndim, len(filled))
                if old.dtype != view.dtype:
                    view = view.to(old.dtype)
                filled[id(old)] = torch.nn.Parameter(view, requires_grad=False)
            module._parameters[name] = filled[id(old)]


@dataclass(frozen=True, kw_only=True)
class NameMap:
    """How a model's parameters and the tensors of its files correspond.

    Attributes:
        stored: Model parameter name -> name in the files, where it is that tensor as it stands.
        converted: Whether transformers computes some parameters from several tensors (stacked
            experts, split projections); those are not in ``stored``.
        missing: Parameters found neither in the files nor tied to one that is.
        mismatched: (name, shape in the files, shape in the model).
        unused: Tensors that the model has no place for: name in the files -> name in the model.
        twice: Model parameter name -> two tensors of the files that both are it by their names.
        initial: What the files may lack by the class's own word, and do.
    """

    stored: Mapping[str, str]
    converted: bool
    missing: tuple[str, ...]
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    unused: Mapping[str, str] = field(default_factory=dict)
    twice: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    initial: tuple[str, ...] = ()


def map_names(skeleton: Any, tensors: Mapping[str, TensorInfo]) -> NameMap | None:
    """Match parameters with tensors as transformers will when it loads them.

    The renamings (legacy ``LayerNorm.gamma``, a base model's prefix present or absent, …) are
    transformers' own. None when this version of it does not offer them: then only loading tells.
    """
    renamed = _renamed(skeleton, tensors)
    if renamed is None:
        return None
    shapes = {name: tuple(value.shape) for name, value in skeleton.state_dict().items()}
    stored: dict[str, str] = {}
    unused: dict[str, str] = {}
    twice: dict[str, tuple[str, str]] = {}
    converted = False
    for name, (target, is_converted) in renamed.items():
        place = target if target in shapes else name
        if is_converted and target in shapes:
            converted = True
        elif place not in shapes:
            unused[name] = target
        elif place in stored:
            twice[place] = (stored[place], name)
        else:
            stored[place] = name
    mismatched = [
        (target, tensors[name].shape, shapes[target])
        for target, name in stored.items()
        if tensors[name].shape != shapes[target]
    ]
    _add_tied(skeleton, stored)
    optional = skeleton._keys_to_ignore_on_load_missing or ()
    parameters = [name for name, _ in skeleton.named_parameters(remove_duplicate=False)]
    lacking = [name for name in parameters if name not in stored]
    may_lack = [name for name in lacking if any(re.search(pattern, name) for pattern in optional)]
    computed = skeleton._keys_to_ignore_on_save or ()  # such as sinusoidal positions
    return NameMap(
        stored=stored,
        converted=converted,
        missing=tuple(name for name in lacking if name not in may_lack),
        mismatched=tuple(mismatched),
        unused=unused,
        twice=twice,
        initial=tuple(name for name in may_lack if name not in computed),
    )


def lacks_head(skeleton: Any, names: NameMap) -> bool:
    """Whether the files hold all of the model that has a head, and nothing of the head itself."""
    inside = {id(parameter) for parameter in skeleton.base_model.parameters()}
    head = {
        name
        for name, parameter in skeleton.named_parameters(remove_duplicate=False)
        if id(parameter) not in inside
    }
    return bool(head) and head == set(names.missing)


def _renamed(
    skeleton: Any, tensors: Mapping[str, TensorInfo]
) -> dict[str, tuple[str, bool]] | None:
    """Tensor name -> (model name, whether it is one ingredient of a computed parameter)."""
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import (
            WeightConverter,
            WeightRenaming,
            rename_source_key,
        )

        transforms = get_model_conversion_mapping(skeleton)
        renamings = [entry for entry in transforms if isinstance(entry, WeightRenaming)]
        converters = [entry for entry in transforms if isinstance(entry, WeightConverter)]
        state = skeleton.state_dict()
        result = {}
        for name in tensors:
            target, pattern = rename_source_key(
                name, renamings, converters, skeleton.base_model_prefix, state
            )
            if target not in state and name in state:
                target, pattern = rename_source_key(name, [], [], skeleton.base_model_prefix, state)
            result[name] = (target, pattern is not None)
    except Exception:  # internals of transformers: any change in them means "only loading tells"
        return None
    return result


def _add_tied(skeleton: Any, stored: dict[str, str]) -> None:
    """Give parameters that share a tensor the same name in the files."""
    groups: dict[int, list[str]] = {}
    for name, parameter in skeleton.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    for names in groups.values():
        source = next((stored[name] for name in names if name in stored), None)
        if source is not None:
            for name in names:
                stored.setdefault(name, source)
