"""Pairs of tensors of two checkpoints, compared slice by slice from their files."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robustness.checkpoint.skeleton import map_names
from robustness.checkpoint.tensor_values import read_values
from robustness.checkpoint.weights import TensorInfo, read_tensors
from robustness.errors import CheckpointError

if TYPE_CHECKING:
    from robustness.checkpoint.checkpoint import Checkpoint

Array = NDArray[np.floating[Any]]

SLICE = 1 << 20
"""Values of each tensor in memory at a time, unless a single row has more."""

READABLE = ("F64", "F32", "F16", "BF16")
FORMS = ("bfloat16", "float16", "float32")

_LAYER = re.compile(r"(?:^|\.)(\d+)\.")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A tensor of the candidate and the reference's of the same name."""

    name: str
    candidate: TensorInfo
    reference: TensorInfo

    @property
    def place(self) -> "Place":
        """Where its name puts it."""
        return Place.of(self.name)


@dataclass(frozen=True, kw_only=True)
class Place:
    """What a name says: ``encoder.layer.``, 3, ``output.dense.weight``; no number, no layer."""

    stack: str
    layer: int | None
    rest: str

    @classmethod
    def of(cls, name: str) -> "Place":
        """The place of a tensor; the first number that stands alone is the layer's."""
        found = _LAYER.search(name)
        if found is None:
            return cls(stack="", layer=None, rest=name)
        return cls(stack=name[: found.start(1)], layer=int(found[1]), rest=name[found.end() :])


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """All tensors of two checkpoints, by the names that their model has for them.

    Attributes:
        pairs: tensors of one name and shape, of plain numbers.
        only_candidate: names of the others that only the candidate has.
        only_reference: that only the reference has.
        misfits: names whose tensors differ in shape, or hold codes.
        all_reference: the reference's tensors by name, paired or not.
    """

    pairs: tuple[Pair, ...]
    only_candidate: tuple[str, ...]
    only_reference: tuple[str, ...]
    misfits: tuple[str, ...]
    all_reference: Mapping[str, TensorInfo]


def paired(candidate: "Checkpoint", reference: "Checkpoint") -> Pairs:
    """Pair the tensors of two checkpoints, whatever prefix or older names their files use."""
    ours, theirs = read_tensors(candidate.folder), read_tensors(reference.folder)
    if ours.keys() != theirs.keys():
        ours, theirs = _named(candidate, ours), _named(reference, theirs)
        theirs = _without_prefix(theirs, ours)
    pairs, misfits = [], []
    for name, info in ours.items():
        if (other := theirs.get(name)) is None:
            continue
        if info.shape == other.shape and {info.dtype, other.dtype} <= {*READABLE}:
            pairs.append(Pair(name=name, candidate=info, reference=other))
        elif info.shape != other.shape or info.dtype != other.dtype:
            misfits.append(name)
    used = {info.name for name, info in ours.items() if name in theirs}
    other_used = {info.name for name, info in theirs.items() if name in ours}
    return Pairs(
        pairs=_once(pairs),
        only_candidate=tuple(dict.fromkeys(i.name for i in ours.values() if i.name not in used)),
        only_reference=tuple(
            dict.fromkeys(i.name for i in theirs.values() if i.name not in other_used)
        ),
        misfits=tuple(misfits),
        all_reference=theirs,
    )


def _named(checkpoint: "Checkpoint", tensors: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """Its tensors by the model's names, tied ones under each; others keep the files' names."""
    names = map_names(checkpoint.skeleton(), tensors)
    if names is None:
        return dict(tensors)
    known = {name: tensors[stored] for name, stored in names.stored.items()}
    used = {info.name for info in known.values()}
    return {**known, **{name: info for name, info in tensors.items() if name not in used}}


def _without_prefix(
    tensors: Mapping[str, TensorInfo], others: Mapping[str, TensorInfo]
) -> dict[str, TensorInfo]:
    """Tensors by the others' names where all that differs is what stands before them."""
    missing = others.keys() - tensors.keys()
    renamed = {}
    for name, info in tensors.items():
        alike = [
            other
            for other in (missing if name not in others else ())
            if other.endswith(f".{name}") or name.endswith(f".{other}")
        ]
        renamed[alike[0] if len(alike) == 1 else name] = info
    return renamed


def _once(pairs: list[Pair]) -> tuple[Pair, ...]:
    """Tied tensors once, under their first name."""
    return tuple(
        {(pair.candidate.name, pair.reference.name): pair for pair in pairs[::-1]}.values()
    )[::-1]


@dataclass(kw_only=True, eq=False)
class Comparison:
    """What one pass over a pair finds; sums are float64.

    Attributes:
        pair: what is compared.
        equal: to the bit, in the same dtype.
        rows: per row (of a vector: per entry) of ‖difference‖², ‖candidate‖², ‖reference‖² and
            their product, shape (4, rows).
        broken: entries that are not finite, where the reference's are.
        zeroed: entries that are zero, where the reference's are not.
        zeroed_square: of the reference's entries there.
        columns: true where a column of the candidate holds anything but zeros, and the same of the
            reference, shape (2, columns).
        quads: groups of four entries in a row of which the candidate has two zeros or more.
        forms: formats in which one of the two is the other, rounded.
    """

    pair: Pair
    equal: bool = False
    rows: NDArray[np.float64] = field(default_factory=lambda: np.zeros((4, 0)))
    broken: int = 0
    zeroed: int = 0
    zeroed_square: float = 0.0
    columns: NDArray[np.bool_] = field(default_factory=lambda: np.zeros((2, 0), dtype=np.bool_))
    quads: int = 0
    forms: tuple[str, ...] = FORMS

    @property
    def relative(self) -> float:
        """‖candidate - reference‖ / ‖reference‖, infinite where that is no number."""
        if self.equal:
            return 0.0
        difference, _, whole, _ = self.rows.sum(axis=1)
        if self.broken or (not whole and difference):
            return float("inf")
        return float(np.sqrt(difference / whole)) if whole else 0.0

    @property
    def n(self) -> int:
        """Entries."""
        return self.pair.reference.n_elements


def compared(pair: Pair) -> Comparison:
    """Compare two tensors, in slices of bounded memory."""
    ours, theirs = pair.candidate, pair.reference
    result = Comparison(pair=pair)
    n_rows, width = shape_2d(theirs)
    if not theirs.n_elements:
        return replace(result, equal=True)
    result.rows, result.columns = np.zeros((4, n_rows)), np.zeros((2, width), dtype=np.bool_)
    equal = ours.dtype == theirs.dtype
    for start, stop in slices(theirs):
        c, r = slice_of(ours, start, stop), slice_of(theirs, start, stop)
        if equal and np.array_equal(c, r):
            wide = c.astype(np.float64)
            square = np.einsum("ij,ij->i", wide, wide)
            result.rows[1:, start:stop] = square
            result.columns |= (c != 0).any(axis=0)
            continue
        equal = False
        result.forms = tuple(form for form in result.forms if _is_rounded(c, r, form))
        _gather(result, c.astype(np.float64), r.astype(np.float64), start, stop)
    return replace(result, equal=equal)


def _gather(result: Comparison, c: Array, r: Array, start: int, stop: int) -> None:
    """Add the sums of a slice."""
    broken, known = ~np.isfinite(c), np.isfinite(r)
    result.broken += int((broken & known).sum())
    c, r = np.where(broken | ~known, 0, c), np.where(broken | ~known, 0, r)
    d = c - r
    for row, (a, b) in enumerate(((d, d), (c, c), (r, r), (c, r))):
        result.rows[row, start:stop] = np.einsum("ij,ij->i", a, b)
    result.columns[0] |= (c != 0).any(axis=0)
    result.columns[1] |= (r != 0).any(axis=0)
    gone = (c == 0) & (r != 0)
    if gone.any():
        result.zeroed += int(gone.sum())
        result.zeroed_square += float((r[gone] ** 2).sum())
        if r.shape[1] % 4 == 0:
            result.quads += int(((c == 0).reshape(-1, 4).sum(axis=1) >= 2).sum())


def shape_2d(info: TensorInfo) -> tuple[int, int]:
    """Rows and columns: a vector is a column, what has more axes than two is flattened."""
    rows = info.shape[0] if info.shape else 1
    return rows, info.n_elements // max(1, rows)


def slices(info: TensorInfo) -> Iterator[tuple[int, int]]:
    """First and last row of each slice."""
    n_rows, width = shape_2d(info)
    step = max(1, SLICE // max(1, width))
    return ((start, min(n_rows, start + step)) for start in range(0, n_rows, step))


def slice_of(info: TensorInfo, start: int, stop: int) -> Array:
    """Some rows, shape (rows, columns), as `read_values` reads them."""
    part = info.rows(start, stop) if info.shape else info
    return read_values(part).reshape(stop - start, -1)


def entries(info: TensorInfo, flat: NDArray[np.int64]) -> NDArray[np.float64]:
    """Single entries by their number in the file's order, without reading the rest."""
    kinds = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
    try:
        stored = np.memmap(
            info.file, kinds[info.dtype], "r", offset=info.offset, shape=(info.n_elements,)
        )
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{info.file} cannot be read: {error}.") from error
    picked = np.asarray(stored[flat])
    if info.dtype == "BF16":
        picked = (picked.astype(np.uint32) << 16).view(np.float32)
    return picked.astype(np.float64)


def _is_rounded(c: Array, r: Array, form: str) -> bool:
    """Whether one of two slices is the other in a format."""
    return np.array_equal(c, rounded(r, form)) or np.array_equal(rounded(c, form), r)


def rounded(values: Array, form: str) -> Array:
    """Values to the nearest number that a format has."""
    with np.errstate(over="ignore", invalid="ignore"):
        single = values.astype(np.float32)
        if form == "float16":
            return single.astype(np.float16).astype(np.float32)
    if form == "float32":
        return single
    bits = single.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).view(np.float32)


def usual_stack(pairs: tuple[Pair, ...]) -> str:
    """What stands before the layers' numbers in most names; they need no further name."""
    counts = Counter(pair.place.stack for pair in pairs if pair.place.layer is not None)
    return counts.most_common(1)[0][0] if counts else ""
