"""Where a candidate's files differ from its reference's: no model runs."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from robustness.checkpoint.config import HARMLESS
from robustness.reference.findings import EVERYWHERE, Finding, phrases
from robustness.reference.patterns import findings, head_size
from robustness.reference.tensors import Comparison, compared, paired, usual_stack
from robustness.runtime.plain import plain
from robustness.statistics.location import TensorChange, WeightChanges, numbered

if TYPE_CHECKING:
    from robustness.checkpoint.checkpoint import Checkpoint

MOST_LISTED = 100
"""Tensors, or names, that are kept; how many there are is kept, too."""

MOST_NAMED = 0.6
"""Share of the tensors up to which it is told which they are."""

FEW = 3
"""Phrases that tell it."""


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
        which=_which(comparisons, stack),
        tokenizer=candidate.tokenizer_hash != reference.tokenizer_hash,
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
    """Settings that differ between two configs and that a forward pass depends on, in words."""
    names = sorted(n for n in ours.keys() | theirs.keys() if not HARMLESS.fullmatch(n))
    return tuple(
        plain(f"{name} is {_short(ours.get(name))}, the reference's {_short(theirs.get(name))}")
        for name in names
        if ours.get(name) != theirs.get(name)
    )


def _which(comparisons: Sequence[Comparison], stack: str) -> str:
    """The tensors that differ, or their layers, where that is short to say and not most of them."""
    places = [each.pair.place for each in comparisons if each.relative > 0]
    if not places or len(places) > MOST_NAMED * len(comparisons):
        return ""
    named = phrases(
        [Finding(rank=EVERYWHERE, text=p.rest, stack=p.stack, layer=p.layer) for p in places], stack
    )
    if len(named) <= FEW:
        return plain(", ".join(named))
    layers = sorted({place.layer for place in places if place.layer is not None})
    if len({place.stack for place in places}) > 1 or any(place.layer is None for place in places):
        return ""
    return f"all in {numbered('layer', layers)}"


def _short(value: Any) -> str:
    text = "not set" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
