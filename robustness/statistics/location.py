"""Where a candidate differs from its reference, in numbers and in a sentence for a verdict."""

import math
from collections.abc import Sequence
from itertools import pairwise

from robustness.statistics.figures import Figures, Number

ENTERING = -1
"""The number, in the place of a layer's, of what enters the first layer."""

STANDS_OUT = 2.0
"""A layer's own change stands out where it is more than this many times the median layer's,"""

VISIBLE = 0.01
"""and more than this share of what the layer adds."""

MOST = 0.8
"""Share of the harm that counts as most of it."""

RESOLVED_NATS = 1e-3
"""Harm per scored token, in nats, below which no part of the model is blamed for it."""

UNCLEAR = 0.35
"""Nor where what all others add and take away is more than this share of the harm."""

SHORT = 3
"""A run of places names where it comes from if it is at most one in so many of all."""


class TensorChange(Figures):
    """One tensor: ‖candidate - reference‖ / ‖reference‖, infinite where it holds NaN or more."""

    name: str
    relative: Number


class WeightChanges(Figures):
    """What the files alone tell.

    Attributes:
        tensors: pairs of tensors that were compared.
        changed: how many of them differ at all.
        which: those, where that is short to say.
        tokenizer: whether the tokenizer's files differ.
        largest: relative changes, the largest first.
        only_candidate: names of tensors that only the candidate has.
        only_reference: that only the reference has.
        settings: settings of config.json that differ, in words.
        patterns: what looks like damage, in words, the gravest first.
        precision: how the numbers were rewritten, in words, where that explains the changes.
    """

    tensors: int
    changed: int
    which: str = ""
    tokenizer: bool = False
    largest: tuple[TensorChange, ...] = ()
    only_candidate: tuple[str, ...] = ()
    only_reference: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    precision: tuple[str, ...] = ()

    @property
    def found(self) -> str:
        """What explains the difference best, in one phrase."""
        told = (*self.patterns, *self.settings)
        if told:
            more = f" (and {len(told) - 1} more)" if len(told) > 1 else ""
            return f"{told[0]}{more}"
        if not self.changed:
            return f"no tensor differs{', but the tokenizer does' * self.tokenizer}"
        if self.precision:
            return self.precision[0]
        first = self.largest[0]
        which = f" ({self.which})" if self.which else ""
        how = f"most of all {first.name}, by {percent(first.relative)}"
        return f"{self.changed} of {self.tensors} tensors differ{which}, {how}"


class LayerChange(Figures):
    """One layer, or what enters the first one, on the same text blocks in both models.

    Attributes:
        layer: its number, or `ENTERING`.
        moved: ‖h - h'‖ / ‖h'‖ over all positions: h is the candidate's output, h' the reference's.
        cosine: between the two, the mean over positions.
        own: the change of the layer itself: ‖f(x') - f'(x')‖ / ‖f'(x') - x'‖, both layers run on
            what the reference hands its own, x'.
        patched_nats: the candidate's NLL per scored token if its output here is the reference's.
    """

    layer: int
    moved: Number
    cosine: Number
    own: Number | None = None
    patched_nats: Number | None = None


class StateChanges(Figures):
    """What running both on the same text blocks tells.

    Attributes:
        text_blocks: how many.
        tokens: scored ones.
        candidate_nats: NLL, or loss, per scored token.
        reference_nats: the reference's.
        layers: in order, the first of them `ENTERING`.
    """

    text_blocks: int
    tokens: int
    candidate_nats: Number
    reference_nats: Number
    layers: tuple[LayerChange, ...]

    @property
    def harm_nats(self) -> float:
        """By how much the candidate's NLL per scored token is larger."""
        return self.candidate_nats - self.reference_nats

    @property
    def first(self) -> int | None:
        """The first layer whose own change stands out: `STANDS_OUT`, `VISIBLE`."""
        own = {each.layer: each.own for each in self.layers if each.own is not None}
        if not own:
            return None
        usual = sorted(own.values())[(len(own) - 1) // 2]
        return next((n for n, change in own.items() if change > threshold(usual)), None)

    @property
    def harmful(self) -> tuple[int, int] | None:
        """The shortest run of places in which `MOST` of the harm arises, by its first and last.

        What a place adds is how much more the reference's state behind it restores than the one
        before it. Behind the last layer comes the head, with the number after that layer's.
        """
        patched = [(c.layer, c.patched_nats) for c in self.layers if c.patched_nats is not None]
        nats = [self.candidate_nats, *(value for _, value in patched), self.reference_nats]
        if not patched or not math.isfinite(sum(nats)) or self.harm_nats < RESOLVED_NATS:
            return None
        steps = [abs(a - b) for a, b in pairwise(nats)]
        ends = [ENTERING - 1, *(layer for layer, _ in patched), self.layers[-1].layer + 1]
        runs = [
            (ends[j] - ends[i], nats[j] - nats[i], ends[i] + 1, ends[j])
            for i in range(len(nats))
            for j in range(i + 1, len(nats))
            if nats[i] - nats[j] >= MOST * self.harm_nats
            and sum(steps[:i]) + sum(steps[j:]) <= UNCLEAR * self.harm_nats
        ]
        return min(runs)[2:] if runs else None

    def places(self, first: int, last: int) -> str:
        """What a run of places is called."""
        ends = [
            "the embedding" if n == ENTERING else "the head" if n > self.layers[-1].layer else None
            for n in (first, last)
        ]
        if ends == [None, None]:
            return numbered("layer", range(first, last + 1))
        low, high = (end or f"layer {n}" for end, n in zip(ends, (first, last), strict=True))
        return low if first == last else f"{low} to {high}"

    def restored(self, change: LayerChange) -> float | None:
        """Share of the harm that the reference's state takes away; None where there is none."""
        harm = self.harm_nats
        if change.patched_nats is None or not math.isfinite(harm) or harm < RESOLVED_NATS:
            return None
        return (self.candidate_nats - change.patched_nats) / self.harm_nats

    @property
    def found(self) -> str:
        """Where it comes from, in one phrase; empty where nothing stands out."""
        ends, first = self.harmful, self.first
        if ends is not None and ends[1] - ends[0] < max(2, len(self.layers) // SHORT):
            return f"most of it from {self.places(*ends)}"
        if first is not None:
            return f"layer {first} is the first that stands out"
        return "" if ends is None else "it grows from layer to layer"


class Location(Figures):
    """Where a candidate differs from its reference, as far as it could be found out.

    Attributes:
        same: weights, settings and tokenizer are the reference's, to the bit.
        weights: by the files.
        states: by running both.
        notes: what could not be compared, a sentence each.
    """

    same: bool = False
    weights: WeightChanges | None = None
    states: StateChanges | None = None
    notes: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """One phrase for a failing verdict, such as ``most of it from layer 2: …``; may be ''."""
        if self.same:
            return "the candidate is the reference, bit by bit"
        where = "" if self.states is None else self.states.found
        what = "" if self.weights is None else self.weights.found
        return ": ".join(filter(None, (where, what)))


def threshold(median: float) -> float:
    """From where on a layer's own change stands out beside the median layer's."""
    return max(STANDS_OUT * median, VISIBLE)


def percent(share: float) -> str:
    """A share in short: ``35 %``, ``0.012 %``, ``inf``."""
    if not math.isfinite(share):
        return "inf"
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.0f} %"


def numbered(noun: str, numbers: Sequence[int]) -> str:
    """``layer 1``, ``layers 1 and 2``, ``layers 0 to 5``, ``layers 0, 2 and 5``."""
    if len(numbers) == 1:
        return f"{noun} {numbers[0]}"
    if len(numbers) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{noun}s {numbers[0]} to {numbers[-1]}"
    return f"{noun}s {', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"
