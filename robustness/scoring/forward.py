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
from robustness.scoring.distributions import Distributions
from robustness.scoring.divergence import divergences, in_short

LOGITS_BYTES = 128 * 1024**2
"""Bound on the float32 logits that exist at a time."""

_SOFTMAX_BYTES = 8 * 1024**2
"""Logits that are turned into likelihoods at a time on a processor: about what its cache holds."""


Read = Callable[[Tensor, slice, Tensor], Tensor]
"""Makes something of some positions' logits, (n, V), which these are, and their targets, (n,)."""


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
        return np.array([nll.sum() for nll in self.token_nll_nats(blocks)], dtype=np.float64)

    def token_nll_nats(self, blocks: Sequence[ScoredBlock]) -> list[NDArray[np.float64]]:
        """Negative log-likelihoods of each block's scored tokens, in nats, B arrays of (n,)."""
        return _by_block(
            blocks, self._read(blocks, lambda logits, _, targets: _nll(logits, targets))
        )

    def predictions(self, blocks: Sequence[ScoredBlock]) -> list[NDArray[np.int64]]:
        """The most probable token at each block's scored positions, B arrays of shape (n,).

        Of equally probable tokens it is the one with the lowest number.

        Raises:
            MeasurementError: if a logit is NaN.
        """
        predictions = self._read(blocks, lambda logits, *_: _most_probable(logits))
        return [tokens.astype(np.int64) for tokens in _by_block(blocks, predictions)]

    def with_distributions(
        self, blocks: Sequence[ScoredBlock], seed: int
    ) -> list[tuple[float, Distributions]]:
        """NLL of each block in nats, and its distributions in short, in one pass.

        The ``seed`` is that of the sample of what is left out of them.
        """
        parts: list[Distributions] = []

        def read(logits: Tensor, at: slice, targets: Tensor) -> Tensor:
            parts.append(in_short(logits, seed + at.start))
            return _nll(logits, targets)

        nll = _by_block(blocks, self._read(blocks, read))
        rows = Distributions.joined(parts).rows([len(block.positions) for block in blocks])
        return [(float(values.sum()), row) for values, row in zip(nll, rows, strict=True)]

    def compared(
        self, blocks: Sequence[ScoredBlock], reference: Sequence[Distributions]
    ) -> list[NDArray[np.float64]]:
        """How a model differs from a reference at each block's scored positions, B arrays (n, 4).

        The columns are the NLL in nats, the most probable token, the KL divergence from the
        reference's distribution in nats, and what is lost of that: see
        :func:`robustness.scoring.divergence.divergences`.
        """
        rows = Distributions.joined(reference)

        def read(logits: Tensor, at: slice, targets: Tensor) -> Tensor:
            own = (_nll(logits, targets), _most_probable(logits))
            columns = torch.stack([column.cpu().double() for column in own], 1)
            return torch.cat([columns, divergences(rows.between(at), logits)], 1)

        return _by_block(blocks, self._read(blocks, read))

    def _read(self, blocks: Sequence[ScoredBlock], read: Read) -> NDArray[np.float64]:
        """What is read of every scored position's logits, shape (N, …)."""
        device = next(self.model.parameters()).device
        rows = np.repeat(np.arange(len(blocks)), [len(block.positions) for block in blocks])
        columns = np.concatenate([head_columns(block) for block in blocks])
        targets = torch.from_numpy(np.concatenate([block.targets for block in blocks])).to(device)
        keep = (torch.from_numpy(rows).to(device), torch.from_numpy(columns).to(device))
        with torch.inference_mode():
            result = self._in_slices(self._batch(blocks, device), keep, targets, read)
        values: NDArray[np.float64] = result.cpu().double().numpy()  # MPS knows no float64
        return values

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
        read: Read,
    ) -> Tensor:
        """What is read of every scored position, shape (N, …), in slices of bounded logits."""
        hidden, logits = self._logits(inputs, keep, self.most_positions)
        size = len(logits)
        if size < len(targets) and self._head_is_last is None:
            self._head_is_last = torch.equal(self._head(hidden[:, :size])[0], logits)
        if size < len(targets) and not self._head_is_last:
            # The model changes its logits behind the head (a soft cap, say): it must do so for all
            # of them.
            logits = self._logits(inputs, keep, len(targets))[1]
            return read(logits, slice(0, len(targets)), targets)
        parts = [read(logits, slice(0, size), targets[:size])]
        for start in range(size, len(targets), size):
            at = slice(start, min(start + size, len(targets)))
            parts.append(read(self._head(hidden[:, at])[0], at, targets[at]))
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
        with forward_errors(self.model):
            shifted: NDArray[np.int64]
            shifted = shift_right(self.model, torch.from_numpy(target)[None])[0].numpy()
        return shifted


def shift_right(model: nn.Module, target: Tensor) -> Tensor:
    """What a decoder reads while it produces a target, (B, U): by the model's own rule, if any.

    Raises:
        MeasurementError: It has none, and its config.json does not say what a decoder begins with.
    """
    own: Any = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    if own is not None:
        shifted: Tensor = own(target)
        return shifted
    start = getattr(model.config, "decoder_start_token_id", None)
    if start is None:
        raise MeasurementError(
            f"{type(model).__name__} has no rule for what its decoder reads, and its config.json "
            "sets no decoder_start_token_id: set it as in training"
        )
    return torch.cat([torch.full_like(target[:, :1], int(start)), target[:, :-1]], 1)


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


def _by_block(
    blocks: Sequence[ScoredBlock], values: NDArray[np.float64]
) -> list[NDArray[np.float64]]:
    """Values of all scored positions, (N, …), as those of each block, B arrays of shape (n, …)."""
    return np.split(values, np.cumsum([len(block.positions) for block in blocks])[:-1])


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


def _most_probable(logits: Tensor) -> Tensor:
    """The first of the largest logits of each position, shape (n,)."""
    if bool(logits.isnan().any()):
        raise MeasurementError(
            "the model's logits are not numbers, so it predicts nothing: its weights or "
            "activations overflow or hold NaN"
        )
    return logits.argmax(-1)
