"""Forward passes: negative log-likelihoods of what a model is asked, batch by batch.

Logits are formed for scored positions only: a hook in front of the output embedding drops every
other position, so that a (batch x length x vocabulary) tensor never exists, whatever the model
does to its logits afterwards (soft caps, scaling, a bias).
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robustness.errors import MeasurementError, UnsupportedArchitecture
from robustness.scoring import ScoredBlock
from robustness.scoring.batch import head_columns, model_inputs

LOGITS_BYTES = 256 * 1024**2
"""Bound on the float32 logits that exist at a time."""


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
        self.most_positions = max(1, LOGITS_BYTES // (4 * _rows(head)))
        self._head = head

    def nll_nats(self, blocks: Sequence[ScoredBlock]) -> NDArray[np.float64]:
        """Summed negative log-likelihood of each block's scored tokens, in nats, shape (B,).

        All blocks run as one batch, padded on the right to the longest.

        Raises:
            MeasurementError: if the model does not return one row of logits per scored position.
        """
        device = next(self.model.parameters()).device
        rows = np.repeat(np.arange(len(blocks)), [len(block.positions) for block in blocks])
        columns = np.concatenate([head_columns(block) for block in blocks])
        targets = torch.from_numpy(np.concatenate([block.targets for block in blocks])).to(device)
        keep = (torch.from_numpy(rows).to(device), torch.from_numpy(columns).to(device))
        with torch.inference_mode():
            token_nll = self._token_nll(self._batch(blocks, device), keep, targets)
        summed = np.zeros(len(blocks))
        np.add.at(summed, rows, token_nll.cpu().double().numpy())  # MPS knows no float64
        return summed

    def logits(self, block: ScoredBlock) -> Tensor:
        """Logits of one row's scored positions, shape (n, V)."""
        device = next(self.model.parameters()).device
        columns = torch.from_numpy(head_columns(block)).to(device)
        keep = (torch.zeros_like(columns), columns)
        with torch.inference_mode():
            return self._logits(self._batch([block], device), keep, len(columns))[1]

    def _token_nll(
        self, inputs: dict[str, Tensor], keep: tuple[Tensor, Tensor], targets: Tensor
    ) -> Tensor:
        """Negative log-likelihood of each scored token, shape (N,), in slices of bounded logits."""
        hidden, logits = self._logits(inputs, keep, self.most_positions)
        size = len(logits)
        parts = [_nll(logits, targets[:size])]
        if size < len(targets):
            if not torch.equal(self._head(hidden[:, :size])[0], logits):
                # The model changes its logits behind the head (a soft cap, say): it must do so
                # for all of them.
                return _nll(self._logits(inputs, keep, len(targets))[1], targets)
            for start in range(size, len(targets), size):
                logits = self._head(hidden[:, start : start + size])[0]
                parts.append(_nll(logits, targets[start : start + size]))
        return torch.cat(parts)

    def _logits(
        self, inputs: dict[str, Tensor], keep: tuple[Tensor, Tensor], most: int
    ) -> tuple[Tensor, Tensor]:
        """Head inputs of all scored positions, (1, N, D), and logits of the first, (n <= most, V).

        Raises:
            MeasurementError: if the model does not return one row of logits per position.
        """
        scored: list[Tensor] = []

        def only_scored(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            scored.append(args[0][keep][None])  # (B, T, D) -> (1, N, D)
            return (scored[0][:, :most], *args[1:])

        handle = self._head.register_forward_pre_hook(only_scored)
        try:
            logits = self.model(**inputs, use_cache=False).logits
        finally:
            handle.remove()
        logits = logits.reshape(-1, logits.shape[-1])  # (n, V)
        wanted = min(most, len(keep[0]))
        if not scored or len(logits) != wanted:
            raise MeasurementError(
                f"{type(self.model).__name__} returned logits for {len(logits)} positions "
                f"instead of the {wanted} that were asked for"
            )
        return scored[0], logits

    def _batch(self, blocks: Sequence[ScoredBlock], device: torch.device) -> dict[str, Tensor]:
        inputs = model_inputs(blocks, pad_id=self.pad_id, shift_right=self._shift_right)
        return {name: torch.from_numpy(value).to(device) for name, value in inputs.items()}

    def _shift_right(self, target: NDArray[np.int64]) -> NDArray[np.int64]:
        """What the decoder reads while it produces a target, by the model's own rule, (U,)."""
        shift: Any = self.model.prepare_decoder_input_ids_from_labels
        shifted: NDArray[np.int64] = shift(torch.from_numpy(target)[None])[0].numpy()
        return shifted


def _rows(head: nn.Module) -> int:
    """Size of the vocabulary that an output embedding chooses from; 1 where it does not say."""
    weight = getattr(head, "weight", None)
    return int(weight.shape[0]) if isinstance(weight, Tensor) else 1


def _nll(logits: Tensor, targets: Tensor) -> Tensor:
    """-log softmax(logits)[target], shape (n,)."""
    return torch.logsumexp(logits, -1) - logits.gather(1, targets[:, None])[:, 0]


def micro_batches(
    lengths: Sequence[int], *, vocab_size: int, most_rows: int = 16
) -> list[list[int]]:
    """Rows of a chunk grouped into batches: similar lengths together, bounded logits.

    A function of the chunk alone, so that intact and ablated runs, and all workers, form the same
    batches: values move in the last digits with the batch they are computed in.

    Args:
        lengths: tokens of each row.
        vocab_size: width of a row of logits.
        most_rows: bound on the rows of a batch, and so on hidden states, however many rows a
            text block is asked about in.

    Returns:
        Row indices of each batch, together every row once.
    """
    most = min(most_rows, max(1, LOGITS_BYTES // (max(lengths) * vocab_size * 4)))
    n_batches = -(-len(lengths) // most)
    size = -(-len(lengths) // n_batches)  # of equal size: a small rest is slow
    order = sorted(range(len(lengths)), key=lambda row: (lengths[row], row))
    return [order[i : i + size] for i in range(0, len(order), size)]
