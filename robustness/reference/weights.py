"""Where a candidate's files differ from its reference's: no model runs."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from robustness.reference.findings import phrases
from robustness.reference.patterns import findings, head_size
from robustness.reference.tensors import compared, paired, usual_stack
from robustness.runtime.plain import plain
from robustness.statistics.location import TensorChange, WeightChanges

if TYPE_CHECKING:
    from robustness.checkpoint.checkpoint import Checkpoint

MOST_LISTED = 100
"""Tensors, or names, that are kept; how many there are is kept, too."""

SAYS_NOTHING = frozenset(
    {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures", "use_cache"}
)
"""Settings that change nothing of what a model computes here."""


def weight_changes(
    candidate: "Checkpoint",
    reference: "Checkpoint",
    *,
    progress: Callable[[str], None] = lambda _: None,
) -> WeightChanges:
    """Compare two checkpoints tensor by tensor, in bounded memory, and look for damage.

    Raises:
        CheckpointError: A file cannot be read.
    """
    pairs = paired(candidate, reference)
    comparisons = []
    for number, pair in enumerate(pairs.pairs):
        progress(f"comparing tensor {number + 1} of {len(pairs.pairs)}")
        comparisons.append(compared(pair))
    configs = [checkpoint.load_config() for checkpoint in (candidate, reference)]
    damage, precision = findings(pairs, comparisons, head_size=head_size(configs[1]))
    largest = sorted(comparisons, key=lambda each: -each.relative)
    stack = usual_stack(pairs.pairs)
    shapes = tuple(f"{plain(name)} is of another shape or dtype" for name in pairs.misfits)
    return WeightChanges(
        tensors=len(comparisons),
        changed=sum(each.relative > 0 for each in comparisons),
        largest=tuple(
            TensorChange(name=plain(each.pair.name), relative=each.relative)
            for each in largest[:MOST_LISTED]
            if each.relative > 0
        ),
        only_candidate=tuple(map(plain, pairs.only_candidate[:MOST_LISTED])),
        only_reference=tuple(map(plain, pairs.only_reference[:MOST_LISTED])),
        settings=(*other_settings(*(config.to_dict() for config in configs)), *shapes),
        patterns=tuple(map(plain, phrases(damage, stack))),
        precision=tuple(map(plain, phrases(precision, stack))),
    )


def other_settings(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> tuple[str, ...]:
    """Settings that differ between two configs, in words."""
    missing = object()
    names = sorted((ours.keys() | theirs.keys()) - SAYS_NOTHING)
    return tuple(
        plain(f"{name} is {_short(ours.get(name))}, the reference's {_short(theirs.get(name))}")
        for name in names
        if ours.get(name, missing) != theirs.get(name, missing)
    )


def _short(value: Any) -> str:
    text = "not set" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
