"""Where a candidate differs from its reference: by the files, and by running both."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeVar

from robustness.anatomy.recorded import recorded_anatomy
from robustness.anatomy.stacks import Anatomy
from robustness.errors import RobustnessError
from robustness.reference.weights import weight_changes
from robustness.runtime.libraries import library_versions
from robustness.scoring.scoring_plan import CHUNK_BLOCKS
from robustness.statistics.figures import Figures
from robustness.statistics.location import Location, StateChanges, WeightChanges

if TYPE_CHECKING:
    from robustness.checkpoint.checkpoint import Checkpoint
    from robustness.measurement.measure import Measurement
    from robustness.store.context import Context
    from robustness.store.store import Record, Store

LOCATION = 2
"""Version of what is found; part of its identity in the store."""

TEXT_BLOCKS = 8

F = TypeVar("F", bound=Figures)


class Candidate(Protocol):
    """What is located; :class:`robustness.vetting.Vetting` is one."""

    checkpoint: "Checkpoint"
    context: "Context"

    @property
    def measurement(self) -> "Measurement":
        """The text, and how the checkpoint is scored on it."""


def located(
    candidate: Candidate,
    reference: "Checkpoint",
    *,
    text_blocks: int = TEXT_BLOCKS,
    files_only: bool = False,
    every_layer: bool = False,
) -> Location:
    """Where a candidate differs from its reference, as far as it can be found out.

    It never raises: what goes wrong is a note. What was found once is in the store.

    Args:
        candidate: the checkpoint in question, with its text.
        reference: what it is held against.
        text_blocks: how many both are run on, the first of the candidate's seeded order.
        files_only: whether to leave running them out.
        every_layer: whether to patch the states of all layers, and not of some and then others.
    """
    ours = candidate.checkpoint
    if ours.identity == reference.identity:
        return Location(same=True)
    notes: list[str] = []

    def found(part: Callable[[], F]) -> F | None:
        try:
            return part()
        except RobustnessError as error:
            notes.append(str(error))
        except Exception as error:  # a verdict stands, whatever happens to its explanation
            notes.append(f"{type(error).__name__}: {error}")
        return None

    weights = found(lambda: _weights(candidate, reference))
    states = None
    if not files_only:
        states = found(lambda: _states(candidate, reference, text_blocks, every_layer))
    return Location(weights=weights, states=states, notes=tuple(notes))


def _weights(candidate: Candidate, reference: "Checkpoint") -> WeightChanges:
    ours = candidate.checkpoint

    def compare() -> WeightChanges:
        return weight_changes(ours, reference, progress=candidate.context.progress)

    store = candidate.context.store({"weights": ours.weights_hash, "config": ours.config_hash})
    return _remembered(store, candidate, reference, WeightChanges, compare, what="weights")


def _states(
    candidate: Candidate, reference: "Checkpoint", text_blocks: int, every_layer: bool
) -> StateChanges:
    measurement = candidate.measurement
    plan = measurement.scoring_plan
    number = min(text_blocks, plan.layout.n_blocks)
    choice = measurement.model_profile.anatomy.choice
    record = recorded_anatomy(reference, choice, candidate.context)
    anatomy = Anatomy.from_dict(record["anatomy"])
    for chunk in range(-(-number // CHUNK_BLOCKS)):
        plan.prepare(chunk)  # nobody waits for one record while holding another's lock

    def run() -> StateChanges:
        from robustness.reference.states import state_changes

        return state_changes(
            measurement, reference, anatomy, text_blocks=number, every_layer=every_layer
        )

    how = f"states of {number} text blocks, {choice}{', every layer' * every_layer}"
    return _remembered(measurement.store, candidate, reference, StateChanges, run, what=how)


def _remembered(
    store: "Store",
    candidate: Candidate,
    reference: "Checkpoint",
    kind: type[F],
    find: Callable[[], F],
    *,
    what: str,
) -> F:
    """What was found of this pair, once."""

    def look(_: object) -> "Record":
        found = find().model_dump(mode="json")
        candidate.checkpoint.require_unchanged()
        reference.require_unchanged()
        return found

    versions = library_versions()
    key = {"location": LOCATION, "of": what, "reference": reference.identity, "versions": versions}
    (record,) = store.obtain([key], look)
    return kind.model_validate_json(json.dumps(record))
