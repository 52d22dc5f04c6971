"""Forward passes: negative log-likelihoods of what a model is asked, batch by batch.

Logits are formed for scored positions only: a hook in front of the output embedding drops every
other position, so that a (batch x length x vocabulary) tensor never exists, whatever the model
does to its logits afterwards (soft caps, scaling, a bias).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robustness.checkpoint.loading import reason
from robustness.errors import MeasurementError, RobustnessError, UnsupportedArchitecture
from robustness.runtime.devices import Dtype, is_out_of_memory
from robustness.scoring.block import ScoredBlock, head_columns, model_inputs

LOGITS_BYTES = 128 * 1024**2
"""Bound on the float32 logits that exist at a time."""

_SOFTMAX_BYTES = 8 * 1024**2
"""Logits that are turned into likelihoods at a time on a processor: about what its cache holds."""


class Scorer:
    """A model with a language-model head, in evaluation mode, that scores text blocks.

    The ``dtype`` is that of matrix products and convolutions, but for the head's: logits are always
    float32. The weights stay as they are and are rounded as they are used, so that processes go on
    sharing one copy of them.
    """

    def __init__(self, model: nn.Module, *, pad_id: int = 0, dtype: Dtype = "float32") -> None:
        getter: Callable[[], object] | None = getattr(model, "get_output_embeddings", None)
        head = None if getter is None else getter() or nn.Identity()  # which is never called
        if not isinstance(head, nn.Module):
            raise UnsupportedArchitecture(
                f"{type(model).__name__} has no output embedding, so it has no logits over a "
                "vocabulary and no perplexity; use a checkpoint with a language-model head"
            )
        self.model = model
        self.pad_id = pad_id
        self.dtype = dtype
        self.most_positions = max(1, LOGITS_BYTES // (4 * _rows(head)))
        self._head = head
        self._head_is_last: bool | None = None  # not known until it matters

    def nll_nats(self, blocks: Sequence[ScoredBlock]) -> NDArray[np.float64]:
        """Summed negative log-likelihood of each block's scored tokens, in nats, shape (B,).

        All blocks run as one batch, padded on the right to the longest.
        """
        rows, token_nll = self._read(blocks, _nll)
        summed = np.zeros(len(blocks))
        np.add.at(summed, rows, token_nll.cpu().double().numpy())  # MPS knows no float64
        return summed

    def predictions(self, blocks: Sequence[ScoredBlock]) -> list[NDArray[np.int64]]:
        """The most probable token at each block's scored positions, B arrays of shape (n,).

        Of equally probable tokens it is the one with the lowest number.

        Raises:
            MeasurementError: if a logit is NaN.
        """
        rows, tokens = self._read(blocks, _most_probable)
        predictions = tokens.cpu().numpy()
        return [predictions[rows == row] for row in range(len(blocks))]

    def _read(
        self, blocks: Sequence[ScoredBlock], read: Callable[[Tensor, Tensor], Tensor]
    ) -> tuple[NDArray[np.int64], Tensor]:
        """What is read of every scored position's logits, and which block it is of, (N,).

        ``read`` makes something of some positions' logits, (n, V), and targets, (n,).
        """
        device = next(self.model.parameters()).device
        rows = np.repeat(np.arange(len(blocks)), [len(block.positions) for block in blocks])
        columns = np.concatenate([head_columns(block) for block in blocks])
        targets = torch.from_numpy(np.concatenate([block.targets for block in blocks])).to(device)
        keep = (torch.from_numpy(rows).to(device), torch.from_numpy(columns).to(device))
        with torch.inference_mode():
            return rows, self._in_slices(self._batch(blocks, device), keep, targets, read)

    def logits(self, block: ScoredBlock) -> Tensor:
        """Logits of one row's scored positions, shape (n, V)."""
        device = next(self.model.parameters()).device
        columns = torch.from_numpy(head_columns(block)).to(device)
        keep = (torch.zeros_like(columns), columns)
        with torch.inference_mode():
            return self._logits(self._batch([block], device), keep, len(columns))[1]

    def _in_slices(
        self,
        inputs: dict[str, Tensor],
        keep: tuple[Tensor, Tensor],
        targets: Tensor,
        read: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        """What is read of every scored position, shape (N,), in slices of bounded logits."""
        hidden, logits = self._logits(inputs, keep, self.most_positions)
        size = len(logits)
        parts = [read(logits, targets[:size])]
        if size < len(targets):
            if self._head_is_last is None:
                self._head_is_last = torch.equal(self._head(hidden[:, :size])[0], logits)
            if not self._head_is_last:
                # The model changes its logits behind the head (a soft cap, say): it must do so
                # for all of them.
                return read(self._logits(inputs, keep, len(targets))[1], targets)
            for start in range(size, len(targets), size):
                logits = self._head(hidden[:, start : start + size])[0]
                parts.append(read(logits, targets[start : start + size]))
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
            if args[0].ndim != 3:
                return args
            scored.append(args[0][keep][None].float())  # (B, T, D) -> (1, N, D)
            return (scored[0][:, :most], *args[1:])

        handle = self._head.register_forward_pre_hook(only_scored)
        try:
            with self._precision(), forward_errors(self.model):
                logits = self.model(**inputs, use_cache=False).logits
        finally:
            handle.remove()
        if not scored and logits.ndim == 3:  # (B, T, V) of a head that was read in another way
            return logits[keep][None], logits[keep].float()
        logits = logits.reshape(-1, logits.shape[-1])  # (n, V)
        wanted = min(most, len(keep[0]))
        if not scored or len(logits) != wanted:
            raise MeasurementError(
                f"{type(self.model).__name__} returned logits for {len(logits)} positions "
                f"instead of the {wanted} that were asked for"
            )
        return scored[0], logits

    @contextmanager
    def _precision(self) -> Iterator[None]:
        """Reduced precision everywhere but in the head, if this is what the scorer measures in."""
        if self.dtype == "float32":
            yield
            return
        device = next(self.model.parameters()).device.type
        head = ExitStack()

        def enter(*_: object) -> None:
            head.enter_context(torch.autocast(device, enabled=False))

        def leave(*_: object) -> None:
            head.close()

        with ExitStack() as hooks, torch.autocast(device, dtype=getattr(torch, self.dtype)), head:
            hooks.callback(self._head.register_forward_pre_hook(enter).remove)
            hooks.callback(self._head.register_forward_hook(leave).remove)
            yield

    def _batch(self, blocks: Sequence[ScoredBlock], device: torch.device) -> dict[str, Tensor]:
        inputs = model_inputs(blocks, pad_id=self.pad_id, shift_right=self._shift_right)
        return {name: torch.from_numpy(value).to(device) for name, value in inputs.items()}

    def _shift_right(self, target: NDArray[np.int64]) -> NDArray[np.int64]:
        """What the decoder reads while it produces a target, by the model's own rule, (U,)."""
        shift: Any = self.model.prepare_decoder_input_ids_from_labels
        with forward_errors(self.model):
            shifted: NDArray[np.int64] = shift(torch.from_numpy(target)[None])[0].numpy()
        return shifted


@contextmanager
def forward_errors(model: nn.Module) -> Iterator[None]:
    """Turn what a model's own code raises into one sentence.

    Raises:
        MeasurementError: instead of anything but a lack of memory.
    """
    try:
        yield
    except (RobustnessError, MemoryError):
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise MeasurementError(
            f"a forward pass of {type(model).__name__} failed ({type(error).__name__}: "
            f"{reason(error)}): its config.json lacks or contradicts something, or the model takes "
            "other text blocks than these"
        ) from error


def _rows(head: nn.Module) -> int:
    """Size of the vocabulary that an output embedding chooses from; 1 where it does not say."""
    weight = getattr(head, "weight", None)
    return int(weight.shape[0]) if isinstance(weight, Tensor) else 1


def _nll(logits: Tensor, targets: Tensor) -> Tensor:
    """-log softmax(logits)[target], shape (n,); a few rows at a time, since exp makes a copy.

    On an accelerator all at once: there small slices cost more in launches than they save.
    """
    most = _SOFTMAX_BYTES if logits.device.type == "cpu" else LOGITS_BYTES
    rows = max(1, most // (4 * logits.shape[-1]))
    nll = []
    for start in range(0, len(logits), rows):
        part, wanted = logits[start : start + rows], targets[start : start + rows]
        nll.append(torch.logsumexp(part, -1) - part.gather(1, wanted[:, None])[:, 0])
    return torch.cat(nll)


def _most_probable(logits: Tensor, _: Tensor) -> Tensor:
    """The first of the largest logits of each position, shape (n,)."""
    if bool(logits.isnan().any()):
        raise MeasurementError(
            "the model's logits are not numbers, so it predicts nothing: its weights or "
            "activations overflow or hold NaN"
        )
    return logits.argmax(-1)
