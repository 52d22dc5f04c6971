"""Values of the reference that a candidate has in another place: layers, rows, transposed matrices.

Tensors are matched by the values at a few hundred random places, rows by random projections; what
differs from its own counterpart and equals another one (within `ALIKE`) was moved.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from robustness.reference.findings import GRAVE, Finding
from robustness.reference.tensors import (
    READABLE,
    Comparison,
    Pairs,
    Place,
    entries,
    shape_2d,
    slice_of,
    slices,
)
from robustness.statistics.location import numbered

if TYPE_CHECKING:
    from robustness.checkpoint.weights import TensorInfo

OTHER = 0.3
"""Relative change from which on something may be something else's."""

ALIKE = 0.15
"""Relative distance up to which two tensors or rows are the same, rounded or disturbed a little."""

MOSTLY = 0.8
"""Share of a layer's weights, or of the rows that changed, that says what happened to all."""

PLACES = 512
PROJECTIONS = 16
MOST_ROWS = 512
"""Changed rows of a tensor that are looked for among the reference's, at most."""

Key = tuple[str, str | int]
"""Stack, and the rest of a name (one for the same tensor of all layers) or a layer."""


def suspects(comparisons: Iterable[Comparison]) -> list[Comparison]:
    """Those that have little to do with their counterparts, all zeros aside."""
    return [each for each in comparisons if each.relative > OTHER and each.rows[1].any()]


def held_tensors(pairs: Pairs, changed: Sequence[Comparison]) -> dict[str, Place]:
    """Which tensor of the reference one is, of another layer or within its own, by its name."""
    known = [(Place.of(name), info) for name, info in pairs.all_reference.items()]
    peers: dict[Key, list[tuple[Place, TensorInfo]]] = {}
    for place, info in known:
        if place.layer is not None and info.dtype in READABLE:
            for key in (place.rest, place.layer):
                peers.setdefault((place.stack, key), []).append((place, info))
    found = {}
    for each in changed:
        place, ours = each.pair.place, each.pair.candidate
        if place.layer is None or each.n < PROJECTIONS:
            continue
        at = _places(each.n)
        values = entries(ours, at)
        distance = {
            other: _distance(values, entries(info, at))
            for key in (place.rest, place.layer)
            for other, info in peers[place.stack, key]
            if info.shape == ours.shape
        }
        nearest = min(distance, key=distance.__getitem__)
        if nearest != place and distance[nearest] < min(ALIKE, distance[place] / 3):
            found[each.pair.name] = nearest
    return found


def moved_findings(
    pairs: Pairs, held: Mapping[str, Place]
) -> tuple[list[Finding], set[tuple[str, int | None]]]:
    """What is to be said of them; and the layers that were moved as a whole, by stack."""
    whole = _whole_layers(pairs, held)
    texts = [
        (stack, text)
        for stack, moves in whole.items()
        for text in _moves("layer", moves, what="weights")
    ]
    parts: dict[tuple[str, str], dict[int, int]] = {}
    within: dict[tuple[str, int], dict[str, str]] = {}
    for name, source in held.items():
        place = Place.of(name)
        if place.layer is None or source.layer is None:
            continue
        if source.rest != place.rest:
            within.setdefault((place.stack, place.layer), {})[place.rest] = source.rest
        elif whole.get(place.stack, {}).get(place.layer) != source.layer:
            parts.setdefault((place.stack, place.rest), {})[place.layer] = source.layer
    for (stack, rest), moves in parts.items():
        texts += [(stack, text) for text in _moves("layer", moves, what=rest)]
    findings = [Finding(rank=GRAVE, text=text, stack=stack) for stack, text in texts]
    for (stack, layer), names in within.items():
        found = {_exchange(one, other, names.get(other) == one) for one, other in names.items()}
        findings += [
            Finding(rank=GRAVE, text=text, stack=stack, layer=layer) for text in sorted(found)
        ]
    return findings, {(stack, layer) for stack, moves in whole.items() for layer in moves}


def _whole_layers(pairs: Pairs, held: Mapping[str, Place]) -> dict[str, dict[int, int]]:
    """By stack, the layers most of whose weights are another layer's, and which one's."""
    sizes: dict[tuple[str, int], int] = {}
    moved: dict[tuple[str, int], dict[int, int]] = {}
    for pair in pairs.pairs:
        place, source = pair.place, held.get(pair.name)
        if place.layer is None or len(pair.reference.shape) < 2:
            continue
        its, n = (place.stack, place.layer), pair.reference.n_elements
        sizes[its] = sizes.get(its, 0) + n
        if source is not None and source.layer is not None and source.rest == place.rest:
            votes = moved.setdefault(its, {})
            votes[source.layer] = votes.get(source.layer, 0) + n
    whole: dict[str, dict[int, int]] = {}
    for (stack, layer), votes in moved.items():
        of = max(votes, key=votes.__getitem__)
        if votes[of] > MOSTLY * sizes[stack, layer]:
            whole.setdefault(stack, {})[layer] = of
    return whole


def _exchange(one: str, other: str, is_mutual: bool) -> str:
    if not is_mutual:
        return f"{one} holds the values of the reference's {other}"
    return f"{min(one, other)} and {max(one, other)} hold each other's values"


def _moves(noun: str, moves: Mapping[int, int], *, what: str, of: str = "") -> list[str]:
    """Say which numbers, ``of`` something, hold which others' values."""
    texts, left = [], dict(sorted(moves.items()))
    for n, other in list(left.items()):
        if left.get(other) == n and n in left:
            texts.append(f"{numbered(noun, sorted((n, other)))}{of} hold each other's {what}")
            del left[n], left[other]
    while left:
        first, other = next(iter(left.items()))
        run = [first]
        while left.get(run[-1] + 1) == run[-1] + 1 + other - first:
            run.append(run[-1] + 1)
        others = numbered(noun, [n + other - first for n in run])
        verb = "hold" if len(run) > 1 else "holds"
        texts.append(f"{numbered(noun, run)}{of} {verb} the {what} of the reference's {others}")
        left = {n: other for n, other in left.items() if n not in run}
    return texts


def is_transposed(each: Comparison) -> bool:
    """Whether a square matrix is the reference's on its side."""
    shape = each.pair.reference.shape
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] < 2:
        return False
    at = _places(each.n)
    mirrored = at % shape[0] * shape[0] + at // shape[0]
    values = entries(each.pair.candidate, at)
    own = _distance(values, entries(each.pair.reference, at))
    return _distance(values, entries(each.pair.reference, mirrored)) < min(ALIKE, own / 3)


def row_finding(each: Comparison) -> Finding | None:
    """Rows that hold other rows' values: swapped, shifted, or in any other order."""
    place, (n_rows, width) = each.pair.place, shape_2d(each.pair.reference)
    difference, ours, theirs, _ = each.rows
    changed = np.flatnonzero((difference > OTHER**2 * theirs) & (ours > 0))
    if width < 2 or len(changed) in (0, n_rows == 1):
        return None
    looked_at = changed[np.linspace(0, len(changed) - 1, min(len(changed), MOST_ROWS)).astype(int)]
    moves = _matched_rows(each, looked_at)
    if len(moves) < MOSTLY * len(looked_at):
        return None
    shifts, counts = np.unique([n - of for n, of in moves.items()], return_counts=True)
    name = place.rest
    if len(moves) > 2 and counts.max() > MOSTLY * len(moves):
        shift = int(shifts[counts.argmax()])
        text = f"rows {changed[0]} to {changed[-1]} of {name} are shifted by {shift:+d}"
    elif len(moves) <= 4 and len(looked_at) == len(changed):
        text = "; ".join(_moves("row", moves, what="values", of=f" of {name}"))
    else:
        text = f"{len(changed)} rows of {name} hold other rows' values"
    return Finding(rank=GRAVE, text=text, stack=place.stack, layer=place.layer)


def _matched_rows(each: Comparison, looked_at: NDArray[np.int64]) -> dict[int, int]:
    """The reference's row that equals each row, where that is another one."""
    n_rows, width = shape_2d(each.pair.reference)
    project = np.random.default_rng(0).standard_normal((width, PROJECTIONS))
    theirs = np.zeros((n_rows, PROJECTIONS))
    for start, stop in slices(each.pair.reference):
        theirs[start:stop] = slice_of(each.pair.reference, start, stop).astype(np.float64) @ project
    squares = (theirs**2).sum(axis=1)
    moves = {}
    for row in looked_at.tolist():
        ours = slice_of(each.pair.candidate, row, row + 1)[0].astype(np.float64) @ project
        whole = float(ours @ ours)
        distance = squares - 2 * theirs @ ours + whole
        nearest = int(np.nan_to_num(distance, nan=np.inf).argmin())
        if nearest != row and distance[nearest] < ALIKE**2 * whole:
            moves[row] = nearest
    return moves


def _places(n: int) -> NDArray[np.int64]:
    """Random places of a tensor of n entries, the same for all of this size."""
    return np.sort(np.random.default_rng(n).integers(0, n, min(n, PLACES)))


def _distance(c: NDArray[np.float64], r: NDArray[np.float64]) -> float:
    """Relative to the second; infinite where that is zero."""
    whole = float(np.linalg.norm(r))
    return float(np.nan_to_num(np.linalg.norm(c - r), nan=np.inf)) / whole if whole else np.inf
