"""Rows of a forward pass: the tokens that a model sees, what it is asked, and rows as one batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustness.scoring.sampling import BlockSeed, masked_positions

ShiftRight = Callable[[NDArray[np.int64]], NDArray[np.int64]]


@dataclass(frozen=True, kw_only=True, eq=False)
class TextBlock:
    """A text block of a corpus.

    Attributes:
        ids: its tokens, shape (T,).
        special: true at special tokens, for which no model is asked, shape (T,).
        seed: what its random choices depend on.
        words: number of the word that each token belongs to, shape (T,), if that is known.
        given: tokens at the beginning that a causal model is not asked for.
    """

    ids: NDArray[np.int64]
    special: NDArray[np.bool_]
    seed: BlockSeed
    words: NDArray[np.int64] | None = None
    given: int = 1

    @property
    def masked(self) -> NDArray[np.int64]:
        """Positions that masked scoring masks, ascending."""
        return masked_positions(self.special, block_seed=self.seed)


@dataclass(frozen=True, kw_only=True)
class ScoredBlock:
    """One text block as the model sees it, and what it is asked.

    Attributes:
        ids: input tokens, shape (T,).
        positions: positions whose logits are scored, shape (n,): of the input, or of the decoder's
            target where there is one.
        targets: the token that each of these positions has to predict, shape (n,).
        decoder_target: sequence-to-sequence models: the tokens that the decoder is to produce,
            teacher-forced, shape (U,).
        hidden: permutation models: true at input tokens that no position may look at, shape (T,).
    """

    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    targets: NDArray[np.int64]
    decoder_target: NDArray[np.int64] | None = None
    hidden: NDArray[np.bool_] | None = None

    @property
    def length(self) -> int:
        """Tokens of the input, or of the decoder's target if that is longer."""
        return max(len(self.ids), 0 if self.decoder_target is None else len(self.decoder_target))


@dataclass(frozen=True, kw_only=True, eq=False)
class PlannedChunk:
    """All that a model is asked about the text blocks of a chunk, each in one or several rows.

    Attributes:
        rows: what it is asked.
        owner: place in the chunk of the text block that each row is about, shape (rows,).
        n_blocks: text blocks of the chunk.
    """

    rows: tuple[ScoredBlock, ...]
    owner: NDArray[np.int64]
    n_blocks: int

    @classmethod
    def of(cls, groups: Sequence[Sequence[ScoredBlock]]) -> "PlannedChunk":
        """Put the rows of each text block one after the other."""
        return cls(
            rows=tuple(row for group in groups for row in group),
            owner=np.repeat(np.arange(len(groups)), [len(group) for group in groups]),
            n_blocks=len(groups),
        )

    @property
    def tokens(self) -> NDArray[np.int64]:
        """Scored tokens of each text block, shape (n_blocks,)."""
        counts = np.zeros(self.n_blocks, dtype=np.int64)
        np.add.at(counts, self.owner, [len(row.targets) for row in self.rows])
        return counts

    def by_row(self, values: NDArray[Any]) -> list[NDArray[Any]]:
        """Values of all scored positions, (N, …), as those of each row."""
        return np.split(values, np.cumsum([len(row.positions) for row in self.rows])[:-1])

    def summed(self, by_row: Sequence[float]) -> NDArray[np.float64]:
        """Sums over the rows about each text block, shape (n_blocks,)."""
        sums = np.zeros(self.n_blocks)
        np.add.at(sums, self.owner, by_row)
        return sums


def causal_block(ids: NDArray[np.int64], *, given: int = 1) -> ScoredBlock:
    """Every token of a text block but those ``given``, each predicted from those before it."""
    return ScoredBlock(ids=ids, positions=np.arange(given - 1, len(ids) - 1), targets=ids[given:])


def model_inputs(
    blocks: Sequence[ScoredBlock], *, pad_id: int, shift_right: ShiftRight
) -> dict[str, NDArray[np.generic]]:
    """Inputs of one batch of rows of one sort, padded on the right to the longest.

    Padding is masked out, or lies behind everything that is scored. ``shift_right`` gives what the
    model's decoder reads while it produces a target.
    """
    length = max(len(block.ids) for block in blocks)
    ids = np.full((len(blocks), length), pad_id, dtype=np.int64)  # (B, T)
    attended = np.zeros((len(blocks), length), dtype=np.int64)  # (B, T)
    for row, block in enumerate(blocks):
        ids[row, : len(block.ids)] = block.ids
        attended[row, : len(block.ids)] = 1
    inputs: dict[str, NDArray[np.generic]] = {"input_ids": ids, "attention_mask": attended}
    if blocks[0].decoder_target is not None:
        inputs["decoder_input_ids"] = _decoder_input(blocks, pad_id, shift_right)
    if blocks[0].hidden is not None:
        inputs |= _permutation(blocks, length)
    return inputs


def head_columns(block: ScoredBlock) -> NDArray[np.int64]:
    """Where the output embedding meets the scored positions, shape (n,).

    A permutation model forms features of the positions it is asked for alone.
    """
    return block.positions if block.hidden is None else np.arange(len(block.positions))


def _decoder_input(
    blocks: Sequence[ScoredBlock], pad_id: int, shift_right: ShiftRight
) -> NDArray[np.int64]:
    targets = [block.decoder_target for block in blocks]
    rows = [shift_right(target) for target in targets if target is not None]
    ids = np.full((len(rows), max(map(len, rows))), pad_id, dtype=np.int64)  # (B, U)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)] = tokens  # a decoder is causal: padding behind is never seen
    return ids


def _permutation(blocks: Sequence[ScoredBlock], length: int) -> dict[str, NDArray[np.generic]]:
    """Who may look at whom, and which positions are predicted (Yang et al. 2019, XLNet)."""
    most = max(len(block.positions) for block in blocks)
    unseen = np.zeros((len(blocks), length, length), dtype=np.float32)  # (B, looking, looked at)
    predicted = np.zeros((len(blocks), most, length), dtype=np.float32)  # (B, n, T)
    for row, block in enumerate(blocks):
        assert block.hidden is not None
        unseen[row, :, : len(block.ids)] = block.hidden
        predicted[row, np.arange(len(block.positions)), block.positions] = 1
    return {"perm_mask": unseen, "target_mapping": predicted}
