"""Where the hidden states of a candidate leave those of its reference, by running both.

The reference runs first and its layers' outputs are kept; then the candidate, once as it is, and
once for every layer with what the reference returned there in the place of its own.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from robustness.ablation.hooks import LayerHooks, entering, followed
from robustness.ablation.resume import Kept, kept, resumed
from robustness.anatomy.nested import floating_tensors
from robustness.errors import MeasurementError
from robustness.measurement.execution import Execution
from robustness.statistics.location import ENTERING, LayerChange, StateChanges

if TYPE_CHECKING:
    from robustness.anatomy.stacks import Anatomy, Stack
    from robustness.checkpoint.checkpoint import Checkpoint
    from robustness.measurement.measure import Measurement
    from robustness.scoring.block import ScoredBlock

MOST_ROWS = 32
"""Forward passes without a change, at most: pseudo-likelihoods ask for one per token."""


@dataclass(kw_only=True)
class Pass:
    """One forward pass: the NLL, what entered the first layer, and what all layers returned."""

    nll_nats: float
    entered: Tensor
    returned: Kept

    @property
    def states(self) -> list[Tensor]:
        """What entered the first layer, and every layer's output, in float64 on the processor."""
        outputs = [next(floating_tensors(output)) for output in self.returned.outputs]
        return [state.detach().cpu().double() for state in (self.entered, *outputs)]


@dataclass(kw_only=True, eq=False)
class Runner(Execution):
    """A model that scores text blocks one by one, watched."""

    def passes(self, rows: Sequence["ScoredBlock"]) -> Iterator[Pass]:
        """Each row as the model computes it."""
        for row in self._sharing(rows):
            yield self._watched(row)

    def patched(self, row: "ScoredBlock", reference: Pass) -> Iterator[tuple[int, Pass]]:
        """The row with the reference's states at each place, by the layer that returned them."""
        model, stack = self._scorer("float32").model, self.anatomy.stack
        if stack.entries:
            yield ENTERING, self._watched(row, _entered(model, stack, reference.entered))
        for layer in range(stack.n_layers):
            start = resumed(model, stack, reference.returned, layer + 1)
            yield layer, self._watched(row, start)

    def _watched(
        self, row: "ScoredBlock", within: AbstractContextManager[None] | None = None
    ) -> Pass:
        scorer, stack = self._scorer("float32"), self.anatomy.stack
        seen: list[Tensor] = []

        def first_input(layer: int, inputs: tuple[Any, ...]) -> None:
            if layer == 0:
                seen[:] = [next(floating_tensors(inputs)).clone()]

        watching = LayerHooks(stack, begins=first_input)
        model = scorer.model
        with (
            within or nullcontext(),
            followed(model, stack, watching),
            kept(model, stack) as outputs,
        ):
            (nll,) = scorer.nll_nats([row]).tolist()
        # A model that runs twice for its many logits returns the same both times.
        return Pass(nll_nats=nll, entered=seen[0], returned=Kept(outputs=outputs.outputs, passes=1))


def state_changes(
    candidate: "Measurement", reference: "Checkpoint", anatomy: "Anatomy", *, text_blocks: int
) -> StateChanges:
    """Run both on the candidate's first text blocks; ``anatomy`` is the reference's.

    Raises:
        MeasurementError: Their hidden states have other sizes, or one cannot be run.
    """
    plan, ours = candidate.scoring_plan, candidate.model_profile.anatomy
    _require_alike(ours.stack, anatomy.stack)
    rows = plan.rows(candidate.order[:text_blocks].tolist())
    rows = rows[:: -(-len(rows) // max(MOST_ROWS, text_blocks))]

    def runner(checkpoint: "Checkpoint", its_anatomy: "Anatomy") -> Runner:
        return Runner(
            load_model=partial(checkpoint.load_model, device=candidate.device),
            anatomy=its_anatomy,
            scoring=candidate.checkpoint.scoring,
            pad_id=plan.pad_id,
            device=candidate.device,
            threads=candidate.context.threads,
        )

    theirs = list(runner(reference, anatomy).passes(rows))  # its model is forgotten here
    own = runner(candidate.checkpoint, ours)
    sums = _Sums(n_layers=ours.stack.n_layers)
    for number, (row, its, other) in enumerate(zip(rows, own.passes(rows), theirs, strict=True)):
        candidate.context.progress(f"running text block {number + 1} of {len(rows)} in both models")
        patched = own.patched(row, other) if ours.stack.resumable else ()
        sums.add(its, other, patched)
    tokens = sum(len(row.targets) for row in rows)
    return sums.changes(text_blocks=text_blocks, tokens=tokens)


@dataclass(kw_only=True)
class _Sums:
    """Sums over rows: of NLLs, and of squares by place, of which the first is `ENTERING`."""

    n_layers: int
    nll: list[float] = field(default_factory=lambda: [0.0, 0.0])
    moved: dict[int, list[float]] = field(default_factory=dict)
    own: dict[int, list[float]] = field(default_factory=dict)
    patched: dict[int, float] = field(default_factory=dict)

    def add(self, its: Pass, other: Pass, patched: Iterable[tuple[int, Pass]]) -> None:
        """Add a row's passes, those with the reference's states one after the other."""
        states, others = its.states, other.states
        self.nll = [self.nll[0] + its.nll_nats, self.nll[1] + other.nll_nats]
        for layer, (h, r) in enumerate(zip(states, others, strict=True), ENTERING):
            if h.shape != r.shape:
                raise MeasurementError("the hidden states of the two models differ in shape")
            cosines = nn.functional.cosine_similarity(h, r, dim=-1)
            _add(self.moved, layer, _square(h - r), _square(r), cosines.sum(), cosines.numel())
        for layer, its_pass in patched:
            self.patched[layer] = self.patched.get(layer, 0.0) + its_pass.nll_nats
            if layer + 1 < self.n_layers:  # the next one ran on the reference's state
                x, y = others[layer + 1], others[layer + 2]
                step = _square(its_pass.states[layer + 2] - y), _square(y - x)
                _add(self.own, layer + 1, *step)

    def changes(self, *, text_blocks: int, tokens: int) -> StateChanges:
        """What they amount to."""

        def change(layer: int) -> LayerChange:
            difference, whole, cosines, positions = self.moved[layer]
            own, nats = self.own.get(layer), self.patched.get(layer)
            return LayerChange(
                layer=layer,
                moved=_ratio(difference, whole),
                cosine=cosines / positions,
                own=None if own is None else _ratio(*own),
                patched_nats=None if nats is None else nats / tokens,
            )

        candidate, reference = (nll / tokens for nll in self.nll)
        return StateChanges(
            text_blocks=text_blocks,
            tokens=tokens,
            candidate_nats=candidate,
            reference_nats=reference,
            layers=tuple(map(change, sorted(self.moved))),
        )


@contextmanager
def _entered(model: nn.Module, stack: "Stack", features: Tensor) -> Iterator[None]:
    """Let these features enter the first layer."""
    with entering(model, stack, lambda _: features.clone()):
        yield


def _require_alike(ours: "Stack", theirs: "Stack") -> None:
    sizes = [(stack.n_layers, stack.hidden_size) for stack in (ours, theirs)]
    if sizes[0] != sizes[1]:
        layers, others = (f"{n} layers of {width} features" for n, width in sizes)
        raise MeasurementError(
            f"hidden states cannot be compared: the candidate has {layers}, the reference {others}"
        )


def _add(sums: dict[int, list[float]], layer: int, *values: Tensor | float) -> None:
    before = sums.setdefault(layer, [0.0] * len(values))
    sums[layer] = [old + float(new) for old, new in zip(before, values, strict=True)]


def _square(values: Tensor) -> float:
    return float((values**2).sum())


def _ratio(difference: float, whole: float) -> float:
    """Of two norms, given by their squares."""
    if not math.isfinite(difference) or not whole > 0:
        return math.inf if difference else 0.0
    return math.sqrt(difference / whole)
