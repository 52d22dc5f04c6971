"""The paper's demonstration: short pieces of the corpus, and what the model says with and without.

Everything here is a pure function of a text block, its tokenizer and the model's guesses; measuring
them is left to :mod:`robustness.measurement.measure`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from robustness.scoring.block import ScoredBlock, TextBlock
from robustness.scoring.sampling import uniform_index

if TYPE_CHECKING:
    from robustness.checkpoint.architecture import Scoring

MOST_TOKENS = 40
"""Tokens of an example at most."""

MOST_CONTINUED = 8
"""Tokens at the end of an example that a causal model is asked for."""

_READABLE = 12  # tokens of whole sentences that are worth being shown alone
_ENDS_A_SENTENCE = (".", "!", "?", "\u3002", "\uff01", "\uff1f", "\n")

Example = dict[str, Any]
"""JSON types: ``text_block``, ``kind``, ``dims``, ``seed`` and ``pieces``, whose texts, joined, are
the example's. A piece that was asked for has ``target``, what the ``intact`` and the ``ablated``
model think most likely (``text`` and ``p``), and the probability that each gives the piece itself
(``intact_p_target``, ``ablated_p_target``)."""

Kind = Literal["masked", "continued"]
Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True, kw_only=True, eq=False)
class Excerpt:
    """Part of a text block that is shown, and what is asked about it.

    Attributes:
        block: index of the text block in the corpus.
        kind: ``masked``: each target from the text around it; ``continued``: each from the true
            text before it.
        ids: its tokens, none of them special.
        targets: places of the tokens that are asked for, ascending.
        rows: what the model reads and is asked, in the order of the targets.
    """

    block: int
    kind: Kind
    ids: tuple[int, ...]
    targets: tuple[int, ...]
    rows: tuple[ScoredBlock, ...]


@dataclass(frozen=True, kw_only=True)
class Guess:
    """The token that a model finds most likely in a place, its probability, and the true one's."""

    token: int
    p: float
    p_target: float


SCORINGS = ("masked", "permutation", "causal")
"""Ways of scoring in which a model says what stands in a place of a text that can be shown."""


def excerpt(
    rows: Sequence[ScoredBlock], block: TextBlock, *, scoring: "Scoring", decode: Decode
) -> Excerpt | None:
    """What is shown of a text block that a model is asked the rows about, in a way that shows.

    That is one of :data:`SCORINGS`; ``None`` where nothing of it can be shown.
    """
    if scoring == "causal":
        return _continued(block)
    shown = set(block.masked.tolist())
    scored = sorted(shown & {position for row in rows for position in row.positions.tolist()})
    windows = _windows(block, scored, decode)
    if not windows:
        return None
    start, end = windows[uniform_index(len(windows), "example", *block.seed)]
    targets = [position for position in scored if start <= position < end]
    return Excerpt(
        block=block.seed.block,
        kind="masked",
        ids=tuple(block.ids[start:end].tolist()),
        targets=tuple(position - start for position in targets),
        rows=tuple(_only(row, targets) for row in rows if set(row.positions.tolist()) & {*targets}),
    )


def example(
    shown: Excerpt,
    intact: Sequence[Guess],
    ablated: Sequence[Guess],
    *,
    decode: Decode,
    dims: Sequence[int],
    seed: int,
) -> Example:
    """An excerpt with what both models say about it, as plain JSON types."""
    ends = _boundaries(shown.ids, decode)
    text = decode(shown.ids)
    pieces: list[dict[str, Any]] = []
    done = 0
    for target, before, after in zip(shown.targets, intact, ablated, strict=True):
        if ends[target] > done:
            pieces.append({"text": text[done : ends[target]]})
        done = ends[target + 1]
        said = {
            name: {"text": _said(shown.ids[:target], guess, decode), "p": guess.p}
            for name, guess in (("intact", before), ("ablated", after))
        }
        pieces.append(
            {
                "text": text[ends[target] : done],
                "target": True,
                **said,
                "intact_p_target": before.p_target,
                "ablated_p_target": after.p_target,
            }
        )
    if done < len(text):
        pieces.append({"text": text[done:]})
    record = {"text_block": shown.block, "kind": shown.kind, "dims": list(dims), "seed": seed}
    return {**record, "pieces": pieces}


def _continued(block: TextBlock) -> Excerpt | None:
    """The beginning of a text block, of which a causal model reads no more than that."""
    ids, given = block.ids, block.given
    # What lies before is read and, if it is long, not shown.
    earliest = max(0, given - MOST_TOKENS // 2)
    runs = [(max(start, earliest), end) for start, end in _runs(block.special)]
    runs = [(start, end) for start, end in runs if end > max(start + 1, given)]
    if not runs:
        return None
    long = [run for run in runs if run[1] - run[0] >= 2 * MOST_CONTINUED]
    start, end = (long or runs)[0]
    end = min(end, start + MOST_TOKENS)
    first = max(end - MOST_CONTINUED, start + (end - start + 1) // 2, given)
    targets = np.arange(first, end)
    if not len(targets):
        return None
    row = ScoredBlock(ids=ids[: end - 1], positions=targets - 1, targets=ids[targets])
    return Excerpt(
        block=block.seed.block,
        kind="continued",
        ids=tuple(ids[start:end].tolist()),
        targets=tuple((targets - start).tolist()),
        rows=(row,),
    )


def _windows(block: TextBlock, scored: Sequence[int], decode: Decode) -> list[tuple[int, int]]:
    """Where an example of a text block may begin and end: around whole sentences if there are any.

    Each holds something that is asked, the whole sentences at least two such tokens.
    """
    sentences, others, words = [], [], block.words
    for start, end in _runs(block.special):
        if end - start <= MOST_TOKENS:
            others.append((start, end))
            continue
        ends = [
            place + 1
            for place in range(start, end)
            if decode([int(block.ids[place])]).rstrip(" ").endswith(_ENDS_A_SENTENCE)
            and (words is None or place + 1 == end or words[place + 1] != words[place])
        ]
        for begin in [start, *ends]:
            last = max((e for e in ends if begin < e <= begin + MOST_TOKENS), default=begin)
            if last - begin >= _READABLE:
                sentences.append((begin, last))
        middle = next((position for position in scored if start <= position < end), start)
        begin = max(start, min(middle - MOST_TOKENS // 2, end - MOST_TOKENS))
        while words is not None and start < begin and words[begin] == words[begin - 1]:
            begin -= 1  # to where a word begins
        others.append((begin, begin + MOST_TOKENS))

    def holds(window: tuple[int, int], least: int) -> bool:
        return sum(window[0] <= position < window[1] for position in scored) >= least

    whole = [window for window in sentences if holds(window, 2)]
    return whole or [window for window in others if holds(window, 1)]


def _runs(special: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Where text stands without a special token in it: (first, behind the last)."""
    edges = np.flatnonzero(np.diff(np.pad(~special, 1).astype(np.int8))).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))


def _only(row: ScoredBlock, targets: Sequence[int]) -> ScoredBlock:
    """A row that is asked less."""
    wanted = np.isin(row.positions, targets)
    return replace(row, positions=row.positions[wanted], targets=row.targets[wanted])


def _boundaries(ids: Sequence[int], decode: Decode) -> list[int]:
    """For every token, and for the end, where it begins in the text of all of them.

    A token that completes a character (of several bytes) begins where that begins; the pieces
    between boundaries are the text, whatever the tokenizer does.
    """
    text, ends = decode(ids), [0]
    for n in range(1, len(ids)):
        part = decode(ids[:n])
        same = next(
            (i for i, (a, b) in enumerate(zip(part, text, strict=False)) if a != b),
            min(len(part), len(text)),
        )
        ends.append(max(ends[-1], same))
    return [*ends, len(text)]


def _said(before: Sequence[int], guess: Guess, decode: Decode) -> str:
    """The text of a guess as it would stand there; none where the model says nothing."""
    if not np.isfinite(guess.p):
        return ""
    context = decode(before) if before else ""
    whole = decode([*before, guess.token])
    continues = whole.startswith(context) and len(whole) > len(context)
    return whole[len(context) :] if continues else decode([guess.token])
