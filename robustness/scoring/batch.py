"""Rows as one padded batch: the keyword arguments of a model's forward pass."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from robustness.scoring.block import ScoredBlock

ShiftRight = Callable[[NDArray[np.int64]], NDArray[np.int64]]


def model_inputs(
    blocks: Sequence[ScoredBlock], *, pad_id: int, shift_right: ShiftRight
) -> dict[str, NDArray[np.generic]]:
    """Inputs of one batch, padded on the right to the longest row.

    Args:
        blocks: rows of one sort.
        pad_id: any token id; padding is masked out, or lies behind everything that is scored.
        shift_right: what the model's decoder reads while it produces a target, shapes (U,).
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
    asked = np.zeros((len(blocks), most, length), dtype=np.float32)  # (B, n, T)
    for row, block in enumerate(blocks):
        assert block.hidden is not None
        unseen[row, :, : len(block.ids)] = block.hidden
        asked[row, np.arange(len(block.positions)), block.positions] = 1
    return {"perm_mask": unseen, "target_mapping": asked}
