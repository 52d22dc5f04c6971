"""Forward passes of a model that tells replaced tokens from others (ELECTRA's discriminator)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from robustness.errors import MeasurementError, PolicyError
from robustness.runtime.devices import Dtype
from robustness.scoring.block import ScoredBlock, TextBlock, model_inputs
from robustness.scoring.distributions import Distributions
from robustness.scoring.divergence import divergences, in_short
from robustness.scoring.forward import Scorer
from robustness.scoring.masked import masked_block
from robustness.scoring.replaced import sampled_tokens

if TYPE_CHECKING:
    from robustness.checkpoint.checkpoint import Checkpoint


class Discriminator:
    """A model with one logit per token, in evaluation mode; losses are computed in float64."""

    def __init__(self, model: nn.Module, *, pad_id: int = 0, dtype: Dtype = "float32") -> None:
        self.model = model
        self.pad_id = pad_id
        self.dtype = dtype

    def nll_nats(self, blocks: Sequence[ScoredBlock]) -> NDArray[np.float64]:
        """Summed binary cross-entropy of each row's scored tokens, in nats, shape (B,)."""
        values = self._logits(blocks)
        return np.array(
            [_cross_entropy(values[row][b.positions], b) for row, b in enumerate(blocks)],
            dtype=np.float64,
        )

    def predictions(self, blocks: Sequence[ScoredBlock]) -> list[NDArray[np.int64]]:
        """Whether each scored token is taken for a replaced one, B arrays of shape (n,)."""
        scored = self._scored(blocks)
        return [(logits > 0).astype(np.int64) for logits in scored]

    def with_distributions(
        self, blocks: Sequence[ScoredBlock], seed: int
    ) -> list[tuple[float, Distributions]]:
        """As :meth:`robustness.scoring.forward.Scorer.with_distributions`, of two classes."""
        return [
            (_cross_entropy(logits, block), in_short(_two_classes(logits), seed))
            for block, logits in zip(blocks, self._scored(blocks), strict=True)
        ]

    def compared(
        self, blocks: Sequence[ScoredBlock], reference: Sequence[Distributions]
    ) -> list[NDArray[np.float64]]:
        """As :meth:`robustness.scoring.forward.Scorer.compared`, of two classes."""
        compared = []
        for block, logits, then in zip(blocks, self._scored(blocks), reference, strict=True):
            nll = np.logaddexp(0.0, np.where(block.targets == 1, -logits, logits))
            far = divergences(then, _two_classes(logits)).numpy()
            compared.append(np.column_stack([nll, logits > 0, far]))
        return compared

    def _scored(self, blocks: Sequence[ScoredBlock]) -> list[NDArray[np.float64]]:
        """The logits of each row's scored tokens, B arrays of shape (n,)."""
        values = self._logits(blocks)
        scored = [values[row][block.positions] for row, block in enumerate(blocks)]
        if any(np.isnan(logits).any() for logits in scored):
            raise MeasurementError(
                "the model's logits are not numbers, so it predicts nothing: its weights or "
                "activations overflow or hold NaN"
            )
        return scored

    def _logits(self, blocks: Sequence[ScoredBlock]) -> NDArray[np.float64]:
        """One per token of the rows as one batch, shape (B, T)."""
        device = next(self.model.parameters()).device
        arrays = model_inputs(blocks, pad_id=self.pad_id, shift_right=lambda target: target)
        inputs = {name: torch.from_numpy(value).to(device) for name, value in arrays.items()}
        reduced = torch.autocast(
            device.type, dtype=torch.bfloat16, enabled=self.dtype == "bfloat16"
        )
        with torch.inference_mode(), reduced:
            logits: Any = self.model(**inputs).logits
        if logits.shape != inputs["input_ids"].shape:
            raise MeasurementError(
                f"{type(self.model).__name__} returned logits of shape {tuple(logits.shape)} "
                "instead of one per token"
            )
        values: NDArray[np.float64] = logits.cpu().double().numpy()
        return values


class Sampler:
    """A masked language model that proposes replacements.

    Raises:
        PolicyError: if both do not number their tokens alike.
    """

    def __init__(self, generator: "Checkpoint", *, tokenizer: Any, device: str) -> None:
        own = generator.load_tokenizer()
        if own.get_vocab() != tokenizer.get_vocab():
            raise PolicyError(
                f"generator {generator.reference!r} has another vocabulary than the checkpoint: "
                "name the masked language model that it was trained with"
            )
        self._mask_id: int = own.mask_token_id
        self._scorer = Scorer(generator.load_model(device=device))

    def __call__(self, block: TextBlock) -> NDArray[np.int64]:
        """Tokens for the positions of one text block that are to be replaced, shape (n,)."""
        masked = masked_block(block, mask_id=self._mask_id)
        logits = self._scorer.logits(masked).cpu().double().numpy()
        return sampled_tokens(logits, masked.positions.tolist(), block_seed=block.seed)


def _cross_entropy(logits: NDArray[np.float64], block: ScoredBlock) -> float:
    """-Σ log sigmoid(±logit) over the scored tokens: softplus(-logit) where replaced."""
    signed = np.where(block.targets == 1, -logits, logits)
    return float(np.logaddexp(0.0, signed).sum())


def _two_classes(logits: NDArray[np.float64]) -> torch.Tensor:
    """Logits of an original and of a replaced token, shape (n, 2)."""
    replaced = torch.from_numpy(logits)
    return torch.stack([torch.zeros_like(replaced), replaced], 1)
