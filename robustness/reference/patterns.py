"""Suspicious patterns in the weights of a candidate, each by a general mechanism, in words."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustness.reference.findings import BROKEN, EVERYWHERE, GRAVE, PARTLY, Finding
from robustness.reference.grids import Grid, grid
from robustness.reference.rearranged import (
    OTHER,
    held_tensors,
    is_transposed,
    moved_findings,
    row_finding,
    suspects,
)
from robustness.reference.tensors import Comparison, Pairs, Place
from robustness.statistics.location import numbered, percent

FEW = 4
"""Entries of a vector at most that are named one by one."""

PRUNED = 0.005
"""Share of entries that are zero from which on that is said, if it explains most of the change."""

FACTOR = 0.01
"""A factor between two tensors counts from this far from 1 on."""

COARSE_BITS = 6
"""Up to so many bits rounding is suspicious."""

ALL = 0.9
"""Share of the dense layers that counts as all of them."""


def findings(
    pairs: Pairs, comparisons: Sequence[Comparison], *, head_size: int | None
) -> tuple[list[Finding], list[Finding]]:
    """What looks like damage, and how the numbers were rewritten where that harms little."""
    changed = sorted((c for c in comparisons if c.relative > 0), key=lambda each: -each.n)
    held = held_tensors(pairs, suspects(changed))
    moved, whole = moved_findings(pairs, held)
    damage, unexplained = [*_other_layers(pairs), *moved], []
    grids = {each: its for each in changed if not each.broken and (its := grid(each.pair))}
    coarse = {each: its for each, its in grids.items() if its.bits <= COARSE_BITS}
    norms = _norms(pairs)
    for each in changed:
        place = each.pair.place
        if each.pair.name in held or (place.stack, place.layer) in whole:
            continue
        found = list(_of_one(each, norms, None if each in coarse else head_size or 0))
        damage += found
        unexplained += [] if found else [each]
    n_dense = sum(map(_is_dense, comparisons))
    pruned = [each for each in unexplained if _is_pruned(each)]
    damage += _pruned([c for c in pruned if c not in coarse or _is_two_of_four(c)], n_dense)
    damage += _rounded(coarse, n_dense)
    fine = {each: its for each, its in grids.items() if each not in coarse}
    return damage, [*_formats(changed), *_rounded(fine, n_dense)]


def _of_one(each: Comparison, norms: frozenset[str], head_size: int | None) -> Iterator[Finding]:
    """What is found in a single tensor, the first that explains it.

    Without a size of heads, rows and columns that are zero may come from rounding.
    """
    place = each.pair.place

    def of(rank: int, text: str) -> Finding:
        return Finding(rank=rank, text=text, stack=place.stack, layer=place.layer)

    if each.broken:
        few = "one entry" if each.broken == 1 else f"{each.broken} entries"
        be = "is" if each.broken == 1 else "are"
        yield of(BROKEN, f"{few} of {place.rest} {be} not finite")
    elif not each.rows[1].any():
        yield of(GRAVE, f"{place.rest} is all zero")
    elif _is_flat(each):
        yield of(PARTLY, f"{place.rest} has one value everywhere")
    elif each.relative > OTHER and is_transposed(each):
        yield of(GRAVE, f"{place.rest} is transposed")
    elif texts := _few_entries(each, norms) or _zero_bands(each, head_size):
        yield from (of(PARTLY, text) for text in texts)
    elif (moved := row_finding(each)) is not None:
        yield moved
    elif (factor := _factor(each)) is not None:
        yield of(PARTLY, f"{place.rest} is {factor:.3g} times the reference's")


def _other_layers(pairs: Pairs) -> Iterator[Finding]:
    """Layers that one of the two does not have."""
    ours, theirs = (
        {(place.stack, place.layer) for place in map(Place.of, names) if place.layer is not None}
        for names in (
            [*pairs.only_candidate, *pairs.misfits, *(pair.name for pair in pairs.pairs)],
            [*pairs.only_reference, *pairs.misfits, *(pair.name for pair in pairs.pairs)],
        )
    )
    for missing, text in ((theirs - ours, "is missing"), (ours - theirs, "is new")):
        for stack in sorted({stack for stack, _ in missing} & {s for s, _ in ours & theirs}):
            layers = sorted(n for other, n in missing if other == stack and n is not None)
            words = text if len(layers) == 1 else text.replace("is", "are")
            yield Finding(rank=GRAVE, text=f"{numbered('layer', layers)} {words}", stack=stack)


def _norms(pairs: Pairs) -> frozenset[str]:
    """Modules of which there are only vectors, as far as the names tell."""
    shapes: dict[str, set[int]] = {}
    for pair in pairs.pairs:
        shapes.setdefault(pair.name.rpartition(".")[0], set()).add(len(pair.reference.shape))
    return frozenset(module for module, axes in shapes.items() if axes == {1})


def _is_flat(each: Comparison) -> bool:
    """Whether all entries of a vector have become one number, but for its sign."""
    ours, theirs = each.rows[1], each.rows[2]
    is_vector = len(each.pair.reference.shape) == 1 and each.n > 4 * FEW
    return is_vector and bool(np.ptp(ours) == 0 < np.ptp(theirs))


def _few_entries(each: Comparison, norms: frozenset[str]) -> list[str]:
    """Single entries of a vector that make up nearly all of its change."""
    if len(each.pair.reference.shape) != 1 or each.n <= 4 * FEW:
        return []
    difference, ours, theirs, product = each.rows
    most = np.sort(np.argsort(difference)[::-1][:FEW])
    typical = np.median(theirs)
    clear = [n for n in most if difference[n] > 0.01 * max(theirs[n], typical)]
    if difference[clear].sum() < 0.99 * difference.sum():
        return []
    module, _, leaf = each.pair.place.rest.rpartition(".")
    kind = "bias" if leaf in ("bias", "beta") else "scale"
    is_norm = each.pair.name.rpartition(".")[0] in norms
    what = f"norm {kind}" if is_norm else kind if kind == "bias" else f"{leaf} entry"
    by_change: dict[str, list[int]] = {}
    for n in clear:
        ratio = product[n] / theirs[n] if theirs[n] else math.inf
        change = f"{ratio:.3g} times the reference's" if math.isfinite(ratio) else "not zero"
        by_change.setdefault("zero" if not ours[n] else change, []).append(int(n))
    return [
        f"{numbered(what, numbers).replace('biass', 'biases')} of {module or leaf} "
        f"{'is' if len(numbers) == 1 else 'are'} {change}"
        for change, numbers in by_change.items()
    ]


def _zero_bands(each: Comparison, head_size: int | None) -> list[str]:
    """Whole rows or columns that are zero and were not; runs as long as heads are named so."""
    shape = each.pair.reference.shape
    if len(shape) != 2 or min(shape) < 2 or head_size is None or not _is_gone(each):
        return []
    _, ours, theirs, _ = each.rows
    rows = np.flatnonzero((ours == 0) & (theirs > 0.01 * np.median(theirs)))
    columns = np.flatnonzero(each.columns[1] & ~each.columns[0])
    texts = []
    for noun, zero, total in (("row", rows, len(ours)), ("column", columns, each.columns.shape[1])):
        if not len(zero):
            continue
        heads = _heads(zero, head_size, total)
        name = f" (head{'s' * (len(heads) > 1)} {', '.join(map(str, heads))})" if heads else ""
        runs = np.split(zero, np.flatnonzero(np.diff(zero) > 1) + 1)
        few = numbered(noun, [int(n) for n in zero]) if len(runs) == 1 or len(zero) <= 8 else ""
        words = few or f"{len(zero)} {noun}s"
        be = "is" if len(zero) == 1 else "are"
        texts.append(f"{words}{name} of {each.pair.place.rest} {be} zero")
    return texts


def _heads(zero: NDArray[np.int64], size: int | None, total: int) -> list[int]:
    """The heads that these rows or columns are, if they are whole ones."""
    if not size or size < 2 or total % size or len(zero) % size:
        return []
    heads = sorted({int(n) // size for n in zero})
    return heads if len(heads) * size == len(zero) else []


def _factor(each: Comparison) -> float | None:
    """What the reference's tensor is multiplied by, where that is all that happened."""
    _, ours, theirs, product = each.rows.sum(axis=1)
    if each.n <= 4 * FEW or not theirs or not product:
        return None
    factor = float(product / theirs)
    left = math.sqrt(max(0.0, ours - product * factor)) / math.sqrt(ours)
    far = abs(factor - 1)
    return factor if far > FACTOR and left < 0.1 * min(far, 1.0) else None


def _is_dense(each: Comparison) -> bool:
    return len(each.pair.reference.shape) == 2 and each.pair.place.layer is not None


def _is_gone(each: Comparison) -> bool:
    """Whether most of the change is that entries are zero."""
    return each.zeroed_square > 0.5 * float(each.rows[0].sum())


def _is_pruned(each: Comparison) -> bool:
    return each.zeroed > PRUNED * each.n and _is_gone(each) and len(each.pair.reference.shape) > 1


def _pruned(pruned: Sequence[Comparison], n_dense: int) -> Iterator[Finding]:
    """Entries that are zero and were not, in each tensor or all dense layers."""
    dense = [each for each in pruned if _is_dense(each)]
    is_all = bool(dense) and len(dense) >= ALL * n_dense
    if is_all:
        shares = [each.zeroed / each.n for each in dense]
        low, high = min(shares), max(shares)
        how = percent(sum(shares) / len(shares))
        if high - low > 0.02:
            how = f"{100 * low:.0f} to {100 * high:.0f} %"
        two = " (two of every four)" if all(map(_is_two_of_four, dense)) else ""
        text = f"{how} of the entries of all dense layers{two} are zero"
        yield Finding(rank=EVERYWHERE, text=text)
    for each in pruned:
        if not (is_all and _is_dense(each)):
            two = " (two of every four)" if _is_two_of_four(each) else ""
            share = percent(each.zeroed / each.n)
            text = f"{share} of the entries of {each.pair.place.rest}{two} are zero"
            yield _placed(each, EVERYWHERE, text)


def _is_two_of_four(each: Comparison) -> bool:
    return each.quads >= 0.99 * each.n / 4 and each.zeroed < 0.6 * each.n


def _rounded(found: Mapping[Comparison, Grid], n_dense: int) -> Iterator[Finding]:
    """Tensors whose values lie on a coarse grid."""
    alike: dict[Grid, list[Comparison]] = {}
    for each, its in sorted(found.items(), key=lambda pair: -pair[1].bits):
        # Not all of a tensor is looked at, nor all levels used: one bit less is the same.
        more = Grid(bits=its.bits + 1, per=its.per)
        alike.setdefault(more if more in alike else its, []).append(each)
    for its, group in alike.items():
        words = f"rounded to about {its.bits} bits per {its.per}"
        is_all = sum(map(_is_dense, group)) >= ALL * n_dense > 0
        if is_all:
            yield Finding(rank=EVERYWHERE, text=f"all dense layers are {words}")
        for each in group:
            if not (is_all and _is_dense(each)):
                yield _placed(each, EVERYWHERE, f"{each.pair.place.rest} is {words}")


def _formats(changed: Sequence[Comparison]) -> Iterator[Finding]:
    """A format that explains all that changed."""
    forms = set.intersection(*(set(each.forms) for each in changed)) if changed else set()
    for form in ("float32", "float16", "bfloat16"):
        if form in forms:
            text = f"all that differs is how {form} rounds the values"
            yield Finding(rank=EVERYWHERE, text=text)
            return


def _placed(each: Comparison, rank: int, text: str) -> Finding:
    place = each.pair.place
    return Finding(rank=rank, text=text, stack=place.stack, layer=place.layer)


def head_size(config: Any) -> int | None:
    """Features of an attention head, by what transformers calls it in every config."""
    size, n_heads = getattr(config, "head_dim", None), getattr(config, "num_attention_heads", None)
    if isinstance(size, int):
        return size
    hidden = getattr(config, "hidden_size", None)
    return hidden // n_heads if isinstance(hidden, int) and isinstance(n_heads, int) else None
