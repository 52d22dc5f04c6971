"""Where the hidden states of a candidate leave those of its reference, by running both.

The reference runs first and its layers' outputs are kept; then the candidate, as it is, each layer
alone on the reference's input, and with what the reference returned in the place of its own.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from robustness.ablation.hooks import LayerHooks, entering, followed
from robustness.ablation.resume import Kept, kept, resumed
from robustness.anatomy.nested import floating_tensors
from robustness.errors import MeasurementError, RobustnessError
from robustness.measurement.execution import Execution
from robustness.statistics.location import ENTERING, RESOLVED_NATS, LayerChange, StateChanges

if TYPE_CHECKING:
    from robustness.anatomy.stacks import Anatomy, Stack
    from robustness.checkpoint.checkpoint import Checkpoint
    from robustness.measurement.measure import Measurement
    from robustness.scoring.block import ScoredBlock

MOST_ROWS = 32
"""Forward passes without a change, at most: pseudo-likelihoods ask for one per token."""

MOST_PLACES = 8
"""Layers at equal distances whose states are patched at first."""


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


class _Reached(RobustnessError):
    """A forward pass has come as far as anybody wants to see."""

    def __init__(self, output: Tensor) -> None:
        super().__init__("nothing behind this layer runs")
        self.output = output


@dataclass(kw_only=True, eq=False)
class Runner(Execution):
    """A model that scores text blocks one by one, watched."""

    @classmethod
    def of(cls, checkpoint: "Checkpoint", anatomy: "Anatomy", *, like: "Measurement") -> "Runner":
        """A checkpoint that is asked what a measurement asks."""
        return cls(
            load_model=partial(checkpoint.load_model, device=like.device),
            anatomy=anatomy,
            scoring=like.checkpoint.scoring,
            pad_id=like.scoring_plan.pad_id,
            device=like.device,
            threads=like.context.threads,
        )

    def passes(self, rows: Sequence["ScoredBlock"]) -> Iterator[Pass]:
        """Each row as the model computes it."""
        for row in self._sharing(rows):
            yield self._watched(row)

    def alone(self, row: "ScoredBlock", reference: Pass) -> Iterator[tuple[int, Tensor]]:
        """What each layer makes of what the reference hands its own; nothing runs behind it."""
        scorer, stack = self._scorer("float32"), self.anatomy.stack
        for layer in range(0 if stack.entries else 1, stack.n_layers):

            def reached(number: int, output: Any, wanted: int = layer) -> None:
                if number == wanted:
                    raise _Reached(next(floating_tensors(output)))

            with (
                self._given(reference, layer - 1),
                followed(scorer.model, stack, LayerHooks(stack, ends=reached)),
            ):
                try:
                    scorer.nll_nats([row])
                except _Reached as reach:
                    yield layer, reach.output.detach().cpu().double()

    def patched_nats(self, row: "ScoredBlock", reference: Pass, layer: int) -> float:
        """The row's NLL if the model goes on from what the reference's layer returned."""
        with self._given(reference, layer):
            (nll,) = self._scorer("float32").nll_nats([row]).tolist()
        return float(nll)

    def _given(self, reference: Pass, layer: int) -> AbstractContextManager[None]:
        """Let what the reference had behind a layer be what the next one reads."""
        model, stack = self._scorer("float32").model, self.anatomy.stack
        if layer == ENTERING:
            return entering(model, stack, lambda _: reference.entered.clone())
        return resumed(model, stack, reference.returned, layer + 1)

    def _watched(self, row: "ScoredBlock") -> Pass:
        scorer, stack = self._scorer("float32"), self.anatomy.stack
        seen: list[Tensor] = []

        def first_input(layer: int, inputs: tuple[Any, ...]) -> None:
            if layer == 0:
                seen[:] = [next(floating_tensors(inputs)).clone()]

        watching = LayerHooks(stack, begins=first_input)
        model = scorer.model
        with followed(model, stack, watching), kept(model, stack) as outputs:
            (nll,) = scorer.nll_nats([row]).tolist()
        # A model that runs twice for its many logits returns the same both times.
        return Pass(nll_nats=nll, entered=seen[0], returned=Kept(outputs=outputs.outputs, passes=1))


def state_changes(
    candidate: "Measurement",
    reference: "Checkpoint",
    anatomy: "Anatomy",
    *,
    text_blocks: int,
    every_layer: bool = False,
) -> StateChanges:
    """Run both on the candidate's first text blocks; ``anatomy`` is the reference's.

    Where nothing is lost, nothing can be restored, and no state is patched. Of many layers some are
    patched, and then those among which most of the harm arises; or all, if ``every_layer``.

    Raises:
        MeasurementError: Their hidden states have other sizes, or one cannot be run.
    """
    plan, ours = candidate.scoring_plan, candidate.model_profile.anatomy
    _require_alike(ours.stack, anatomy.stack)
    rows = plan.rows(candidate.order[:text_blocks].tolist())
    rows = rows[:: -(-len(rows) // max(MOST_ROWS, text_blocks))]
    told = candidate.context.progress
    told(f"running {len(rows)} text blocks in the reference")
    theirs = list(
        Runner.of(reference, anatomy, like=candidate).passes(rows)
    )  # its model is forgotten here
    told(f"running {len(rows)} text blocks in the candidate")
    own = Runner.of(candidate.checkpoint, ours, like=candidate)
    sums, stack = _Sums(), ours.stack
    for row, its, other in zip(rows, own.passes(rows), theirs, strict=True):
        sums.add(its, other)
        if stack.resumable:
            sums.add_alone(other, own.alone(row, other))
    tokens = sum(len(row.targets) for row in rows)
    whole = partial(sums.changes, text_blocks=text_blocks, tokens=tokens)
    is_harmed = whole().harm_nats >= RESOLVED_NATS
    if stack.resumable and (is_harmed or every_layer):
        for layer in _layers_to_patch(stack, whole, every_layer=every_layer):
            told(f"going on from the reference's layer {layer} of {stack.n_layers}")
            pairs = zip(rows, theirs, strict=True)
            sums.patched[layer] = sum(own.patched_nats(*pair, layer) for pair in pairs)
    return whole()


def _layers_to_patch(
    stack: "Stack", whole: Callable[[], StateChanges], *, every_layer: bool
) -> Iterator[int]:
    """Some at equal distances, or all; then all between those that hold most of the harm."""
    step = 1 if every_layer else -(-stack.n_layers // MOST_PLACES)
    coarse = range(stack.n_layers - 1, -1, -step)
    if stack.entries:
        yield ENTERING
    yield from coarse
    low, high = whole().harmful or (0, 0)
    if high - low <= 2 * step:
        yield from (n for n in range(max(low, 0), high) if n not in coarse)


@dataclass(kw_only=True)
class _Sums:
    """Sums over rows: of NLLs, and of squares by place, of which the first is `ENTERING`."""

    nll: list[float] = field(default_factory=lambda: [0.0, 0.0])
    moved: dict[int, list[float]] = field(default_factory=dict)
    own: dict[int, list[float]] = field(default_factory=dict)
    patched: dict[int, float] = field(default_factory=dict)

    def add(self, its: Pass, other: Pass) -> None:
        """Add a row's two passes."""
        self.nll = [self.nll[0] + its.nll_nats, self.nll[1] + other.nll_nats]
        for layer, (h, r) in enumerate(zip(its.states, other.states, strict=True), ENTERING):
            if h.shape != r.shape:
                raise MeasurementError("the hidden states of the two models differ in shape")
            cosines = nn.functional.cosine_similarity(h, r, dim=-1)
            _add(self.moved, layer, _square(h - r), _square(r), cosines.sum(), cosines.numel())

    def add_alone(self, other: Pass, outputs: Iterable[tuple[int, Tensor]]) -> None:
        """Add what the candidate's layers make of the reference's states."""
        states = other.states  # the first is what enters layer 0
        for layer, output in outputs:
            before, after = states[layer], states[layer + 1]
            _add(self.own, layer, _square(output - after), _square(after - before))

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
