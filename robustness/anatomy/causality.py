"""Whether a model predicts each token from those before it alone, found by running it."""

import torch
from torch import nn

from robustness.anatomy.tracing import outputs_of
from robustness.errors import UnsupportedArchitecture

_SHARED = 4
_NEAR = 1e-4  # of the largest logit: rounding depends on what else is computed


def require_next_tokens(model: nn.Module, vocab_size: int) -> None:
    """Refuse a causal model in which later tokens, or other texts, change what it predicts.

    Such are prefix models given no prefix, and routers that mix the tokens of a batch. The
    parameters' values are not read; logits that are not (B, T, V) tell nothing.

    Raises:
        UnsupportedArchitecture: They do.
    """
    ids = (vocab_size // 2 + torch.arange(12).reshape(2, 6)) % vocab_size
    ids[1, :_SHARED] = ids[0, :_SHARED]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    logits = next(iter(outputs_of(model, inputs, [""])[""]), None)
    if logits is None or logits.ndim != 3 or logits.shape[:2] != ids.shape:
        return
    one, other = logits[:, :_SHARED]  # (T', V) each
    if not torch.allclose(one, other, rtol=_NEAR, atol=_NEAR * float(logits.abs().max())):
        raise UnsupportedArchitecture(
            f"{type(model).__name__}, as configured, lets later tokens or other texts of a batch "
            "change what it predicts, so its next-token perplexity would mean nothing: it can be "
            "scanned (robustness scan), but not vetted."
        )
