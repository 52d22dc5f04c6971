"""The anatomy of a checkpoint, traced on a model without weights and remembered per configuration.

What a model is made of depends on its class and its config, never on its weights: the checkpoints
of one training run are traced once, and for all later ones neither torch nor transformers is
imported.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustness.anatomy.stacks import Anatomy, StackChoice, distinct_sites
from robustness.checkpoint.loading import loading_errors
from robustness.checkpoint.weights import TensorInfo
from robustness.errors import CheckpointError, UnsupportedArchitecture
from robustness.runtime.libraries import library_versions
from robustness.store.context import Context
from robustness.store.store import Record, digest

if TYPE_CHECKING:
    from robustness.checkpoint.checkpoint import Checkpoint

ANATOMY = 3
LAYOUT = 5
"""Versions of what is remembered; part of its identity in the store."""


def recorded_anatomy(checkpoint: "Checkpoint", stack: StackChoice, context: Context) -> Record:
    """The anatomy of a resolved checkpoint under ``anatomy``, and its measures beside it.

    Raises:
        UnsupportedArchitecture, UnsupportedSite: Tracing finds no layers, or no output site, or a
            causal model that looks ahead.
    """
    identity = {
        "anatomy": ANATOMY,
        "config": checkpoint.config_hash,
        "architecture": checkpoint.architecture,
        "versions": library_versions(),
    }
    store = context.store(identity)
    (record,) = store.obtain([{"stack": stack}], lambda _: _trace(checkpoint, stack))
    return record


def _trace(checkpoint: "Checkpoint", stack: StackChoice) -> Record:
    from robustness.anatomy.anatomy import few_tokens, trace_anatomy
    from robustness.anatomy.causality import require_next_tokens

    skeleton = checkpoint.skeleton()
    tokens = few_tokens(skeleton, checkpoint.vocab_size)
    anatomy = trace_anatomy(skeleton, tokens, stack=stack)
    if checkpoint.scoring == "causal":
        require_next_tokens(skeleton, checkpoint.vocab_size)
    record = {
        "anatomy": anatomy.to_dict(),
        "stack": anatomy.stack.role,
        "layers": anatomy.stack.n_layers,
        "hidden_size": anatomy.hidden_size,
        "distinct_sites": distinct_sites(anatomy.stack),
        "sites": list(anatomy.stack.available()),
    }
    checkpoint.require_unchanged()
    return record


def recorded_layout(
    folder: Path,
    tensors: Mapping[str, TensorInfo],
    stack: StackChoice,
    context: Context,
    *,
    what: str,
) -> Record:
    """Where the sites of a folder's model are, and what their parameters are called in its files.

    Raises:
        CheckpointError: The files do not match the config.
        UnsupportedArchitecture, UnsupportedSite: Tracing finds no layers, or no output sites.
    """
    config = hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()
    names = digest({name: list(info.shape) for name, info in tensors.items()})
    store = context.store({"layout": LAYOUT, "versions": library_versions()})
    key = {"config": config, "tensors": names, "stack": stack}

    def trace(_: object) -> Record:
        context.progress("tracing the model's skeleton")
        return _trace_layout(folder, tensors, stack, what)

    (record,) = store.obtain([key], trace)
    return record


def _trace_layout(
    folder: Path, tensors: Mapping[str, TensorInfo], stack: StackChoice, what: str
) -> Record:
    from robustness.checkpoint.accounting import account
    from robustness.checkpoint.config import ignored_note, load_config
    from robustness.checkpoint.skeleton import lacks_head, map_names

    config = load_config(folder, what=what)
    skeleton, anatomy = _first_traced(config, stack, what)
    names = map_names(skeleton, tensors)
    notes = []
    if names is not None and lacks_head(skeleton, names):
        head, inner = type(skeleton).__name__, type(skeleton.base_model).__name__
        notes = [f"the files hold no head of {head}: read as {inner}, without a perplexity"]
        skeleton, anatomy = traced_skeleton(config, inner, stack, what)
        names = map_names(skeleton, tensors)
    architecture = type(skeleton).__name__
    parameters = site_parameter_names(anatomy)
    for name, actual, expected in () if names is None else names.mismatched:
        if name in parameters:
            raise CheckpointError(
                f"{what} does not match its config.json: {name} is {list(actual)} in the files, "
                f"{architecture} needs {list(expected)}; restore the config the weights "
                "were saved with."
            )
    if names is not None and getattr(config, "quantization_config", None) is None:
        notes += account(skeleton, names, tensors, what=what)
        if names.missing and not names.converted:
            notes.append(
                f"{len(names.missing)} weights are not in the files ({names.missing[0]} …)"
            )
    notes += filter(None, [ignored_note(config, folder)])
    stored = {} if names is None else names.stored
    return {
        "architecture": architecture,
        "anatomy": anatomy.to_dict(),
        "stored": {name: stored[name] for name in parameters if name in stored},
        "twice": {} if names is None else names.twice,
        "notes": notes,
    }


def _first_traced(config: Any, stack: StackChoice, what: str) -> tuple[Any, Anatomy]:
    """The first class on which the layers can be traced; a head may want more than tokens."""
    from robustness.checkpoint.architecture import classes_with_layers

    first, *others = classes_with_layers(config, what=what)
    try:
        return traced_skeleton(config, first, stack, what)
    except (CheckpointError, UnsupportedArchitecture):
        if not others:
            raise
        return traced_skeleton(config, others[0], stack, what)


def traced_skeleton(
    config: Any, architecture: str, stack: StackChoice, what: str
) -> tuple[Any, Anatomy]:
    """A model of a class without weights, and its anatomy."""
    from robustness.anatomy.anatomy import few_tokens, trace_anatomy
    from robustness.checkpoint.architecture import model_class
    from robustness.checkpoint.skeleton import build_skeleton
    from robustness.checkpoint.verification import embedding_rows

    skeleton = build_skeleton(model_class(architecture), config, what=what)
    with loading_errors(f"The config.json of {what}"):
        tokens = few_tokens(skeleton, embedding_rows(skeleton))
        return skeleton, trace_anatomy(skeleton, tokens, stack=stack)


def site_parameter_names(anatomy: Anatomy) -> list[str]:
    """Names of the scales and biases that rules on weights read in all stacks, sorted."""
    sites = [s for stack in anatomy.stacks for s in stack.output_sites or stack.reading_norms]
    return sorted({name for site in sites for name in (site.scale, site.bias) if name is not None})
