"""Negative log-likelihoods of text blocks: masked and causal language modelling.

Logits are formed for scored positions only: a hook in front of the output embedding drops every
other position, so that a (batch x length x vocabulary) tensor never exists, whatever the model
does to its logits afterwards (soft caps, scaling, a bias).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robustness.errors import MeasurementError, UnsupportedArchitecture
from robustness.sampling import masked_positions

Scoring = Literal["masked", "causal"]


@dataclass(frozen=True, kw_only=True)
class ScoredBlock:
    """One text block as the model sees it, and what it is asked.

    Attributes:
        ids: input tokens, shape (T,).
        positions: positions whose logits are scored, shape (n,).
        targets: the token that each of these positions has to predict, shape (n,).
    """

    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    targets: NDArray[np.int64]


def masked_block(
    ids: NDArray[np.int64],
    special: NDArray[np.bool_],
    *,
    mask_id: int,
    seed: int,
    fingerprint: str,
    block: int,
) -> ScoredBlock:
    """Masked LM: 15 % of the non-special tokens, all replaced by the mask token."""
    positions = masked_positions(special, seed=seed, fingerprint=fingerprint, block=block)
    corrupted = ids.copy()
    corrupted[positions] = mask_id
    return ScoredBlock(ids=corrupted, positions=positions, targets=ids[positions])


def causal_block(ids: NDArray[np.int64]) -> ScoredBlock:
    """Causal LM: every token but the first, each predicted from those before it."""
    return ScoredBlock(ids=ids, positions=np.arange(len(ids) - 1), targets=ids[1:])


class Scorer:
    """A model in evaluation mode and what is needed to score text blocks with it.

    Args:
        model: a transformers model with a language-model head.
        pad_id: any token id; padding is masked out.
    """

    def __init__(self, model: nn.Module, *, pad_id: int = 0) -> None:
        getter: Callable[[], object] = getattr(model, "get_output_embeddings", lambda: None)
        head = getter()
        if not isinstance(head, nn.Module):
            raise UnsupportedArchitecture(
                f"{type(model).__name__} has no output embedding, so it has no logits over a "
                "vocabulary and no perplexity; use a checkpoint with a language-model head"
            )
        self.model = model
        self.pad_id = pad_id
        self._head = head

    def nll_nats(self, blocks: Sequence[ScoredBlock]) -> NDArray[np.float64]:
        """Summed negative log-likelihood of each block's scored tokens, in nats, shape (B,).

        All blocks run as one batch, padded on the right to the longest.

        Raises:
            MeasurementError: if the model does not return one row of logits per scored position.
        """
        device = next(self.model.parameters()).device
        rows = np.repeat(np.arange(len(blocks)), [len(block.positions) for block in blocks])
        columns = np.concatenate([block.positions for block in blocks])
        targets = torch.from_numpy(np.concatenate([block.targets for block in blocks])).to(device)
        keep = (torch.from_numpy(rows).to(device), torch.from_numpy(columns).to(device))
        with torch.inference_mode(), self._only(keep):
            logits = self.model(**self._batch(blocks, device), use_cache=False).logits
            logits = logits.reshape(-1, logits.shape[-1])  # (N, V)
            if len(logits) != len(targets):
                raise MeasurementError(
                    f"{type(self.model).__name__} returned logits for {len(logits)} positions "
                    f"instead of the {len(targets)} that were asked for"
                )
            token_nll = torch.logsumexp(logits, -1) - logits.gather(1, targets[:, None])[:, 0]
            per_token = token_nll.double().cpu().numpy()
        summed = np.zeros(len(blocks))
        np.add.at(summed, rows, per_token)
        return summed

    def _batch(self, blocks: Sequence[ScoredBlock], device: torch.device) -> dict[str, Tensor]:
        length = max(len(block.ids) for block in blocks)
        ids = np.full((len(blocks), length), self.pad_id, dtype=np.int64)  # (B, T)
        attended = np.zeros((len(blocks), length), dtype=np.int64)  # (B, T)
        for row, block in enumerate(blocks):
            ids[row, : len(block.ids)] = block.ids
            attended[row, : len(block.ids)] = 1
        return {
            "input_ids": torch.from_numpy(ids).to(device),
            "attention_mask": torch.from_numpy(attended).to(device),
        }

    @contextmanager
    def _only(self, keep: tuple[Tensor, Tensor]) -> Iterator[None]:
        """Let only the scored positions reach the output embedding: (B, T, D) -> (1, N, D)."""

        def drop_the_rest(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            hidden, *rest = args
            return (hidden[keep][None], *rest)

        handle = self._head.register_forward_pre_hook(drop_the_rest)
        try:
            yield
        finally:
            handle.remove()


def micro_batches(lengths: Sequence[int], *, vocab_size: int) -> list[list[int]]:
    """Rows of a chunk grouped into batches: similar lengths together, bounded logits.

    A function of the chunk alone, so that intact and ablated runs, and all workers, form the same
    batches: values move in the last digits with the batch they are computed in.

    Args:
        lengths: tokens of each row.
        vocab_size: width of a row of logits.

    Returns:
        Row indices of each batch, together every row once.
    """
    most = max(1, LOGITS_BYTES // (max(lengths) * vocab_size * 4))
    n_batches = -(-len(lengths) // most)
    size = -(-len(lengths) // n_batches)  # of equal size: a small rest is slow
    order = sorted(range(len(lengths)), key=lambda row: (lengths[row], row))
    return [order[i : i + size] for i in range(0, len(order), size)]


LOGITS_BYTES = 256 * 1024**2
"""Bound on one batch's float32 logits, were all its positions scored."""
